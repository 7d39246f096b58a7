"""What is done to texts of anybody's: secrets masked, commands made visible, names that were meant. Pure."""
