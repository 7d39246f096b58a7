"""What waits in the spool, delivered by the collector itself: where it can read it, nobody need run sync."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from typing import TYPE_CHECKING, TypeAlias

from hpctrack import errors
from hpctrack.store import collectors, database, held
from hpctrack.stream import folders, spool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.settings import Settings

#: Submission and task, as on the wire.
Name: TypeAlias = tuple[bytes, int]

#: Seconds from one look to the next; the first soon, for brief jobs that ended before there was a collector.
_FIRST, _INTERVAL = 5.0, 30.0

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
        waiting = spool.pending(self._settings.spool, self._settings.node_dir)
        if not waiting and not self._noted:
            return
        named = [(one, name) for one in waiting if (name := self._name_of(one)) is not None]
        runs = collectors.known_runs(self._connected(), {name for _, name in named})
        left: dict[int, int] = {}
        for one, name in named:
            run_id = runs.get(name)
            if run_id is not None and not self._deliver(one):
                left[run_id] = left.get(run_id, 0) + spool.count_rows(one)
        if self._settings.personal:  # where this spool is the only one
            collectors.note_waiting(self._connected(), left)
        self._noted = bool(left)

    def _name_of(self, one: spool.Spooled) -> Name | None:
        """Return what the wire calls the run of a folder; None where its record is missing."""
        try:
            record = folders.find_record(self._settings.spool, one.identity)
            return None if record is None else (uuid.UUID(record.uuid).bytes, one.identity.task)
        except (OSError, ValueError) as error:
            _log.debug("%s: %s", one.path, error)
            return None

    def _deliver(self, one: spool.Spooled) -> bool:
        """Deliver one folder; whether all of it is."""
        try:
            removed = spool.deliver(one, self._settings.spool, self._addresses, lambda _count: None)
        except (errors.HpctrackError, OSError, ValueError) as error:
            _log.warning("%s can't be delivered: %s", one.path, error)
            return False
        if removed:
            _log.info("delivered %s", one.path)
        return True

    def _addresses(self) -> Sequence[str]:
        # Asked for whenever nobody answers: here a delivery can be left without harm.
        if self._stopping.is_set():
            raise _Stopped
        return self._own

    def _connected(self) -> database.Connection:
        if self._connection is None:
            self._connection = database.connect(
                self._settings, autocommit=True, patience=held.PATIENCE, application=database.COLLECTOR
            )
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
