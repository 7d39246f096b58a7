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
    """Return the environment for sbatch: ours, without what only the job around us may call its own.

    sbatch hands on what it finds, and Slurm sets these variables only where they apply, for a restarted job
    and for a task of an array: any other job would take its parent's for its own.
    """
    inside = "SLURM_JOB_ID" in environ
    child = {
        name: value
        for name, value in environ.items()
        if name not in _STALE and not (inside and not array and name.startswith("SLURM_ARRAY_"))
    }
    if "HPCTRACK_RUN_DIR" in environ and "PYTHONPATH" in child:
        added = resources.IMPORTABLE  # by the supervisor of the job around us
        child["PYTHONPATH"] = ":".join(entry for entry in child["PYTHONPATH"].split(":") if entry != added)
        if not child["PYTHONPATH"]:
            del child["PYTHONPATH"]
    return child
