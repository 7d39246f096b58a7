"""What a run is: its states, its names, conditions on it, what is computed from it. Pure."""
