"""Commands that end at once: how long after their end a run is complete in PostgreSQL."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.result import ENVIRON, Result
from hpctrack import settings as configuration
from hpctrack.store import database, embedded
from hpctrack.stream.collector import launch

if TYPE_CHECKING:
    from hpctrack.settings import Settings

#: What the names of its results begin with.
RESULTS = ("stream.brief",)

_PAUSES = (0.0, 0.4, 0.9)
_ROUNDS = 9
_PROGRAM = "from hpctrack.cli import main; main.main()"
_COMPLETE = "SELECT count(*) FROM runs r JOIN metrics m ON m.run_id = r.id WHERE r.status = 'COMPLETED'"
_PATIENCE = 60.0


def measure() -> Iterator[Result]:
    """Measure the very first command, which makes the database, then others with a warm collector."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        settings = configuration.Settings(data_dir=os.path.join(name, "data"), collector_bind="127.0.0.1")
        try:
            first = _run(settings, Path(name), 0.0, 1)
            yield Result("stream.brief.first", first, "s", note="initdb, server and collector included")
            late = [
                _run(settings, Path(name), pause, 2 + len(_PAUSES) * index + place)
                for index in range(_ROUNDS)
                for place, pause in enumerate(_PAUSES)
            ]
        finally:
            launch.stop(settings)
            embedded.stop(settings)
    yield Result("stream.brief.median", statistics.median(late), "s", note=f"{len(late)} commands")
    yield Result("stream.brief.longest", max(late), "s", target=1.0)


def _run(settings: Settings, folder: Path, pause: float, number: int) -> float:
    """Run a command that logs once; return the seconds from its end until so many runs are complete."""
    script = f'echo "step=1 loss=1" >> "$HPCTRACK_JOURNAL"; sleep {pause}; date +%s.%N > ended'
    subprocess.run(
        [sys.executable, "-c", _PROGRAM, "run", "--", "sh", "-c", script],
        env={**ENVIRON, **launch.environment(settings)},
        cwd=folder,
        check=True,
    )
    deadline = time.monotonic() + _PATIENCE
    with database.connect(settings, autocommit=True) as connection:
        while connection.execute(_COMPLETE).fetchone() != (number,):
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {number} never became complete")
            time.sleep(0.01)
    return time.time() - float((folder / "ended").read_text())
