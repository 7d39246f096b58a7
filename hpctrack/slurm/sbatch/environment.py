"""The environment that sbatch gets, and through it the job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack import resources

if TYPE_CHECKING:
    from collections.abc import Mapping

_STALE = frozenset(
    "HPCTRACK_JOB_ID HPCTRACK_RUN_DIR HPCTRACK_SPOOL_DIR HPCTRACK_JOURNAL HPCTRACK_RUN HPCTRACK_ATTEMPT "
    "HPCTRACK_SCRIPT SLURM_RESTART_COUNT".split()
)


def for_child(environ: Mapping[str, str], *, array: bool) -> dict[str, str]:
    """Return the environment for sbatch: ours, without the variables that describe the job around us.

    sbatch hands on what it finds, and Slurm sets these variables only where they apply, for a restarted job
    and for a task of an array: any other job would take its parent's for its own.
    """
    stale = ("SLURM_ARRAY_",) if "SLURM_JOB_ID" in environ and not array else ()
    child = {
        name: value for name, value in environ.items() if name not in _STALE and not name.startswith(stale)
    }
    if "HPCTRACK_RUN_DIR" in environ:
        path = _without_ours(child.pop("PYTHONPATH", ""))
        if path:
            child["PYTHONPATH"] = path
    return child


def _without_ours(path: str) -> str:
    """Return PYTHONPATH without what the supervisor of the job around us has added."""
    return ":".join(entry for entry in path.split(":") if entry != resources.IMPORTABLE)
