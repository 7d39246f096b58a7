"""Commands of hpctrack as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

from hpctrack.stream.collector import launch

#: For ``python -c``.
PROGRAM = "from hpctrack.cli import main; main.main()"


def environment(settings) -> dict[str, str]:
    """Return the environment of commands with these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HPCTRACK_")}
    return {**inherited, **launch.environment(settings), "PYTHONPATH": os.pathsep.join(sys.path)}


def hpctrack(settings, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in the data folder."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env=environment(settings), cwd=settings.data_dir, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
