"""``hpctrack export`` of 20 million rows of metrics into Parquet: how much memory that takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.api import metrics
from benchmarks.result import ENVIRON, Result
from benchmarks.site import Site, personal
from hpctrack.stream.collector import launch

#: What the names of its results begin with.
RESULTS = ("cli.export",)

ROWS = 20_000_000
RUNS = 10
_PROGRAM = "from hpctrack.cli import main; main.main()"


def measure() -> Iterator[Result]:
    """Export a database of 20 million rows."""
    with personal() as site:
        runs = [metrics.fill(site, ROWS // RUNS, every=10) for _ in range(RUNS)]
        began = time.monotonic()
        peak = _export(site, runs, Path(site.settings.data_dir) / "runs.parquet")
        speed = ROWS / (time.monotonic() - began)
    note = f"resident, {ROWS:,} rows of {len(metrics.NAMES)} metrics into Parquet"
    yield Result("cli.export.peak", peak, "MB", target=300, note=note)
    yield Result("cli.export.rows", speed, "rows/s")


def _export(site: Site, runs: Sequence[int], path: Path) -> float:
    """Return the most memory that the command had resident (VmHWM of proc(5)), in MB."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "export", *(f"r{run}" for run in runs), "--to", path],
        env={**ENVIRON, **launch.environment(site.settings), "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=site.settings.data_dir,
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    while process.poll() is None:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(match[1]) / 1024 if match else 0.0)
        time.sleep(0.05)
    out, _ = process.communicate()
    if f"{ROWS:,} rows" not in out:
        raise RuntimeError(f"exported: {out!r}")
    return peak
