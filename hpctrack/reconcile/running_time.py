"""How long a run has run: what `runs.time_stopped` and `runs.suspended` hold. Pure.

As Slurm reckons: neither the wait for another start nor the time for which a job was suspended counts. Until
accounting tells how long an execution took, a suspension lasts from when squeue showed it to when it did not.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from hpctrack.model import RunStatus
from hpctrack.slurm import states
from hpctrack.slurm.states import Stage

if TYPE_CHECKING:
    from datetime import datetime

    from hpctrack.model import Attempt
    from hpctrack.reconcile.attempts import History

_NONE = timedelta()


def time_stopped(history: History, shown: Attempt | None, said: datetime) -> datetime | None:
    """Since when a run that may go on does not run; None while it does.

    ``shown`` is the latest attempt that started, ``said`` when the latest fact was told.
    """
    run, status = history.run, history.status
    if shown is None:
        return None
    stage = states.stage_of(status)
    if stage >= Stage.COMPLETING and shown.attempt == history.newest:
        return shown.time_ended or (run.time_stopped or said if stage is Stage.ENDED else None)
    if status is RunStatus.SUSPENDED:
        return (run.time_stopped if run.status is status else None) or said
    if stage is Stage.WAITING:
        waits = history.top.time_submitted if history.top else None
        return shown.time_ended or waits or run.time_stopped or said
    return None


def suspended(history: History, shown: Attempt | None, said: datetime) -> timedelta:
    """For how long the attempt that is shown was suspended."""
    if shown is None:
        return _NONE
    told = _told(shown)
    if told is not None:
        return told
    if shown.attempt in history.accounted:
        return _NONE
    run = history.run
    if (shown.attempt, shown.time_started) != (run.attempt, run.time_started):
        return _NONE
    if run.status is not RunStatus.SUSPENDED or run.time_stopped is None:
        return run.suspended
    if history.status is RunStatus.SUSPENDED:
        return run.suspended
    return run.suspended + max(_NONE, (shown.time_ended or said) - run.time_stopped)


def _told(attempt: Attempt) -> timedelta | None:
    """What accounting says of it."""
    elapsed = attempt.resources.get("elapsed_s")
    if attempt.time_started is None or attempt.time_ended is None or not isinstance(elapsed, int):
        return None
    span = attempt.time_ended - attempt.time_started
    seconds = span.total_seconds()
    return span - timedelta(seconds=elapsed) if 0 <= elapsed <= seconds else _NONE
