"""What is said of a run's attempts, and of the changes of its state. Pure.

Words of Slurm and of jobs are not made visible yet: who shows them does that, see `hpctrack.text.visible`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.run import words
from hpctrack.view import notation

if TYPE_CHECKING:
    from datetime import datetime

    from hpctrack.model import Attempt, Transition


def number(row: Transition | Attempt) -> str:
    """Return an attempt's number as people count."""
    return str(row.attempt + 1)


def word(change: Transition) -> str | None:
    """Return the source's word where there is no state (an unknown one, a signal); None for a sentence."""
    return None if _is_sentence(change) else change.raw


def reason(change: Transition) -> str:
    """Return the reason, or else the source's own words where they say more than the state."""
    differs = change.status is not None and change.raw != change.status.value
    return change.reason or (change.raw if change.raw and (differs or _is_sentence(change)) else "")


def _is_sentence(change: Transition) -> bool:
    return change.status is None and change.raw is not None and " " in change.raw


def ran(attempt: Attempt, now: datetime) -> str:
    """Return how long an attempt has run, or ran; empty if it has not started."""
    started = attempt.time_started
    return "" if started is None else notation.duration((attempt.time_ended or now) - started)


def script_exit(attempt: Attempt) -> str | None:
    """Return how the script itself ended."""
    return words.exit_text(attempt.exit_code, attempt.exit_signal)


def slurm_exit(attempt: Attempt) -> str:
    """Return sacct's ``code:signal``; empty where accounting has none."""
    if attempt.slurm_exit_code is None:
        return ""
    return f"{attempt.slurm_exit_code}:{attempt.slurm_exit_signal or 0}"
