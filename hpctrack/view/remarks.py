"""What is worth saying beside a run's state: failures, restarts, losses, silence. Pure.

What Slurm and jobs say in their own words is not made visible here but where it is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.run import words
from hpctrack.text import visible
from hpctrack.view import notation

if TYPE_CHECKING:
    from datetime import datetime

    from hpctrack.store.read.lists import ArrayRow
    from hpctrack.store.read.queries import Cluster, Losses, RunRow

#: Reasons that say no more than the state does.
_SILENT_REASONS = frozenset((None, "", "None", "NonZeroExitCode", "RaisedSignal"))


def of_run(run: RunRow) -> list[str]:
    """Return the remarks on a run."""
    remarks = (_ending(run), _reason(run), _restarted(run), *_incomplete(run), _silent(run))
    return [remark for remark in remarks if remark]


def of_array(array: ArrayRow) -> list[str]:
    """Return the remarks on a job array: those that concern all of its tasks together."""
    return _incomplete(array)


def _ending(run: RunRow) -> str | None:
    if run.exit_signal:
        return run.exit
    return f"exit {run.exit_code}" if run.exit_code else None


def _reason(run: RunRow) -> str | None:
    if run.reason in _SILENT_REASONS:
        return None
    if run.reason == words.UNKNOWN_TO_SLURM and run.missing_since is not None and run.time_ended is None:
        return f"{run.reason} since {notation.moment(run.missing_since)}"
    return run.reason


def _restarted(run: RunRow) -> str | None:
    return notation.attempt(run.attempt) if run.attempt > 0 else None


def _silent(run: RunRow) -> str | None:
    since = run.silent_since
    return None if since is None else f"not heard from since {notation.moment(since)}"


def _incomplete(line: RunRow | ArrayRow) -> list[str]:
    """Return what is missing of metrics, for now or for good."""
    lost = [f"{line.lost} lost"] if line.lost > 0 else []
    return lost + ([f"{words.counted(line.waiting, 'row')} waiting in spool"] if line.waiting > 0 else [])


def on_losses(losses: Losses) -> list[str]:
    """Return what was not stored of a run's metrics, by kind."""
    reasons = ", ".join(reason for reason, _ in losses.reasons)
    counts = {
        "lost": losses.lost,
        "torn": losses.torn,
        f"rejected ({reasons})" if reasons else "rejected": losses.rejected,
        "of an earlier attempt replaced": losses.replaced,
    }
    return [f"{count} {word}" for word, count in counts.items() if count]


def on_cluster(cluster: Cluster, now: datetime) -> str | None:
    """Return the line that says a cluster's Slurm does not answer; None while it does, or nobody waits."""
    since = cluster.unreachable_since
    if since is None or not cluster.awaited:
        return None
    why = f": {visible.line(cluster.error)}" if cluster.error else ""
    return (
        f"Slurm of cluster {visible.line(cluster.name)} has not answered since {notation.moment(since)} "
        f"({notation.duration(now - since)} ago); states may be out of date{why}"
    )
