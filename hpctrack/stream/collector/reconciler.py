"""The collector's reconciler: regular passes, and early ones for runs whose script has just ended."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors, reconcile
from hpctrack.backoff import Backoff
from hpctrack.stream.collector import membership, pace
from hpctrack.stream.collector.figures import Program, of
from hpctrack.stream.collector.worker import Worker, session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from uuid import UUID

    from hpctrack.settings import Settings
    from hpctrack.slurm.accounting import Backend
    from hpctrack.store.session import Session
    from hpctrack.stream.collector.figures import Figures

_RETRY_SECONDS = 60.0
_TICK = 0.5
#: If this process stands still while it holds runs, PostgreSQL lets go of them after so long.
_STANDSTILL = "60s"

_log = logging.getLogger(__name__)


class Slurm(NamedTuple):
    """How to ask Slurm."""

    cluster: str
    backend: Backend
    user: str | None
    """Only this user's runs; None: everybody's."""
    environ: Mapping[str, str] = MappingProxyType({})
    """In which Slurm's commands run."""


class Reconciler(Worker):
    """Reconciles while this collector leads, until it is stopped."""

    NAME = "reconcile"
    TROUBLES = (errors.HpctrackError,)
    BACKOFF = Backoff(_TICK, _TICK)
    _session: Session

    def __init__(
        self,
        settings: Settings,
        collector: UUID,
        slurm: Callable[[], Slurm],
        leads: Callable[[], bool],
        between_looks: float = pace.BETWEEN_LOOKS,
    ) -> None:
        """``slurm`` finds out how to ask Slurm; it may raise `errors.SlurmError`."""
        super().__init__(session(settings, autocommit=False, idle=_STANDSTILL))
        self._collector = collector
        self._find_slurm = slurm
        self._leads = leads
        self._slurm: Slurm | None = None
        self._lock = threading.Lock()
        self._looks = pace.Looks(between_looks)
        self._pace = pace.Pace(settings.reconciles_every)
        self._next_pass = 0.0
        self._members = settings.members
        self._next_members = 0.0
        self.passes = 0

    def ended(self, run_ids: Collection[int]) -> None:
        """Look early at runs whose script has ended. For any thread."""
        with self._lock:
            self._looks.add(run_ids, time.monotonic())

    def add_to(self, figures: Figures) -> Figures:
        """Return the collector's figures with what Slurm was asked."""
        return dataclasses.replace(
            figures,
            reconciling=self._leads(),
            slurm_trouble=self.trouble,
            slurm_passes=self.passes,
            slurm_interval_s=round(self._pace.interval, 1),
            slurm_commands={program: of(Program, asked) for program, asked in reconcile.commands().items()},
        )

    def step(self) -> float:
        """Ask Slurm if it is time to; only the collector that leads does."""
        now = time.monotonic()
        if self._leads():
            self._ask(now)
        else:
            with self._lock:
                self._looks.forget(now)
        return _TICK

    def drop(self) -> None:
        """Close the connection; the next regular pass is to come after a whole interval."""
        super().drop()
        self._next_pass = max(self._next_pass, time.monotonic() + self._pace.interval)

    def _ask(self, now: float) -> None:
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
        if slurm.user is None and now >= self._next_members:
            self._next_members = now + membership.INTERVAL
            self._renew_members(slurm)

    def _renew_members(self, slurm: Slurm) -> None:
        """Bring up to date who belongs to which account; what fails is tried again in an hour."""
        connection = self._session.connection()
        why = membership.renew(connection, self._members, slurm.cluster, slurm.environ, lease=self._collector)
        if why is not None:
            _log.warning("who belongs to which account stays as it was known: %s", why)

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
            self._session.connection(),
            slurm.backend,
            slurm.cluster,
            slurm.user,
            lease=self._collector,
            only=only,
        )
        self.passes += 1
        self.note(report.error)
        for change in report.changes:
            run = change.run
            if run.status is not change.before.status:
                _log.info("run %d: %s -> %s", run.run_id, change.before.status.value, run.status.value)
        return report
