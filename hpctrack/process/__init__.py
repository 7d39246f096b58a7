"""How processes of ours are started, and what they are called."""
