"""Compare what PostgreSQL believes with what Slurm and the relays say, and correct PostgreSQL.

The thin rim around `plan.plan`: asks Slurm while no transaction is open, then decides again from locked rows
and writes in one transaction.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors, matching, relayed
from hpctrack import plan as plan_
from hpctrack.model import Change, JobFacts, RelayMessage, RunStatus, StoredRun
from hpctrack.plan import GRACE, Survey, plan
from hpctrack.slurm import command, states
from hpctrack.slurm.states import Stage
from hpctrack.store import database, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from uuid import UUID

    from hpctrack.slurm.accounting import Backend
    from hpctrack.store.database import Connection

__all__ = ["GRACE", "Report", "Survey", "commands", "observe", "plan", "run_once", "settle_lost"]

#: From so many absent tasks of one array on, accounting is asked for the whole array.
_WHOLE_ARRAY = 250
#: How long the end of an attempt that was requeued is looked for, beside a job that goes on.
_LOOK_BACK = timedelta(hours=1)
#: So long, accounting is asked for an absent job in every pass; after that at growing intervals.
_PERSIST = timedelta(minutes=15)
_INTERVAL_GROWTH = 1.5
#: Seconds without a word after which a run outside Slurm may be lost: relays tell of usage far more often.
_SILENCE = 120.0
#: ``runs.reason`` of a run that its machine took with it.
RESTARTED = "its machine was started again meanwhile"


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


def observe(connection: Connection, messages: Iterable[RelayMessage]) -> frozenset[int]:
    """Record what relays said: inside the collector's transaction, which it neither begins nor ends.

    Takes ``hello``, ``start`` and ``fin`` messages (others are ignored) of any number of runs, in the order
    of their journals, and writes all that follows from them: status, attempts, transitions, the runs' fields
    (``runs.env`` from ``start`` included). Saying a thing twice changes nothing. Locks the ``runs`` rows in
    the order of their ids. A body of the wrong shape never raises; what can't be used is left out. Errors of
    psycopg pass through.

    Returns the ids of runs in a Slurm job whose script has ended: worth an early ``run_once(only=...)``.
    """
    messages = list(messages)
    now = datetime.now(timezone.utc)
    facts = [fact for message in messages if (fact := relayed.fact_of(message, now))]
    if not facts:
        return frozenset()
    stored = runs.load(connection, {fact.run_id for fact in facts if fact.run_id is not None})
    runs.apply(connection, plan(facts, stored, now))
    known = {run.run_id for run in stored}
    environments = {
        message.run_id: env
        for message in messages
        if message.run_id in known and (env := relayed.environment_of(message))
    }
    runs.set_env(connection, environments)
    finished = {fact.run_id for fact in facts if fact.status is not RunStatus.RUNNING}
    return frozenset(
        run.run_id for run in stored if run.run_id in finished and run.kind == "batch" and run.cluster
    )


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
    lease that is still good, nothing is written and `errors.LeaseLost` raised. ``only``: an early check of
    these runs, which asks sacct and, only where something may still be requeued, squeue. If Slurm can't be
    reached nothing is concluded: `Report.error` says why, the table ``clusters`` since when.
    """
    with database.translated(), connection.transaction():
        stored = runs.load_open(connection, cluster, user)
        checked = runs.last_checked(connection, cluster)
    if only:
        wanted = set(only)
        stored = [run for run in stored if run.run_id in wanted and run.time_ended is None]
    if not stored:
        return Report()
    inquiry = Inquiry(backend, [user] if user else None, stored, datetime.now(timezone.utc), checked)
    began = time.monotonic()
    try:
        inquiry.ask_early() if only else inquiry.ask()
    except errors.SlurmError as error:
        inquiry.error = str(error)
    asked_s = time.monotonic() - began
    with database.translated(), connection.transaction():
        if lease:
            runs.check_lease(connection, lease)
        changes = _write(connection, inquiry, cluster, grace) if inquiry.facts or inquiry.queued else []
        if inquiry.error or not only:
            runs.note_cluster(connection, cluster, inquiry.error)
    over = {change.run.run_id for change in changes if change.run.time_ended is not None}
    waiting = tuple(run.run_id for run in stored if only and run.run_id not in over)
    return Report(tuple(changes), waiting, inquiry.error, asked_s)


