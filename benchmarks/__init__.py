"""Benchmarks: each promise with a number, measured beside its floor in the same run."""
