"""The collector's errands: keys of new runs, heartbeat, lease, old events, and what waits in the spool."""

from __future__ import annotations

import dataclasses
import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hpctrack import errors
from hpctrack.run import words
from hpctrack.store.write import collectors, events, registration
from hpctrack.stream.collector.keys import RunKey
from hpctrack.stream.collector.worker import Worker, session
from hpctrack.stream.wire import ciphers
from hpctrack.stream.wire.names import RunName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.session import Session
    from hpctrack.stream.collector.figures import Figures
    from hpctrack.stream.collector.keys import Keys

#: Seconds for which a session that did something counts as use: longer than between two heartbeats.
USE_SECONDS = 20.0
#: Seconds between heartbeats: while something happens, and while nothing does.
_BEAT_SECONDS, _IDLE_BEAT_SECONDS = 2.0, 10.0
#: Seconds between two looks for what is to be registered, and while a run is asked for that is not known.
_REGISTER_SECONDS, _REGISTER_PAUSE = 30.0, 0.1
#: Seconds at least between two queries for keys, so that floods of invented runs cost little.
_QUERY_SECONDS = 0.02
#: Seconds after which a collector that PostgreSQL waits for is taken to stand still.
_STANDSTILL = 15.0

#: How long events stay that nobody takes, and seconds between two looks for those.
_EVENTS_KEPT, _DISCARD_SECONDS = timedelta(days=1), 600.0

_log = logging.getLogger(__name__)


class Registrar(Worker):
    """Runs errands until it is stopped; then says that the collector ends."""

    NAME = "register"
    _session: Session

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        collector: UUID,
        identity: Mapping[str, Any],
        figures: Callable[[], Figures],
        *,
        reconciles: bool,
    ) -> None:
        """``identity``: host, pid and addresses of the row in ``collectors``; ``reconciles``: it may lead."""
        super().__init__(session(settings, opened=self._listen))
        self._settings = settings
        self._keys = keys
        self._collector = collector
        self._identity = identity
        self._figures = figures
        self._reconciles = reconciles
        self._last_registration = -_REGISTER_SECONDS
        self._last_beat = -_IDLE_BEAT_SECONDS
        self._last_discard = -_DISCARD_SECONDS
        self._has_news = False
        self._signs: Figures | None = None
        #: Whether this is the collector that reconciles.
        self.leads = False
        #: Runs that may still have something to say; None if that is not known.
        self.live_runs: int | None = None
        #: When the last of them ended (`time.monotonic`), and when that was learnt.
        self.last_end = self.learnt_end = time.monotonic()
        #: Whether others use PostgreSQL; the personal mode only.
        self.in_use = False

    def stop(self) -> None:
        """Stop the thread, whatever it waits for."""
        super().stop()
        self._keys.wake()

    def step(self) -> float:
        """Run the errands that are due; waits for runs to be asked for."""
        self._run_errands(self._session.connection())
        self.note(None)
        return 0.0

    def finish(self) -> None:
        """Say that the collector ends."""
        try:
            collectors.leave(self._session.connection(), self._collector)
        except errors.StoreError as error:
            _log.debug("%s", error)

    def drop(self) -> None:
        """Close the connection, and lead no longer: nobody knows whether the lease is still ours."""
        self.leads = False
        super().drop()

    def _run_errands(self, connection: Connection) -> None:
        self._register(connection, _REGISTER_SECONDS)
        self._beat(connection)
        self._discard_events(connection)
        wanted = self._keys.wait(_BEAT_SECONDS, connection.fileno())
        if not wanted:
            events.hear(connection)
        if self._has_news:
            self._has_news = False
            self._keys.look_again()
            wanted = self._keys.wait(0)
        elif not wanted:
            return
        self._keys.learn(wanted, self._fetch_keys(connection, wanted))
        time.sleep(_QUERY_SECONDS)

    def _listen(self, connection: Connection) -> None:
        """Be told on a new connection when something changes; what changed before it was not told."""
        events.listen(connection, self._note_news)
        self._note_news()

    def _note_news(self) -> None:
        self._has_news = True

    def _discard_events(self, connection: Connection) -> None:
        now = time.monotonic()
        if now < self._last_discard + _DISCARD_SECONDS:
            return
        events.discard(connection, _EVENTS_KEPT)
        self._last_discard = now

    def _fetch_keys(self, connection: Connection, wanted: Sequence[RunName]) -> dict[RunName, RunKey]:
        """Return the keys of the runs that exist. Raises `errors.StoreError`."""
        rows = collectors.run_keys(connection, wanted)
        # A command that has just begun may be known to the spool alone.
        if len(rows) < len(wanted) and self._register(connection, _REGISTER_PAUSE):
            rows = collectors.run_keys(connection, wanted)
        keys = {name: _key(name.task, *row) for name, row in rows.items()}
        return {name: key for name, key in keys.items() if key is not None}

    def _register(self, connection: Connection, pause: float) -> int:
        """Register what waits in the spool, if that was last done so many seconds ago; return how many."""
        now = time.monotonic()
        if now < self._last_registration + pause:
            return 0
        count = registration.register_pending(self._settings, connection)
        if count:
            _log.info("registered %s that waited in the spool", words.counted(count, "submission"))
        self._last_registration = now
        return count

    def _beat(self, connection: Connection) -> None:
        """Say that the collector lives: often while something happens, rarely while nothing does."""
        now, figures = time.monotonic(), self._figures()
        signs = dataclasses.replace(figures, uptime_s=None)
        if now < self._last_beat + (_IDLE_BEAT_SECONDS if signs == self._signs else _BEAT_SECONDS):
            return
        self.leads = collectors.beat(
            connection,
            self._collector,
            **self._identity,
            stats=figures.to_json(),
            reconciles=self._reconciles,
        )
        self._look_for_life(connection)
        if collectors.end_standstill(connection, _STANDSTILL):
            _log.warning("a collector stood still in the midst of a batch: its session was ended")
        self._last_beat, self._signs = now, signs

    def _look_for_life(self, connection: Connection) -> None:
        live = collectors.live_runs(connection)
        if live == 0 and self.live_runs != 0:
            self.learnt_end = time.monotonic()
            self.last_end = self.learnt_end - collectors.seconds_since_last_end(connection)
        if self._settings.personal:
            self.in_use = collectors.other_sessions(connection, USE_SECONDS) > 0
        self.live_runs = live


def _key(task: int, run_id: int, secret: bytes, user: str) -> RunKey | None:
    """Return a run's key; None, and a line in the log, for a run of which nobody can make one."""
    try:
        return RunKey(run_id, ciphers.run_key(secret, task), user)
    except errors.WireError as error:
        _log.warning("run %d: %s", run_id, error)
        return None
