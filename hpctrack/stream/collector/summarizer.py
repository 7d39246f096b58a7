"""The collector's thread that keeps the statistics of runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.store.ingest import summaries
from hpctrack.stream.collector.worker import Worker, session

if TYPE_CHECKING:
    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.ingest.pending import Pending
    from hpctrack.store.ingest.summaries import Stale
    from hpctrack.store.session import Session

#: Seconds between two writings of statistics, and between two looks whether it is time.
_SECONDS, _LOOK = 5.0, 1.0
#: Seconds at least between two times that the statistics of a live run are reckoned anew, and how many times
#: longer than that took: what waits for it is that run's rows.
_PAUSE, _SHARE = 30.0, 20.0
#: Rows of a live run beyond which that has time until it is over.
_LONG = 2_000_000


class Summarizer(Worker):
    """Writes what rows brought to statistics, reckons some anew, and settles those of runs that are over."""

    NAME = "sum"
    _session: Session

    def __init__(self, settings: Settings, pending: Pending) -> None:
        super().__init__(session(settings))
        self._pending = pending
        self._written = 0.0
        #: When the statistics of a live run may be reckoned anew, by run.
        self._not_before: dict[int, float] = {}

    def step(self) -> float:
        """Write statistics if it is time."""
        if time.monotonic() - self._written < _SECONDS and not self._pending.is_much:
            return _LOOK
        self._write()
        self.note(None)
        self._written = time.monotonic()
        return _LOOK

    def _write(self) -> None:
        connection = self._session.connection()
        # What can't be written now is not told of as written: it is read again once the run is over.
        summaries.add(connection, self._pending.take())
        until = time.monotonic() + _SECONDS
        for run in summaries.find_stale(connection):
            if self._stopping.is_set() or time.monotonic() > until:
                break  # the others' rows wait
            self._renew(connection, run)
        while summaries.settle(connection) and not self._stopping.is_set():
            pass

    def _renew(self, connection: Connection, run: Stale) -> None:
        began = time.monotonic()
        if not run.over and (began < self._not_before.get(run.run_id, 0.0) or run.rows > _LONG):
            return
        summaries.renew(connection, run.run_id)
        ended = time.monotonic()
        self._not_before = {known: until for known, until in self._not_before.items() if until > ended}
        self._not_before[run.run_id] = ended + max(_PAUSE, _SHARE * (ended - began))

    def finish(self) -> None:
        """Write what is left: nobody else knows of it."""
        try:
            summaries.add(self._session.connection(), self._pending.take())
        except errors.StoreError as error:
            self.note(str(error))
