"""The script's side: what ``import hpctrack`` and ``hpctrack.log()`` cost the user's own program."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.result import ENVIRON, Result, processes, quantile

#: What the names of its results begin with.
RESULTS = ("script.import", "script.log")

CALLS = 20_000
#: Runs in a process of its own, as a tracked script does; prints nanoseconds, floor and ours in turn.
_LOG = f"""
import json, os, sys, time
import hpctrack
from hpctrack.script import journal_lines
folder = os.environ["HPCTRACK_RUN_DIR"]
values = {{"loss": 0.123456789, "accuracy": 0.98123, "lr": 1e-4, "norm": 3.25, "val/loss": 2.5}}
line = journal_lines.format_row(values, step=123456, time=time.time())
bare = os.open(os.path.join(folder, "bare"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
clock = time.perf_counter_ns
floor, ours = [], []
for step in range({CALLS} + 1000):
    a = clock()
    os.write(bare, line)
    b = clock()
    hpctrack.log(step=step, loss=0.123456789, accuracy=0.98123, lr=1e-4, norm=3.25, valloss=2.5)
    c = clock()
    floor.append(b - a)
    ours.append(c - b)
json.dump([floor[1000:], ours[1000:]], sys.stdout)
"""


def measure() -> Iterator[Result]:
    """Measure the import and the call."""
    yield from _import()
    yield from _log()


def _import() -> Iterator[Result]:
    bare, ours = processes(
        [[sys.executable, "-c", "pass"], [sys.executable, "-c", "import hpctrack; hpctrack.log"]]
    )
    listed = (
        "import sys; old = set(sys.modules); import hpctrack; hpctrack.log; print(*set(sys.modules) - old)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", listed], check=True, capture_output=True, text=True, env=ENVIRON
    ).stdout.split()
    note = f"{len(modules)} modules: {' '.join(sorted(modules))}"
    yield Result("script.import", ours - bare, "ms", target=15, note=note)


def _log() -> Iterator[Result]:
    import json

    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o700)
        job = os.environ.get("SLURM_JOB_ID", "")
        variables = {
            "HPCTRACK_RUN_DIR": folder,
            "HPCTRACK_SPOOL_DIR": folder + "/spool",
            "HPCTRACK_JOB_ID": job,
        }
        output = subprocess.run(
            [sys.executable, "-c", _LOG], check=True, capture_output=True, env={**ENVIRON, **variables}
        ).stdout
    floor, ours = ([nanoseconds / 1000 for nanoseconds in column] for column in json.loads(output))
    yield Result("script.log.median", statistics.median(ours), "us", statistics.median(floor), target=6)
    yield Result("script.log.p99", quantile(ours, 0.99), "us", quantile(floor, 0.99), target=15)
