"""Submission: sbatch's command line read, the script wrapped, the user's own sbatch run."""
