"""Commands of hpctrack as processes of their own."""

from __future__ import annotations

import os
import sys

from hpctrack.stream.collector import launch

#: For ``python -c``.
PROGRAM = "from hpctrack.cli import main; main.main()"


def environment(settings) -> dict[str, str]:
    """Return the environment of commands with these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HPCTRACK_")}
    return {**inherited, **launch.environment(settings), "PYTHONPATH": os.pathsep.join(sys.path)}
