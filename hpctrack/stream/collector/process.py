"""The collector as a process: its socket, its threads, its end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.run import words
from hpctrack.store import database, embedded
from hpctrack.store.write import collectors
from hpctrack.stream.collector import (
    addresses,
    committer,
    courier,
    intake,
    keys,
    launch,
    reconciler,
    registrar,
    summarizer,
)
from hpctrack.stream.collector.figures import Figures
from hpctrack.stream.wire import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hpctrack.settings import Settings
    from hpctrack.stream.collector.worker import Worker

    FindSlurm = Callable[[], reconciler.Slurm]

_CHECK_SECONDS = 5.0
_LATE_SECONDS = 30.0
_log = logging.getLogger(__name__)


class Collector:
    """One collector. `run` returns after `stop`, with everything that was received committed."""

    def __init__(self, settings: Settings, slurm: FindSlurm | None = None) -> None:
        """Bind the socket.

        ``slurm`` finds out how to ask Slurm; None: without a reconciler. Raises
        `errors.CollectorUnavailable` where the address can't be had.
        """
        self._settings = settings
        self.id = uuid.uuid4()
        self._socket = addresses.bind(settings, launch.read_addresses(settings))
        self.addresses = addresses.reachable(self._socket.address)
        self._started = time.monotonic()
        self._stopping = threading.Event()
        self._failed: list[str] = []
        #: When something was last done here or in PostgreSQL, and by which signs that is seen.
        self._used = self._started
        self._signs = (0, 0)
        self._keys = keys.Keys(time.monotonic, self._socket.wake)
        self._intake = intake.Intake()
        self._reconciler = (
            None if slurm is None else reconciler.Reconciler(settings, self.id, slurm, self._leads)
        )
        self._committer = committer.Committer(settings, self._socket, self._intake, self._keys, self._ended)
        self._receiver = intake.Receiver(self._socket, self._keys, self._intake, self._committer.watermark)
        identity = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "addresses": [*map(str, self.addresses)],
        }
        self._registrar = registrar.Registrar(
            settings, self._keys, self.id, identity, self.figures, reconciles=slurm is not None
        )
        self._courier = courier.Courier(settings, self.addresses)
        self._summarizer = summarizer.Summarizer(settings, self._committer.pending)

    def stop(self) -> None:
        """Make `run` return. For any thread, and for signal handlers."""
        self._stopping.set()

    def run(self, *, idle_exit: float | None = None, homeless: Callable[[], bool] | None = None) -> bool:
        """Collect until stopped, or for so many seconds after the last live run.

        ``homeless`` says whether the folder that it works for is gone: then it ends, too. Returns whether it
        ended for want of runs. Raises `errors.HpctrackError` if a part of it failed.
        """
        _log.info("collector %s listens on %s", self.id, " ".join(map(str, self.addresses)))
        with self._exported():
            for worker in (self._receiver, self._committer, *self._others()):
                worker.start(self._fail)
            idle = self._wait(idle_exit, homeless or (lambda: False))
            self._end()
        if self._failed:
            raise errors.HpctrackError("the collector failed: " + "; ".join(self._failed))
        return idle

    def figures(self) -> Figures:
        """Return what the collector did since it started, and how it is."""
        figures = Figures(
            uptime_s=round(time.monotonic() - self._started, 1),
            received=self._receiver.figures(),
            stored=self._committer.figures(),
            unknown_runs=self._keys.refused,
            kernel_drops=self._socket.dropped,
            rejected=dict(self._committer.rejected),
            waiting=len(self._intake),
            lag_s=round(self._intake.lag, 3),
            streams=self._committer.journals,
            held_bytes=self._committer.held_bytes,
            commit_s=round(self._committer.commit_s, 4),
            commit_total_s=round(self._committer.commit_total_s, 4),
            trouble=self._committer.trouble or self._committer.refusing,
            reconciling=False,
        )
        return figures if self._reconciler is None else self._reconciler.add_to(figures)

    @contextlib.contextmanager
    def _exported(self) -> Iterator[None]:
        """Serve the figures to Prometheus meanwhile, if that is wanted."""
        end = self._export() if self._settings.metrics_port else lambda: None
        try:
            yield
        finally:
            end()

    def _export(self) -> Callable[[], None]:
        from hpctrack.stream.collector import exporter  # late: an extra

        return exporter.serve(self._settings, self.figures)

    def _leads(self) -> bool:
        return self._registrar.leads

    def _ended(self, run_ids: Iterable[int]) -> None:
        if self._reconciler is not None:
            self._reconciler.ended(set(run_ids))

    def _others(self) -> list[Worker]:
        """Return the threads beside those that receive and store."""
        others: list[Worker] = [self._registrar, self._courier, self._summarizer]
        return others if self._reconciler is None else [*others, self._reconciler]

    def _fail(self, why: str) -> None:
        self._failed.append(why)
        self.stop()

    def _wait(self, idle_exit: float | None, homeless: Callable[[], bool]) -> bool:
        """Wait until stopped; True if there has been no live run for too long."""
        self._used = time.monotonic()
        while not self._stopping.wait(min(_CHECK_SECONDS, (idle_exit or _CHECK_SECONDS) / 4)):
            if homeless():
                _log.warning("%s is gone, or another's: ending", self._settings.data_dir)
                return False
            if idle_exit is not None and self._is_over(time.monotonic(), idle_exit):
                return True
        return False

    def _is_over(self, now: float, idle_exit: float) -> bool:
        """Whether it was not used for so long, no run lives, and the last one ended long enough ago."""
        if self._is_used():
            self._used = now
            return False
        last_end, learnt_end = self._registrar.last_end, self._registrar.learnt_end
        return (
            now - self._used >= idle_exit
            and self._registrar.live_runs == 0
            and now >= end_of_idleness(last_end, learnt_end, idle_exit)
        )

    def _is_used(self) -> bool:
        """Whether something came since the last look, or others use PostgreSQL, or runs may live."""
        before, self._signs = self._signs, (self._receiver.accepted, embedded.use_mark(self._settings))
        if self._registrar.live_runs is None or self._registrar.in_use:
            return True
        return waits_for_registration(self._settings) or self._signs != before

    def _end(self) -> None:
        """Take in what has arrived, store it, acknowledge it, and only then close the socket."""
        self._courier.stop()
        self._receiver.stop()
        self._receiver.join()
        self._committer.stop()
        self._committer.join()
        for worker in self._others():
            worker.stop()
        for worker in self._others():
            worker.join(10.0)
        self._socket.close()
        counts = self._committer.counts
        rows, batches = words.counted(counts["rows"], "row"), counts["batches"]
        _log.info(
            "collector %s ends: %s in %d %s", self.id, rows, batches, "batch" if batches == 1 else "batches"
        )


def end_of_idleness(last_end: float, learnt_end: float, idle_exit: float) -> float:
    """Return when no run has lived for ``idle_exit``, counted from the last run's end.

    Slurm may tell of an end late: a moment is left for what else it tells.
    """
    return max(last_end + idle_exit, learnt_end + min(_LATE_SECONDS, idle_exit))


def waits_for_registration(settings: Settings) -> bool:
    """Whether the spool holds submissions that PostgreSQL does not know yet."""
    try:
        return any(True for _ in records.unregistered(settings.spool))
    except OSError:
        return False


def run_foreground(settings: Settings, slurm: FindSlurm | None = None) -> None:
    """Run until a signal comes. In the personal mode there can be only one.

    Raises `errors.CollectorUnavailable` if there is one already, or nothing to listen on, and
    `errors.StoreDenied` for a role that is no collector's.
    """
    if not settings.personal:
        _check_role(settings)
        _run_published(settings, slurm)
        return
    with launch.Lock(settings) as lock:
        if not lock.acquire():
            raise errors.CollectorUnavailable(f"a collector of yours runs already: {lock.holder()}")
        lock.sign()
        _run_published(settings, slurm, homeless=lock.is_lost)


def run_detached(settings: Settings, held: int, slurm: FindSlurm | None = None) -> None:
    """Run as the collector that a command started: until there is nothing to do for it.

    ``held``: descriptor of the lock that the command took for it. Ends the embedded PostgreSQL with itself.
    """
    os.chdir("/")  # whatever folder it was started in can be removed
    os.set_inheritable(held, False)  # PostgreSQL, which may stay, is not to keep it
    with launch.Lock(settings, held) as lock:
        while lock.acquire():
            lock.sign()
            idle = _run_published(settings, slurm, settings.idle_exit, lock.is_lost)
            lock.release()
            # A submission that found the lock taken has left its record before it looked.
            if not idle:
                return
            if not waits_for_registration(settings) and _is_idle(settings):
                _log.info("nothing runs any more: PostgreSQL ends, too")
                embedded.stop(settings)
                return


def _check_role(settings: Settings) -> None:
    """Refuse a role without rights at once; a PostgreSQL in trouble is waited for later."""
    try:
        connecting = database.connect(settings, autocommit=True, application=database.COLLECTOR)
        with contextlib.closing(connecting) as connection:
            collectors.check_role(connection)
    except errors.StoreDenied:
        raise
    except errors.StoreError as error:
        _log.warning("%s", error)


def _run_published(
    settings: Settings,
    slurm: FindSlurm | None,
    idle_exit: float | None = None,
    homeless: Callable[[], bool] | None = None,
) -> bool:
    """Run until a signal comes, or until idle; relays without a configured address find it in the spool."""
    collector = Collector(settings, slurm)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: collector.stop())
    try:
        if not settings.collector:
            launch.write_addresses(settings, collector.addresses)
        return collector.run(idle_exit=idle_exit, homeless=homeless)
    finally:
        launch.remove_addresses(settings, collector.addresses)


def _is_idle(settings: Settings) -> bool:
    """Whether no run lives, and nobody but hpctrack itself uses PostgreSQL."""
    if embedded.running(settings) is None:
        return True
    try:
        connecting = database.connect(settings, autocommit=True, application=database.COLLECTOR)
        with contextlib.closing(connecting) as connection:
            if collectors.live_runs(connection):
                return False
            return not collectors.other_sessions(connection, registrar.USE_SECONDS)
    except errors.StoreError as error:
        _log.warning("%s", error)
        return True