def settle_lost(
    connection: Connection, node: str, booted: datetime, living: Callable[[Collection[str]], Collection[str]]
) -> tuple[Change, ...]:
    """End the caller's runs outside Slurm of which nothing is left on this node.

    They were running when the node went down (NODE_FAIL), or all their processes were killed at once, so that
    nobody could tell (FAILED). ``booted`` is when the node was started last: no process is older. A clock
    that was put forward makes it too late, hence runs that were heard of lately stay. ``living`` tells which
    of the runs with these names (``uuid:task``) have processes here. Should a run's end turn up after all,
    that counts.
    """
    with database.translated(), connection.transaction():
        silent = {one.run_id: one for one in runs.find_silent_commands(connection, node, booted, _SILENCE)}
        here = living({one.name for one in silent.values() if not one.restarted})
        lost = {run_id: one for run_id, one in silent.items() if one.restarted or one.name not in here}
        now = datetime.now(timezone.utc)
        changes = []
        for run in runs.load(connection, lost.keys()) if lost else ():
            heard, restarted = lost[run.run_id].heard, lost[run.run_id].restarted
            status = RunStatus.NODE_FAIL if restarted else RunStatus.FAILED
            change = plan_.settle(run, status, heard, RESTARTED if restarted else relayed.UNSEEN, now)
            if change is not None and run.time_ended is None:
                changes.append(change)
        runs.apply(connection, changes)
    return tuple(changes)


def commands() -> dict[str, dict[str, float]]:
    """Return what this process asked of Slurm, by program: ``commands, failures, seconds, longest_s``."""
    return command.counters.by_program()


def _write(connection: Connection, inquiry: Inquiry, cluster: str, grace: timedelta) -> list[Change]:
    """Decide from locked rows what the facts change, and write it."""
    facts, survey, now = inquiry.facts, inquiry.survey, inquiry.now
    ids = {change.run.run_id for change in plan(facts, inquiry.stored, now, survey=survey, grace=grace)}
    missing = matching.missing_tasks(facts, inquiry.stored)
    ids.update(_reopened(connection, inquiry, cluster, missing))
    if missing:
        ids.update(runs.add_tasks(connection, missing))
    if not ids:
        return []
    changes = plan(facts, runs.load(connection, ids), now, survey=survey, grace=grace)
    runs.apply(connection, changes)
    return changes


def _reopened(
    connection: Connection, inquiry: Inquiry, cluster: str, missing: Sequence[tuple[int, int]]
) -> list[int]:
    """Find runs that are over for us while squeue lists their jobs: Slurm can requeue what has ended."""
    known = {run.slurm_job_id for run in inquiry.stored}
    jobs = {fact.job_id for fact in inquiry.facts if fact.attempt and fact.job_id not in known}
    arrays = {run.run_id: run.array_job_id for run in inquiry.stored}
    tasks = [(array, task) for like, task in missing if (array := arrays[like]) is not None]
    return runs.find_ended(connection, cluster, jobs, tasks) if jobs or tasks else []


