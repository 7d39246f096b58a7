"""What submissions, scripts, people and the reconciler write."""
