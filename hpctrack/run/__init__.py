"""What a run is: its states, its names, conditions on it, what is reckoned from it. Pure."""
