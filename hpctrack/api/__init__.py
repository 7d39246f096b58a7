"""The Python interface: read runs and metrics as tables, write runs without a collector.

It begins with ``from hpctrack import Client``; docs/python.md has examples.
"""

from hpctrack.api.client import Client
from hpctrack.api.experiment import Experiment
from hpctrack.api.run import Run, Runs

__all__ = ["Client", "Experiment", "Run", "Runs"]