@dataclass
class Inquiry:
    """What Slurm was asked about open runs, and what it said."""

    backend: Backend
    users: Sequence[str] | None
    stored: list[StoredRun]
    now: datetime
    checked: datetime | None = None
    """When Slurm last answered everything."""
    facts: list[JobFacts] = field(default_factory=list)
    queued: bool = False
    accounts: set[int] = field(default_factory=set)
    error: str | None = None

    @property
    def survey(self) -> Survey:
        """What was asked and answered, as `plan.plan` wants it."""
        return Survey(self.queued, frozenset(self.accounts))

    def ask(self) -> None:
        """Ask squeue for the living, and sacct for the runs that it does not list."""
        self._ask_queue()
        index = matching.Index(self.facts)
        absent = []
        for run in self.stored:
            evidence = index.of(run)
            if evidence.live is None:
                if _is_due(run, self.checked, self.now):
                    absent.append(run)
            elif _lacks_ends(run, evidence.live, self.now):
                absent.append(run)
        self._ask_accounts(absent)

    def ask_early(self) -> None:
        """Ask sacct alone, if that finds successes only; of all else squeue knows first whether it is final.

        What sacct says of a job that is being cancelled or may be requeued changes until squeue lets it go.
        """
        if not any(run.exit_code or run.exit_signal for run in self.stored):
            self._ask_accounts(self.stored)
            index = matching.Index(self.facts)
            newest = [rows[-1].status for run in self.stored if (rows := index.of(run).rows)]
            ended = [status for status in newest if status and states.stage_of(status) is Stage.ENDED]
            if all(status is RunStatus.COMPLETED for status in ended):
                return
            self.facts, self.accounts = [], set()
        self.ask()

    def _ask_queue(self) -> None:
        self.facts += self.backend.queue(self.users)
        self.queued = True

    def _ask_accounts(self, asked: list[StoredRun]) -> None:
        """Ask sacct about runs; about tasks that never were jobs of their own through their arrays."""
        asked = [run for run in asked if _job_of(run)]
        if not asked:
            return
        since = min(run.time_submitted for run in asked) - matching.BEHIND
        sizes = Counter(run.array_job_id for run in asked if run.slurm_job_id is None)
        whole = {array for array, size in sizes.items() if array is not None and size >= _WHOLE_ARRAY}
        found = self._ended(asked, whole, since)
        index = matching.Index(found)
        silent = {
            run.array_job_id
            for run in asked
            if run.slurm_job_id is None and run.array_job_id not in whole and not index.of(run).rows
        }
        if silent:
            arrays = sorted(array for array in silent if array is not None)
            found += self.backend.ended([str(array) for array in arrays], since)
        self.facts += found
        self.accounts |= {run.run_id for run in asked}

    def _ended(self, asked: list[StoredRun], whole: set[int], since: datetime) -> list[JobFacts]:
        jobs = {str(run.array_job_id) if run.array_job_id in whole else _job_of(run): None for run in asked}
        return self.backend.ended([job for job in jobs if job], since)


def _job_of(run: StoredRun) -> str | None:
    """The job as sacct knows it."""
    if run.kind == "batch" and run.array_task_id is not None:
        return f"{run.array_job_id}_{run.array_task_id}"
    return None if run.slurm_job_id is None else str(run.slurm_job_id)


def _is_due(run: StoredRun, checked: datetime | None, now: datetime) -> bool:
    """Whether to ask accounting about a run that squeue does not list: ever more rarely with time."""
    if run.missing_since is None or checked is None or now - run.missing_since < _PERSIST:
        return True

    def age(at: datetime) -> int:
        seconds = max(1.0, (at - (run.missing_since or at)).total_seconds())
        return int(math.log(seconds, _INTERVAL_GROWTH))

    return age(checked) != age(now)


def _lacks_ends(run: StoredRun, live: JobFacts, now: datetime) -> bool:
    """Whether Slurm has started a job again lately and we don't know how its earlier attempts ended."""
    if not live.attempt or run.kind == "command":
        return False
    if live.time_submitted is None or now - live.time_submitted > _LOOK_BACK:
        return False
    ended = {
        attempt.attempt
        for attempt in run.attempts
        if attempt.status and states.stage_of(attempt.status) is Stage.ENDED
    }
    return not ended.issuperset(range(live.attempt))
