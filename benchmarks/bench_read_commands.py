"""Whole commands: what a person waits for before anything is asked of PostgreSQL."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.result import Result, processes


def measure() -> Iterator[Result]:
    """Measure ``hpctrack --help`` beside a bare interpreter."""
    program = "from hpctrack.cli.main import main; main()"
    bare, ours = processes([[sys.executable, "-c", "pass"], [sys.executable, "-c", program, "--help"]])
    yield Result("read.help", ours, "ms", bare, target=4)
