"""How runs are named on the command line and in the API. Pure.

A bare number is Slurm's job id, as in squeue and sacct: ``14`` (of an array all its tasks), ``14_3`` (one
task), ``14+1`` (a component of a heterogeneous job, which is one run); so is a SLUID, which Slurm from 25.11
on takes for a job id: each execution has its own. A run's own id is written ``r14``.
Anything else is a job's name, or the beginning of one. What lists print for several runs, `words.runs` reads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

_PATTERN = re.compile(r"r(?P<run>[0-9]{1,18})|(?P<job>[0-9]{1,18})(?:_(?P<task>[0-9]{1,9})|\+[0-9]{1,9})?")


#: What Slurm calls an execution besides, from 24.11 on: ``s469M8HEPKNM00``. O may stand for 0, I or L for 1.
_SLUID = re.compile(r"[sS]([0-9A-TV-Za-tv-z]{13})")
_MISREAD = str.maketrans("OIL", "011")
_NO_SLUID = "s" + 13 * "0"


def sluid(text: str) -> str | None:
    """Return a SLUID as Slurm writes it; None for what can be none."""
    match = _SLUID.fullmatch(text)
    name = "s" + match[1].upper().translate(_MISREAD) if match else _NO_SLUID
    return None if name == _NO_SLUID else name


class RunRef(NamedTuple):
    """What a user wrote: a run's id, a job id with or without an array task, or the beginning of a name."""

    text: str
    run_id: int | None = None
    job_id: int | None = None
    task: int | None = None

    @property
    def named(self) -> bool:
        """Whether it is a name rather than an id."""
        return self.run_id is None and self.job_id is None


def parse(text: str) -> RunRef:
    """Read one id or name. Raises `errors.UsageError` for what can be none."""
    text = text.strip()
    if not text or "\0" in text:
        raise errors.UsageError(
            f"{text!r} names no run: write a Slurm job id (14, 14_3), a run's id (r14) or a job's name"
        )
    match = _PATTERN.fullmatch(text)
    if match is None:
        return RunRef(text)
    run, job, task = (None if group is None else int(group) for group in match.group("run", "job", "task"))
    return RunRef(text, run, job, task)


def job_text(job_id: int | None, array_job_id: int | None, array_task_id: int | None) -> str | None:
    """Return a job's id as Slurm writes it: ``14_3`` for an array task, else ``14``; None outside Slurm."""
    if array_job_id is not None and array_task_id is not None:
        return f"{array_job_id}_{array_task_id}"
    return None if job_id is None else str(job_id)


def runs_text(ids: Iterable[int]) -> str:
    """Return the ids of runs as one word that means these and no others: ``r7``, ``r3-5,9``."""
    return f"r{ranges(sorted(ids))}"


def ranges(tasks: Iterable[int]) -> str:
    """Return rising numbers as sbatch's ``--array`` takes them: ``0-4,7``."""
    parts: list[list[int]] = []
    for task in tasks:
        if parts and task == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], task]
        else:
            parts.append([task])
    return ",".join("-".join(map(str, part)) for part in parts)
