"""The Python interface: read runs and metrics as tables, write runs without a collector.

``from hpctrack import Client`` is where it begins; docs/python.md walks through it.
"""

from hpctrack.api.client import Client
from hpctrack.api.experiment import Experiment
from hpctrack.api.run import Run, Runs

__all__ = ["Client", "Experiment", "Run", "Runs"]
