"""The collector's reconciler: regular passes, and early ones for runs whose script has just ended."""

from __future__ import annotations

import logging
import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import errors, reconcile
from hpctrack import settings as settings_
from hpctrack.store import database, locked
from hpctrack.stream.collector import pace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from uuid import UUID

    from hpctrack.settings import Settings
    from hpctrack.slurm.accounting import Backend

#: In the personal mode Slurm is asked once a minute, unless the configuration says otherwise.
_PERSONAL_INTERVAL = 60.0
_DEFAULT_INTERVAL = settings_.Settings().reconcile_interval
_RETRY_SECONDS = 60.0
_TICK = 0.5
#: If this process stands still while it holds runs, PostgreSQL lets go of them after so long.
_STANDSTILL = "60s"

#: Stats of a collector that does not reconcile.
NO_STATS: Mapping[str, Any] = MappingProxyType({"slurm_trouble": None, "reconciling": False})

_log = logging.getLogger(__name__)


class Slurm(NamedTuple):
    """How to ask Slurm."""

    cluster: str
    backend: Backend
    user: str | None
    """Only this user's runs; None: everybody's."""


class Reconciling:
    """Reconciles in a thread of its own, while this collector leads, until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        collector: UUID,
        slurm: Callable[[], Slurm],
        leads: Callable[[], bool],
        between_looks: float = pace.BETWEEN_LOOKS,
    ) -> None:
        """``slurm`` finds out how to ask Slurm; it may raise `errors.SlurmError`."""
        self._settings = settings
        self._collector = collector
        self._find_slurm = slurm
        self._leads = leads
        self._slurm: Slurm | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._looks = pace.Looks(between_looks)
        self._pace = pace.Pace(_interval(settings))
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
        with self._lock:
            self._looks.add(run_ids, time.monotonic())

    def stats(self) -> dict[str, Any]:
        """Return what Slurm was asked, for the collector's row in ``collectors``."""
        return {
            "reconciling": self._leads(),
            "slurm_trouble": self.trouble,
            "slurm_passes": self.passes,
            "slurm_interval_s": round(self._pace.interval, 1),
            "slurm_commands": reconcile.commands(),
        }

    def run(self) -> None:
        """Reconcile until stopped."""
        while not self._stopping.wait(_TICK):
            if not self._leads():
                with self._lock:
                    self._looks.forget(time.monotonic())
                continue
            try:
                self._tick(time.monotonic())
            except errors.HpctrackError as error:
                self._note(str(error))
                self._disconnect()
                self._next_pass = max(self._next_pass, time.monotonic() + self._pace.interval)
        self._disconnect()

    def _tick(self, now: float) -> None:
        slurm = self._slurm
        if slurm is None:
            if now < self._next_pass:
                return
            self._next_pass = now + _RETRY_SECONDS
            slurm = self._slurm = self._find_slurm()
            self._next_pass = now
        if not self._pace.silent:
            self._look(slurm, now)
        if now >= self._next_pass:
            report = self._pass(slurm, ())
            self._pace.note(report.asked_s, answered=report.error is None)
            self._next_pass = now + self._pace.interval

    def _look(self, slurm: Slurm, now: float) -> None:
        with self._lock:
            due = self._looks.due(now)
        if due:
            report = self._pass(slurm, due)
            with self._lock:
                waiting = due if report.error else report.waiting
                self._looks.looked(due, waiting, time.monotonic(), report.asked_s)

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
            self._connection = database.connect(
                self._settings, idle=_STANDSTILL, patience=locked.PATIENCE, application=database.COLLECTOR
            )
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _interval(settings: Settings) -> float:
    interval = settings.reconcile_interval
    return _PERSONAL_INTERVAL if settings.personal and interval == _DEFAULT_INTERVAL else interval
