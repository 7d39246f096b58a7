"""What runs on a compute node: the supervisor and the relay."""
