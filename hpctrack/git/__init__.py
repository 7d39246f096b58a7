"""The git repository that a submission comes from, read without starting anything of it."""
