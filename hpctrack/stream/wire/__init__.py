"""What crosses disk and network: journals, datagrams, submission records."""
