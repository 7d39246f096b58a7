"""How long a run has run: what `runs.time_stopped` and `runs.suspended` hold. Pure.

As Slurm reckons: neither the wait for another start nor the time for which a job was suspended counts. Of a
job that runs, or is suspended, squeue says how long it has run. Where nobody does (pyslurm), a suspension
lasts from when it was shown to when it was not, until accounting tells how long the execution took.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.run.states import RunStatus, Stage

if TYPE_CHECKING:
    from datetime import datetime

    from hpctrack.model import Attempt, JobFacts, StoredRun
    from hpctrack.reconcile.attempts import History

_NONE = timedelta()


#: What squeue says in whole seconds, and some time after it was asked, differs by so much at most.
_SLACK = timedelta(seconds=3)


class Spent(NamedTuple):
    """How the attempt that is shown spends its time."""

    stopped: datetime | None
    """Since when it does not run although the run may go on; None while it does."""
    suspended: timedelta
    """For how long it was suspended until then."""


def spent(history: History, shown: Attempt | None, live: JobFacts | None) -> Spent:
    """Return what is known of the latest attempt that started, ``shown``, with squeue's line of the job."""
    if shown is None:
        return Spent(None, _NONE)
    said = (live.time if live else None) or history.now
    used = live.time_used if live and live.time_submitted == shown.time_submitted else None
    suspended = _suspended(history, shown, said, used)
    return Spent(_time_stopped(history, shown, said, used, suspended), suspended)


def has_slipped(run: StoredRun, live: JobFacts) -> bool:
    """Whether a running job has run for another time than we believe: a suspension was not seen."""
    if live.time_used is None or live.time is None or run.time_started is None:
        return False
    if live.status is RunStatus.SUSPENDED and run.time_stopped is not None:
        ran = run.time_stopped - run.time_started - run.suspended
    else:
        ran = live.time - run.time_started - run.suspended
    return abs(ran - live.time_used) > _SLACK


def _time_stopped(
    history: History, shown: Attempt, said: datetime, used: timedelta | None, suspended: timedelta
) -> datetime | None:
    run, status = history.run, history.status
    stage = status.stage
    since = run.time_stopped or said
    if stage >= Stage.COMPLETING and shown.attempt == history.newest:
        return shown.time_ended or (since if stage is Stage.ENDED else None)
    if status is RunStatus.SUSPENDED:
        return _suspended_since(run, shown, used, suspended) or said
    if stage is Stage.WAITING:
        waits = history.top.time_submitted if history.top else None
        return shown.time_ended or waits or since
    return None


def _suspended_since(
    run: StoredRun, shown: Attempt, used: timedelta | None, suspended: timedelta
) -> datetime | None:
    """When a job that is suspended now was, from how long it has run, or as it is stored already."""
    if used is not None and shown.time_started is not None:
        return shown.time_started + suspended + used
    return run.time_stopped if run.status is RunStatus.SUSPENDED else None


def _suspended(history: History, shown: Attempt, said: datetime, used: timedelta | None) -> timedelta:
    told = _told(shown)
    if told is not None:
        return told
    if shown.attempt in history.accounted:
        return _NONE
    run = history.run
    same = (shown.attempt, shown.time_started) == (run.attempt, run.time_started)
    known = run.suspended if same else _NONE
    if history.status is RunStatus.RUNNING and used is not None and shown.time_started is not None:
        reckoned = max(_NONE, said - shown.time_started - used)
        return known if abs(reckoned - known) <= _SLACK else reckoned
    return known + (_resumed_after(history, shown, said) if same else _NONE)


def _resumed_after(history: History, shown: Attempt, said: datetime) -> timedelta:
    """How long the suspension took that is stored, if it is over now."""
    run = history.run
    if run.status is not RunStatus.SUSPENDED or run.time_stopped is None:
        return _NONE
    if history.status is RunStatus.SUSPENDED:
        return _NONE
    return max(_NONE, (shown.time_ended or said) - run.time_stopped)


def _told(attempt: Attempt) -> timedelta | None:
    """What accounting says of it."""
    elapsed = attempt.resources.get("elapsed_s")
    if attempt.time_started is None or attempt.time_ended is None or not isinstance(elapsed, int):
        return None
    span = attempt.time_ended - attempt.time_started
    seconds = span.total_seconds()
    return span - timedelta(seconds=elapsed) if 0 <= elapsed <= seconds else _NONE
