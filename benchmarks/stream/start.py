"""The start of a tracked script on its node: how much later it begins, and what sits beside it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.result import ENVIRON, Result
from hpctrack import resources

#: What the names of its results begin with.
RESULTS = ("stream.start",)

ROUNDS = 15
_BEGUN = "#!/bin/sh\ndate +%s%N > begun\n"
#: Runs a program as the interpreter would, and notes each file that it and its forks open.
_NOTING = """
import os, runpy, sys
notes = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
sys.addaudithook(lambda event, arguments: event == "open" and os.write(notes, f"{arguments[0]}\\n".encode()))
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_WAITING = "#!/bin/sh\nexec sleep 5\n"


def measure() -> Iterator[Result]:
    """Measure with the wrapper's own two steps: the probe, then the supervisor."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        plain, tracked = [], []
        for _ in range(ROUNDS + 1):
            plain.append(_begin(folder, ["sh", "plain.sh"], _BEGUN))
            tracked.append(_begin(folder, _wrapped(folder), _BEGUN))
        added = statistics.median(tracked[1:]) - statistics.median(plain[1:])
        yield Result("stream.start.added", added, "ms", target=100)
        yield Result(
            "stream.start.pss", _resident(folder), "MB", target=30, note="supervisor, relay, sentinels"
        )
        yield Result(
            "stream.start.files", _opened(folder), "files", note="Python's own included, and the journals"
        )


def _wrapped(folder: Path) -> list[str]:
    main = Path(resources.PACKAGE) / "stream" / "__main__.py"
    python = [sys.executable, "-I", "-S", str(main)]
    supervise = [*python, "supervise", "--spool", str(folder / "spool"), "--node-dir", str(folder),
                 "--flush", "0.1", "--script-line", "1", "--", "plain.sh"]  # fmt: skip
    return ["sh", "-c", '"$1" "$2" "$3" "$4" --probe && exec "$@"', "sh", *supervise]


def _environ(folder: Path) -> dict[str, str]:
    return {**ENVIRON, "SLURM_JOB_ID": "1", "SLURM_CLUSTER_NAME": "bench", "HOME": str(folder)}


def _begin(folder: Path, command: list[str], script: str) -> float:
    """Return the milliseconds from the start of a command to the script's first act."""
    (folder / "plain.sh").write_text(script)
    (folder / "plain.sh").chmod(0o700)
    began = time.time_ns()
    subprocess.run(command, cwd=folder, env=_environ(folder), check=True, capture_output=True)
    return (int((folder / "begun").read_text()) - began) / 1e6


def _opened(folder: Path) -> int:
    """Return how many different files supervisor and relay open until the script has ended."""
    (folder / "plain.sh").write_text(_BEGUN)
    python, *flags_and_rest = _wrapped(folder)[4:]
    flags, program = flags_and_rest[:2], flags_and_rest[2:]
    notes = folder / "opened"
    subprocess.run(
        [python, *flags, "-c", _NOTING, str(notes), *program],
        cwd=folder, env=_environ(folder), check=True, capture_output=True,
    )  # fmt: skip
    paths = notes.read_text().splitlines()
    return len({path for path in paths if not path.isdecimal() and not path.startswith(("/proc/", "/sys/"))})


def _resident(folder: Path) -> float:
    """Return the proportional set size of everything of ours beside a running script."""
    (folder / "plain.sh").write_text(_WAITING)
    process = subprocess.Popen(_wrapped(folder), cwd=folder, env=_environ(folder))
    time.sleep(2.5)
    total = 0
    for pid in (process.pid, *_children(process.pid)):
        if b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(rollup.partition("\nPss:")[2].split()[0])
    process.wait()
    return total / 1024


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
