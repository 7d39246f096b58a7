"""The git repository of a submission, read without running any program that it names."""
