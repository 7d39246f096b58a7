"""The collector's reconciler: regular passes, and early ones for runs whose script has just ended."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors, reconcile
from hpctrack import settings as settings_
from hpctrack.store import database

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from uuid import UUID

    from hpctrack.settings import Settings
    from hpctrack.slurm.accounting import Backend

#: Seconds from a script's end to the first look at Slurm's books, and between early looks.
_FIRST_LOOK = 0.5
_BETWEEN_LOOKS = 2.0
#: Each look that finds a run unfinished doubles the wait for the next; then the regular passes will do.
_FIRST_PAUSE = 1.0
_LOOKS = 7
#: How long runs to look at are kept while another collector leads, which may be dead: twice its lease.
_KEPT = 60.0
#: In the personal mode Slurm is asked once a minute, unless the configuration says otherwise.
_PERSONAL_INTERVAL = 60.0
_DEFAULT_INTERVAL = settings_.Settings().reconcile_interval
_RETRY_SECONDS = 300.0
_TICK = 0.5

_log = logging.getLogger(__name__)


class Slurm(NamedTuple):
    """How to ask Slurm."""

    cluster: str
    backend: Backend
    user: str | None
    """Only this user's runs; None: everybody's."""


class _Look(NamedTuple):
    due: float
    pause: float
    left: int


class Reconciling:
    """Reconciles in a thread of its own, while this collector leads, until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        collector: UUID,
        slurm: Callable[[], Slurm],
        leads: Callable[[], bool],
    ) -> None:
        """``slurm`` finds out how to ask Slurm; it may raise `errors.SlurmError`."""
        self._settings = settings
        self._collector = collector
        self._find_slurm = slurm
        self._leads = leads
        self._slurm: Slurm | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._looks: dict[int, _Look] = {}
        self._next_look = 0.0
        self._next_pass = 0.0
        self._connection: database.Connection | None = None
        #: Why the last pass concluded nothing; None if it did.
        self.trouble: str | None = None
        self.passes = 0

    def stop(self) -> None:
        """Have it end."""
        self._stopping.set()

    def ended(self, run_ids: Collection[int]) -> None:
        """Look early at runs whose script has ended. For any thread."""
        due = time.monotonic() + _FIRST_LOOK
        with self._lock:
            self._looks.update(dict.fromkeys(run_ids, _Look(due, _FIRST_PAUSE, _LOOKS)))

    def run(self) -> None:
        """Reconcile until stopped."""
        while not self._stopping.wait(_TICK):
            if not self._leads():
                self._forget(time.monotonic())
                continue
            try:
                self._tick(time.monotonic())
            except errors.HpctrackError as error:
                self._note(str(error))
                self._disconnect()
                self._next_pass = max(self._next_pass, time.monotonic() + self._interval)
        self._disconnect()

    @property
    def _interval(self) -> float:
        interval = self._settings.reconcile_interval
        if self._settings.personal and interval == _DEFAULT_INTERVAL:
            return _PERSONAL_INTERVAL
        return interval

    def _tick(self, now: float) -> None:
        slurm = self._slurm
        if slurm is None:
            if now < self._next_pass:
                return
            self._next_pass = now + _RETRY_SECONDS
            slurm = self._slurm = self._find_slurm()
            self._next_pass = now
        if now >= self._next_look:
            due = self._due(now)
            if due:
                self._next_look = now + _BETWEEN_LOOKS
                self._look_again(due, self._pass(slurm, due))
        if now >= self._next_pass:
            self._next_pass = now + self._interval
            self._pass(slurm, ())

    def _forget(self, now: float) -> None:
        """Let go of the runs that whoever leads has passed over since; the others wait until we lead."""
        with self._lock:
            self._looks = {run_id: look for run_id, look in self._looks.items() if look.due > now - _KEPT}

    def _due(self, now: float) -> list[int]:
        with self._lock:
            return [run_id for run_id, look in self._looks.items() if look.due <= now]

    def _look_again(self, looked_at: list[int], report: reconcile.Report) -> None:
        """Put off the runs that Slurm has not finished with; let go of the others."""
        now = time.monotonic()
        with self._lock:
            for run_id in looked_at:
                look = self._looks.pop(run_id)
                if look.left > 1 and (run_id in report.waiting or report.error):
                    self._looks[run_id] = _Look(now + look.pause, 2 * look.pause, look.left - 1)

    def _pass(self, slurm: Slurm, only: Collection[int]) -> reconcile.Report:
        report = reconcile.run_once(
            self._connected(), slurm.backend, slurm.cluster, slurm.user, lease=self._collector, only=only
        )
        self.passes += 1
        self._note(report.error)
        for change in report.changes:
            run = change.run
            if run.status is not change.before.status:
                _log.info("run %d: %s -> %s", run.run_id, change.before.status.value, run.status.value)
        return report

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            _log.warning("%s", trouble)
        self.trouble = trouble

    def _connected(self) -> database.Connection:
        if self._connection is None:
            self._connection = database.connect(self._settings)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
