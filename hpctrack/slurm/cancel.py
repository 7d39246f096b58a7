"""Ending jobs: which words scancel gets, and scancel itself."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.run import runids
from hpctrack.slurm import command

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

_SECONDS = 30.0
#: Jobs of one scancel: command lines have an end.
_CHUNK = 500


class Job(NamedTuple):
    """A job, or a task of a job array."""

    job_id: int | None
    array_job_id: int | None = None
    array_task_id: int | None = None


def words(jobs: Iterable[Job], whole: Collection[int]) -> list[str]:
    """Return what scancel calls these jobs: ``7``, ``14_[1-3,7]``, a ``whole`` array ``14``."""
    plain: dict[str, None] = {}
    arrays: dict[int, set[int]] = defaultdict(set)
    for job in jobs:
        if job.array_job_id is not None and job.array_task_id is not None:
            arrays[job.array_job_id].add(job.array_task_id)
        elif job.job_id is not None:
            plain[str(job.job_id)] = None
    return [*plain, *(_array(array, tasks, whole=array in whole) for array, tasks in arrays.items())]


def _array(array: int, tasks: Collection[int], *, whole: bool) -> str:
    if whole:
        return str(array)
    named = runids.ranges(sorted(tasks))
    return f"{array}_{named}" if named.isdecimal() else f"{array}_[{named}]"


def cancel(named: Sequence[str], cluster: str | None, environ: Mapping[str, str]) -> None:
    """Run scancel on jobs of a cluster; None is the one that this host belongs to.

    Raises `errors.SlurmError` with what scancel says, also where it ended some of them.
    """
    where = [] if cluster is None else [f"--clusters={cluster}"]
    for start in range(0, len(named), _CHUNK):
        argv = ["scancel", *where, *named[start : start + _CHUNK]]
        command.run(argv, timeout=_SECONDS, environ=environ)
