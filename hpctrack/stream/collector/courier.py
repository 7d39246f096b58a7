"""What waits in the spool, delivered by the collector itself: where it can read it, nobody need run sync."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.store import database, locked
from hpctrack.store.write import collectors
from hpctrack.stream.collector import backlog
from hpctrack.stream.disk import late
from hpctrack.stream.node import spool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.settings import Settings

#: Seconds from one look to the next; the first soon, for brief jobs that ended before there was a collector.
_FIRST, _INTERVAL = 5.0, 30.0
#: Folders that a log tells of.
_MOST_SAID = 1000

_log = logging.getLogger(__name__)


class _Stopped(Exception):
    """The collector ends."""


class Delivering:
    """Delivers in a thread of its own, until it is stopped."""

    def __init__(self, settings: Settings, addresses: Sequence[str]) -> None:
        """``addresses``: where this collector is."""
        self._settings = settings
        self._own = addresses
        self._stopping = threading.Event()
        self._connection: database.Connection | None = None
        #: Whether PostgreSQL has been told that something waits; so it may after a restart.
        self._noted = True
        self._said: set[str] = set()

    def stop(self) -> None:
        """Have it end."""
        self._stopping.set()

    def run(self) -> None:
        """Deliver, once in a while, until stopped."""
        with contextlib.suppress(_Stopped):
            pause = _FIRST
            while not self._stopping.wait(pause):
                pause = _INTERVAL
                try:
                    self.deliver_all()
                except (errors.StoreError, OSError) as error:
                    _log.debug("%s", error)
                    self._disconnect()
        self._disconnect()

    def deliver_all(self) -> None:
        """Deliver what waits of the runs that PostgreSQL knows, and say what could not be delivered.

        Raises `errors.StoreError`, OSError.
        """
        late.tell(self._settings.spool, self._settings.node_dir)
        found = backlog.look(self._settings, self._connected)
        if found.unregistered and backlog.register(found, self._settings, self._connected()):
            found = backlog.look(self._settings, self._connected)
        self._say(found)
        if not found.ready and not self._noted:
            return
        left: dict[int, int] = {}
        for one in found.ready:
            if not self._deliver(one):
                left[one.run_id] = left.get(one.run_id, 0) + spool.count_rows(one.spooled)
        if self._settings.personal:  # where this spool is the only one
            collectors.note_waiting(self._connected(), left)
        self._noted = bool(left)

    def _say(self, found: backlog.Backlog) -> None:
        """Say once of each folder that it can't be delivered."""
        for one in found.stuck:
            self._say_once(one.path, f"{one.reason}: {one.remedy}")
        for deleted in found.deleted:
            self._say_once(deleted.path, "its run is deleted: hpctrack prune clears it away")

    def _say_once(self, path: str, reason: str) -> None:
        if path not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(path)
            _log.warning("%s stays: %s", path, reason)

    def _deliver(self, one: backlog.Ready) -> bool:
        """Deliver one folder; whether all of it is."""
        path = one.spooled.path
        try:
            outcome = spool.ship(
                one.spooled, self._settings.spool, self._addresses, lambda _count: None, ended=one.ended
            )
        except (errors.HpctrackError, OSError, ValueError) as error:
            self._say_once(path, str(error))
            return False
        if outcome is spool.Outcome.REMOVED:
            _log.info("delivered %s", path)
        return True

    def _addresses(self) -> Sequence[str]:
        # Asked for whenever nobody answers: here a delivery can be left without harm.
        if self._stopping.is_set():
            raise _Stopped
        return self._own

    def _connected(self) -> database.Connection:
        if self._connection is None:
            self._connection = database.connect(
                self._settings, autocommit=True, patience=locked.PATIENCE, application=database.COLLECTOR
            )
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
