"""An ``sbatch`` on PATH that hands over to ``hpctrack sbatch``, such as a user's own in ``~/bin``.

It would call itself without end. So a process that runs sbatch for a submission marks itself, and a process
with such a mark above it, which its own sbatch has started, runs the next sbatch on PATH with the arguments
that it was given.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.process import process_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MARK = "hpct-sbatch"


def mark() -> None:
    """Say that this process runs sbatch for a submission."""
    process_name.mark(_MARK)


def is_inside() -> bool:
    """Whether a process above this one has said so."""
    return _depth() > 0


def program(environ: Mapping[str, str]) -> str:
    """Return which sbatch to run: the first on PATH, or behind those that led here the next one.

    Raises `errors.CommandNotFound` if there is none.
    """
    depth = _depth()
    if not depth:
        return "sbatch"
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    programs = [
        path for path in (Path(folder or ".") / "sbatch" for folder in folders) if os.access(path, os.X_OK)
    ]
    different = list({path.resolve(): str(path) for path in reversed(programs)}.values())[::-1]
    if depth >= len(different):
        raise errors.CommandNotFound("each sbatch on PATH calls hpctrack: is Slurm installed on this host?")
    return different[depth]


def _depth() -> int:
    return sum(name == _MARK for name in _above(os.getppid()))


def _above(pid: int) -> Iterator[str]:
    """Yield the command names of a process and of those above it (proc(5), stat)."""
    while pid > 1:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        before, _, after = text.rpartition(")")
        yield before.partition("(")[2]
        pid = int(after.split()[1])
