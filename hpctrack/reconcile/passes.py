"""Passes of the reconciler: ask, plan, apply. The thin rim around `hpctrack.reconcile.plan`.

Slurm is asked while no transaction is open; then it is decided again from locked rows, and written, in one
transaction.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.model import Change
from hpctrack.reconcile import matching, relayed
from hpctrack.reconcile.inquiry import Inquiry
from hpctrack.reconcile.plan import GRACE, plan, settle
from hpctrack.run import words
from hpctrack.run.states import RunStatus
from hpctrack.slurm import command
from hpctrack.store import database, locked
from hpctrack.store.write import reconciled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from uuid import UUID

    from hpctrack.model import JobFacts, StoredRun
    from hpctrack.slurm.accounting import Backend
    from hpctrack.store.database import Connection
    from hpctrack.stream.wire.messages import RunMessage

#: Seconds without a word after which a run outside Slurm may be lost: relays tell of usage far more often.
_SILENCE = 120.0
#: ``runs.reason`` of a run that its machine took with it.
RESTARTED = "its machine was started again meanwhile"

_log = logging.getLogger(__name__)


class Report(NamedTuple):
    """What one pass did."""

    changes: tuple[Change, ...] = ()
    """In the order of run ids."""
    waiting: tuple[int, ...] = ()
    """Of the runs asked for with ``only``: those of which Slurm does not yet say that they have ended."""
    error: str | None = None
    """Why Slurm could not be asked, or not about everything; None when it answered."""
    asked_s: float = 0.0
    """Seconds that Slurm took to answer."""

    @property
    def changed(self) -> tuple[int, ...]:
        """Ids of the runs that changed."""
        return tuple(change.run.run_id for change in self.changes)


def observe(connection: Connection, messages: Iterable[RunMessage]) -> frozenset[int]:
    """Record what relays said: inside the collector's transaction, which it neither begins nor ends.

    Takes ``hello``, ``start`` and ``fin`` messages (others are ignored) of any number of runs, in the order
    of their journals, and writes all that follows from them: status, attempts, transitions, the runs' fields
    (``runs.env`` from ``start`` included). Saying a thing twice changes nothing. Locks the ``runs`` rows in
    the order of their ids. Errors of psycopg pass through.

    Returns the ids of runs in a Slurm job whose script has ended: worth an early ``run_once(only=...)``.
    """
    messages = list(messages)
    now = datetime.now(timezone.utc)
    facts = [fact for message in messages if (fact := relayed.fact_of(message, now))]
    if not facts:
        return frozenset()
    stored = reconciled.load(connection, _runs_of(facts))
    reconciled.apply(connection, plan(facts, stored, now))
    reconciled.set_env(connection, _environments(messages, {run.run_id for run in stored}))
    finished = _runs_of(fact for fact in facts if fact.status is not RunStatus.RUNNING)
    return frozenset(run.run_id for run in stored if run.run_id in finished and _is_in_job(run))


def _runs_of(facts: Iterable[JobFacts]) -> set[int]:
    """Return the runs that relays speak of."""
    return {fact.run_id for fact in facts if fact.run_id is not None}


def _environments(messages: Iterable[RunMessage], known: Collection[int]) -> dict[int, Mapping[str, str]]:
    """Return the environments on the nodes, by run."""
    told = ((message.run_id, relayed.environment_of(message)) for message in messages)
    return {run_id: env for run_id, env in told if env and run_id in known}


def _is_in_job(run: StoredRun) -> bool:
    """Whether accounting will say how the run ended."""
    return run.kind == "batch" and bool(run.cluster)


def run_once(
    connection: Connection,
    backend: Backend,
    cluster: str,
    user: str | None = None,
    *,
    lease: UUID | None = None,
    only: Collection[int] = (),
    grace: timedelta = GRACE,
) -> Report:
    """Make one pass: at most one squeue, sacct for the jobs that left the queue, one transaction.

    ``connection`` is idle and not in autocommit mode. ``user``: the runs of that user alone (the personal
    mode). ``lease``: id of the collector on whose behalf this runs; if its row in ``collectors`` has no
    lease that is still good, nothing is written and `errors.LeaseLost` raised. Runs that other sessions hold
    for longer than the connection waits for locks are left for another pass. ``only``: an early check of
    these runs, which asks sacct and, only where something may still be requeued, squeue. If Slurm can't be
    reached nothing is concluded: `Report.error` says why, the table ``clusters`` since when.
    """
    with database.translated(), connection.transaction():
        stored = reconciled.load_open(connection, cluster, user, only=only)
        if only:
            stored = [run for run in stored if run.time_ended is None]
        checked = reconciled.last_checked(connection, cluster)
        if not stored and (only or not reconciled.ended_lately(connection, cluster, user, matching.REVIVAL)):
            return Report()
    inquiry = Inquiry(backend, [user] if user else None, stored, datetime.now(timezone.utc), checked)
    asked_s = _ask(inquiry, early=bool(only))
    record = not only
    try:
        changes = _conclude(connection, inquiry, cluster, grace, lease, record=record)
    except errors.StoreBusy:
        changes = _conclude(connection, inquiry, cluster, grace, lease, record=record, around_held=True)
    waiting = _still_open(stored, changes) if only else ()
    return Report(tuple(changes), waiting, inquiry.error, asked_s)


def _ask(inquiry: Inquiry, *, early: bool) -> float:
    """Ask Slurm; what fails is noted with what was asked. Return the seconds that it took."""
    began = time.monotonic()
    try:
        inquiry.ask_early() if early else inquiry.ask()
    except errors.SlurmError as error:
        inquiry.error = str(error)
    return time.monotonic() - began


def _still_open(stored: Iterable[StoredRun], changes: Iterable[Change]) -> tuple[int, ...]:
    """Return the runs that have not ended by these changes."""
    over = {change.run.run_id for change in changes if change.run.time_ended is not None}
    return tuple(run.run_id for run in stored if run.run_id not in over)


def settle_lost(
    connection: Connection, node: str, booted: datetime, living: Callable[[Collection[str]], Collection[str]]
) -> tuple[Change, ...]:
    """End the caller's runs outside Slurm of which nothing is left on this node.

    They were running when the node went down (NODE_FAIL), or all their processes were killed at once, the
    relay among them (FAILED). ``booted`` is when the node was started last: no process is older. A clock
    that was put forward makes it too late, hence runs that were heard of lately stay. ``living`` tells which
    of the runs with these names (``uuid:task``) have processes here. Should a run's end turn up after all,
    that counts.
    """
    with database.translated(), connection.transaction():
        silent = reconciled.find_silent_commands(connection, node, booted, _SILENCE)
        lost = _lost(silent, living)
        now = datetime.now(timezone.utc)
        stored = reconciled.load(connection, lost.keys()) if lost else ()
        changes = [_end_lost(run, lost[run.run_id], now) for run in stored if run.time_ended is None]
        told = tuple([change for change in changes if change is not None])
        reconciled.apply(connection, told)
    return told


def _lost(
    silent: Sequence[reconciled.Silent], living: Callable[[Collection[str]], Collection[str]]
) -> dict[int, reconciled.Silent]:
    """Return the runs of which nothing is left here, by id."""
    silent = list(silent)
    here = living({run.name for run in silent if not run.restarted})
    return {run.run_id: run for run in silent if run.restarted or run.name not in here}


def _end_lost(run: StoredRun, lost: reconciled.Silent, now: datetime) -> Change | None:
    if lost.restarted:
        return settle(run, RunStatus.NODE_FAIL, lost.heard, RESTARTED, now)
    return settle(run, RunStatus.FAILED, lost.heard, relayed.UNSEEN, now)


def commands() -> dict[str, dict[str, float]]:
    """Return what this process asked of Slurm, by program: ``commands, failures, seconds, longest_s``."""
    return command.counters.by_program()


def _conclude(
    connection: Connection,
    inquiry: Inquiry,
    cluster: str,
    grace: timedelta,
    lease: UUID | None,
    *,
    record: bool,
    around_held: bool = False,
) -> list[Change]:
    """Write what Slurm's answers change, and with ``record`` that it answered, in one transaction.

    ``around_held`` leaves runs that other sessions hold for another pass.
    """
    with database.translated(), connection.transaction():
        if lease:
            reconciled.check_lease(connection, lease)
        changes = []
        if inquiry.facts or inquiry.queued:
            changes = _write(connection, inquiry, cluster, grace, around_held=around_held)
        if inquiry.error or record:
            reconciled.note_cluster(connection, cluster, inquiry.error)
    return changes


def _write(
    connection: Connection, inquiry: Inquiry, cluster: str, grace: timedelta, *, around_held: bool
) -> list[Change]:
    """Decide from locked rows what the facts change, and write it."""
    facts, survey, now = inquiry.facts, inquiry.survey, inquiry.now
    ids = {change.run.run_id for change in plan(facts, inquiry.stored, now, survey=survey, grace=grace)}
    missing = matching.missing_tasks(facts, inquiry.stored)
    ids.update(_reopened(connection, inquiry, cluster, missing))
    if around_held:
        left = locked.find(connection, ids.union(like for like, _ in missing))
        _log.warning(
            "%s can't be corrected now: %s", words.counted(len(left), "run"), locked.describe(connection)
        )
        ids -= left
        missing = [(like, task) for like, task in missing if like not in left]
    if missing:
        ids.update(reconciled.add_tasks(connection, missing))
    if not ids:
        return []
    return reconciled.apply_each(
        connection, plan(facts, reconciled.load(connection, ids), now, survey=survey, grace=grace)
    )


def _reopened(
    connection: Connection, inquiry: Inquiry, cluster: str, missing: Sequence[tuple[int, int]]
) -> list[int]:
    """Find runs that are over for us while squeue lists their jobs: Slurm can requeue what has ended."""
    known = {run.slurm_job_id for run in inquiry.stored}
    restarted = {fact.job_id for fact in inquiry.facts if fact.attempt and fact.job_id is not None}
    jobs = restarted - known
    arrays = {run.run_id: run.array_job_id for run in inquiry.stored}
    tasks = [(array, task) for like, task in missing if (array := arrays[like]) is not None]
    return reconciled.find_ended(connection, cluster, jobs, tasks) if jobs or tasks else []
