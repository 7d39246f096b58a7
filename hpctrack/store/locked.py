"""Runs that other sessions hold.

Everybody may lock rows of their own for as long as they like (``BEGIN; DELETE FROM runs ...``, and off to
lunch), and nobody else's rows shall wait for that. So waits for locks are short (`PATIENCE`). A run whose
lock could not be had is put off (`PutOff`) for a pause that grows; after it we ask for the lock without
waiting.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.backoff import Backoff
from hpctrack.store import database, lock_holders, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from hpctrack.store.database import Connection

PATIENCE = "1s"
"""``lock_timeout`` of the sessions that store what others wait for."""
#: For how long a run is put off.
_BACKOFF = Backoff(1.0, 30.0)

_log = logging.getLogger(__name__)


class _Pause(NamedTuple):
    until: float
    seconds: float


_NO_PAUSE = _Pause(0.0, 0.0)


class PutOff:
    """Runs that are put off, and until when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[int, _Pause] = {}

    def __contains__(self, run_id: int) -> bool:
        """Whether a run has been put off and has not been stored since."""
        return run_id in self._pauses

    def due(self, connection: Connection, runs: Iterable[int]) -> list[int]:
        """Return which of the runs that were put off can be had now; the others are put off again.

        Raises `errors.StoreError`.
        """
        now = self._clock()
        due = sorted(run for run in set(runs) if self._is_due(run, now))
        if not due:
            return []
        with rows.transaction(connection):
            locked = find(connection, due)
        self.extend(locked)
        return [run for run in due if run not in locked]

    def _is_due(self, run: int, now: float) -> bool:
        return run in self._pauses and self._pauses[run].until <= now

    def add(self, connection: Connection, runs: Collection[int]) -> None:
        """Put runs off; of new ones the log says which session holds them. Raises `errors.StoreError`."""
        fresh = sorted(run for run in runs if run not in self._pauses)
        self.extend(runs)
        if fresh:
            some = ", ".join(f"r{run}" for run in fresh[:5]) + (" ..." if len(fresh) > 5 else "")
            _log.warning("rows of %s wait: %s", some, describe(connection))

    def release(self, runs: Iterable[int]) -> None:
        """Note that runs were stored, or are gone."""
        for run in runs:
            self._pauses.pop(run, None)

    def extend(self, runs: Iterable[int]) -> None:
        """Put runs off, longer than before."""
        now = self._clock()
        for run in runs:
            seconds = _BACKOFF.after(self._pauses.get(run, _NO_PAUSE).seconds)
            self._pauses[run] = _Pause(now + seconds, seconds)


def find(connection: Connection, runs: Collection[int]) -> set[int]:
    """Return which of the runs can't be changed now because another session holds them, without a wait.

    The others stay locked until the caller's transaction ends.
    """
    return set(rows.column(connection, "find_locked_runs", runs=list(runs)))


def describe(connection: Connection) -> str:
    """Return which open transactions of other sessions hold something here, and what ends them.

    Raises `errors.StoreError`.
    """
    with database.translated():
        named = lock_holders.name(connection)
    return f"held by {named}" if named else "another session held them a moment ago"
