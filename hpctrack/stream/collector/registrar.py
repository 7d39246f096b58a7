"""The collector's errands: keys of new runs, heartbeat, lease, and what waits to be registered."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from hpctrack import errors
from hpctrack.run import words
from hpctrack.store import database, locked
from hpctrack.store.write import collectors, registration
from hpctrack.stream.collector.keys import RunKey
from hpctrack.stream.wire import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from hpctrack.settings import Settings
    from hpctrack.stream.collector.keys import Keys

#: Seconds for which a session that did something counts as use: longer than between two heartbeats.
USE_SECONDS = 20.0
#: Seconds between heartbeats: while something happens, and while nothing does.
_BEAT_SECONDS, _IDLE_BEAT_SECONDS = 2.0, 10.0
#: Seconds between two looks for what is to be registered, and while a run is asked for that is not known.
_REGISTER_SECONDS, _REGISTER_PAUSE = 30.0, 0.1
#: Seconds at least between two queries for keys, so that floods of invented runs cost little.
_QUERY_SECONDS = 0.02
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 15.0
#: Seconds after which a collector that PostgreSQL waits for is taken to stand still.
_STANDSTILL = 15.0

_log = logging.getLogger(__name__)


class Keeping:
    """Runs errands in a thread of its own, over a connection of its own, until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        collector: UUID,
        identity: Mapping[str, Any],
        stats: Callable[[], Mapping[str, Any]],
        *,
        reconciles: bool,
    ) -> None:
        """``identity``: host, pid and addresses of the row in ``collectors``; ``reconciles``: it may lead."""
        self._settings = settings
        self._keys = keys
        self._collector = collector
        self._identity = identity
        self._stats = stats
        self._reconciles = reconciles
        self._stopping = threading.Event()
        self._connection: database.Connection | None = None
        self._last_registration = -_REGISTER_SECONDS
        self._last_beat = -_IDLE_BEAT_SECONDS
        self._signs: dict[str, Any] = {}
        #: Whether this is the collector that reconciles.
        self.leads = False
        #: Runs that may still have something to say; None if that is not known.
        self.live_runs: int | None = None
        #: When the last of them ended (`time.monotonic`), and when that was learnt.
        self.last_end = self.learnt_end = time.monotonic()
        #: Whether others use PostgreSQL; the personal mode only.
        self.in_use = False

    def stop(self) -> None:
        """Have it end."""
        self._stopping.set()
        self._keys.wake()

    def run(self) -> None:
        """Run errands until stopped; then say that the collector ends."""
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                self._run_errands(self._connected())
                pause = _FIRST_PAUSE
            except errors.StoreError as error:
                if pause == _FIRST_PAUSE:
                    _log.warning("%s", error)
                self._disconnect()
                self._stopping.wait(pause)
                pause = min(2 * pause, _LAST_PAUSE)
        try:
            collectors.leave(self._connected(), self._collector)
        except errors.StoreError as error:
            _log.debug("%s", error)
        self._disconnect()

    def _run_errands(self, connection: database.Connection) -> None:
        self._register(connection, _REGISTER_SECONDS)
        self._beat(connection)
        wanted = self._keys.wait(_BEAT_SECONDS)
        if wanted:
            found = collectors.run_keys(connection, wanted)
            # A command that has just begun may be known to the spool alone.
            if len(found) < len(wanted) and self._register(connection, _REGISTER_PAUSE):
                found = collectors.run_keys(connection, wanted)
            keys = {name: _key(name[1], *one) for name, one in found.items()}
            self._keys.learn(wanted, {name: key for name, key in keys.items() if key is not None})
            time.sleep(_QUERY_SECONDS)

    def _register(self, connection: database.Connection, pause: float) -> int:
        """Register what waits in the spool, if that was last done so many seconds ago; return how many."""
        now = time.monotonic()
        if now < self._last_registration + pause:
            return 0
        count = registration.register_pending(self._settings, connection)
        if count:
            _log.info("registered %s that waited in the spool", words.counted(count, "submission"))
        self._last_registration = now
        return count

    def _beat(self, connection: database.Connection) -> None:
        now, stats = time.monotonic(), dict(self._stats())
        signs = {name: value for name, value in stats.items() if name != "uptime_s"}
        if now < self._last_beat + (_IDLE_BEAT_SECONDS if signs == self._signs else _BEAT_SECONDS):
            return
        self.leads = collectors.beat(
            connection, self._collector, **self._identity, stats=stats, reconciles=self._reconciles
        )
        self._look_for_life(connection)
        if collectors.end_standstill(connection, _STANDSTILL):
            _log.warning("a collector stood still in the midst of a batch: its session was ended")
        self._last_beat, self._signs = now, signs

    def _look_for_life(self, connection: database.Connection) -> None:
        live = collectors.live_runs(connection)
        if live == 0 and self.live_runs != 0:
            self.learnt_end = time.monotonic()
            self.last_end = self.learnt_end - collectors.seconds_since_last_end(connection)
        if self._settings.personal:
            self.in_use = collectors.other_sessions(connection, USE_SECONDS) > 0
        self.live_runs = live

    def _connected(self) -> database.Connection:
        if self._connection is None:
            self._connection = database.connect(
                self._settings, autocommit=True, patience=locked.PATIENCE, application=database.COLLECTOR
            )
        return self._connection

    def _disconnect(self) -> None:
        self.leads = False
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _key(task: int, run_id: int, secret: bytes, user: str) -> RunKey | None:
    """Return a run's key; None where nobody can make one, which is said, and that run's trouble alone."""
    try:
        return RunKey(run_id, wire.run_key(secret, task), user)
    except errors.WireError as error:
        _log.warning("run %d: %s", run_id, error)
        return None
