"""Delivers journals that wait in the spool: where the collector can read them, nobody has to run sync."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.backoff import Backoff
from hpctrack.store.write import collectors
from hpctrack.stream.collector import backlog
from hpctrack.stream.collector.worker import Worker, session
from hpctrack.stream.disk import late
from hpctrack.stream.node import spool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.settings import Settings
    from hpctrack.store.session import Session
    from hpctrack.stream.wire.names import Address

#: Seconds from one look to the next; the first soon, for brief jobs that ended before there was a collector.
_FIRST, _INTERVAL = 5.0, 30.0
#: Folders that a log tells of.
_MOST_SAID = 1000

_log = logging.getLogger(__name__)


class _Stopped(Exception):
    """The collector ends."""


class Courier(Worker):
    """Delivers once in a while, until it is stopped."""

    NAME = "deliver"
    TROUBLES = (errors.StoreError, OSError)
    BACKOFF = Backoff(_INTERVAL, _INTERVAL)
    LEVEL = logging.DEBUG  # the others tell of PostgreSQL
    DELAY = _FIRST
    _session: Session

    def __init__(self, settings: Settings, addresses: Sequence[Address]) -> None:
        """``addresses``: where this collector is."""
        super().__init__(session(settings))
        self._settings = settings
        self._own = addresses
        #: Whether PostgreSQL has been told that something waits; so it may after a restart.
        self._noted = True
        self._said: set[str] = set()

    def step(self) -> float:
        """Deliver what waits."""
        with contextlib.suppress(_Stopped):
            self.deliver_all()
            self.note(None)
        return _INTERVAL

    def deliver_all(self) -> None:
        """Deliver what waits of the runs that PostgreSQL knows, and say what could not be delivered.

        Raises `errors.StoreError`, OSError.
        """
        late.tell(self._settings.spool, self._settings.node_dir)
        waiting = self._look()
        self._say(waiting)
        if not waiting.ready and not self._noted:
            return
        left: Counter[int] = Counter()
        for folder in waiting.ready:
            if not self._deliver(folder):
                left[folder.run_id] += spool.count_rows(folder.spooled)
        if self._settings.personal:  # where this spool is the only one
            collectors.note_waiting(self._session.connection(), left)
        self._noted = bool(left)

    def _look(self) -> backlog.Backlog:
        """Find what waits; submissions that PostgreSQL does not know are registered first."""
        waiting = backlog.look(self._settings, self._session.connection)
        if waiting.unregistered and backlog.register(waiting, self._settings, self._session.connection()):
            waiting = backlog.look(self._settings, self._session.connection)
        return waiting

    def _say(self, waiting: backlog.Backlog) -> None:
        """Say once of each folder that it can't be delivered."""
        for stuck in waiting.stuck:
            self._say_once(stuck.path, f"{stuck.reason}: {stuck.remedy}")
        for deleted in waiting.deleted:
            self._say_once(deleted.path, "its run is deleted: hpctrack prune clears it away")

    def _say_once(self, path: str, reason: str) -> None:
        if path not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(path)
            _log.warning("%s stays: %s", path, reason)

    def _deliver(self, folder: backlog.Ready) -> bool:
        """Deliver a folder; whether all of it is."""
        path = folder.spooled.path
        try:
            outcome = spool.ship(
                folder.spooled, self._settings.spool, self._addresses, lambda _count: None, ended=folder.ended
            )
        except (errors.HpctrackError, OSError, ValueError) as error:
            self._say_once(path, str(error))
            return False
        if outcome is spool.Delivery.REMOVED:
            _log.info("delivered %s", path)
        return True

    def _addresses(self) -> Sequence[Address]:
        # Asked for whenever nobody answers: here a delivery can be left without harm.
        if self._stopping.is_set():
            raise _Stopped
        return self._own
