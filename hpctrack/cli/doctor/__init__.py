"""What `hpctrack doctor` looks at."""
