"""From log() to a row that SQL shows: script, journal, relay, datagram, collector, commit."""

from __future__ import annotations

import bisect
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.result import ENVIRON, Result, quantile
from benchmarks.site import Site, personal
from hpctrack.stream.collector import launch

#: What the names of its results begin with.
RESULTS = ("stream.visible",)

RATE = 2000
_SECONDS = 12
#: The first rows arrive once the relay has introduced itself.
_WARM = 2 * RATE
_SCRIPT = f"""
import time, hpctrack
begin = time.time()
for step in range({RATE * _SECONDS}):
    wait = begin + step / {RATE} - time.time()
    if wait > 0:
        time.sleep(wait)
    hpctrack.log(step=step, sent=time.time(), a=0.5, b=0.25, c=1.5, d=2.5)
"""
_PROGRAM = "from hpctrack.cli import main; main.main()"


def measure() -> Iterator[Result]:
    """Measure a script of five values a row."""
    with personal() as site, site.collector():
        seen = _watch(site)
        with contextlib.closing(site.connect()) as connection:
            rows = connection.execute("SELECT step, sent FROM metrics ORDER BY step").fetchall()
    if len(rows) != RATE * _SECONDS:
        raise RuntimeError(f"{len(rows)} rows arrived")
    steps = [step for step, _ in seen]
    late = [1000 * (seen[bisect.bisect_left(steps, step)][1] - sent) for step, sent in rows[_WARM:]]
    note = f"{RATE} rows/s"
    yield Result("stream.visible.p50", quantile(late, 0.5), "ms", target=150, note=note)
    yield Result("stream.visible.p99", quantile(late, 0.99), "ms", target=500, note=note)


def _watch(site: Site) -> list[tuple[int, float]]:
    """Run the script; return up to which step SQL showed its rows, and since when."""
    settings = {name: value for name, value in launch.environment(site.settings).items() if value}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "run", "--", sys.executable, "-c", _SCRIPT],
        env={**ENVIRON, **settings, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )
    seen: list[tuple[int, float]] = []
    query = "SELECT run_id, step FROM metrics ORDER BY run_id DESC, step DESC LIMIT 1"
    with contextlib.closing(site.connect()) as connection:
        while not seen or seen[-1][0] < RATE * _SECONDS - 1:
            rows = connection.execute(query).fetchone()
            now = time.time()
            if rows and (not seen or rows[1] > seen[-1][0]):
                seen.append((int(str(rows[1])), now))
            elif process.poll():
                raise RuntimeError("the script failed")
            time.sleep(0.005)
    process.wait()
    return seen
