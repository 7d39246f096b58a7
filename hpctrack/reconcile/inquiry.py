"""What Slurm is asked about open runs: one squeue, and sacct about the jobs that it does not list."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from hpctrack.model import JobFacts, StoredRun
from hpctrack.reconcile import matching
from hpctrack.reconcile.attempts import NOT_LISTED, UNKNOWN
from hpctrack.reconcile.plan import Survey
from hpctrack.run import states
from hpctrack.run.states import RunStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.slurm.accounting import Backend

#: From so many absent tasks of one array on, accounting is asked for the whole array.
_WHOLE_ARRAY = 250
#: How long an attempt that was requeued and never seen is looked for, beside a job that goes on.
_LOOK_BACK = timedelta(hours=1)
#: So long, accounting is asked for an absent job in every pass; after that at growing intervals.
_PERSIST = timedelta(minutes=15)
_INTERVAL_GROWTH = 1.5
#: Runs are asked for together if they were submitted less than so long ago, or all before.
_AGES = (timedelta(days=2), timedelta(days=60))
_OLDEST = timedelta(days=3650)
#: Absent runs of one login that accounting is asked about in one pass: sacct takes some hundreds at a time.
_MOST_ABSENT = 5_000
#: slurm.h: job ids have 32 bits, of which the last values mean something else; MAX_ARRAY_SIZE.
_LAST_JOB, _LAST_TASK = 0xFFFFFFF0, 4_000_000


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
        self._ask_accounts(_in_turn(absent))

    def ask_early(self) -> None:
        """Ask sacct alone, if that finds successes only; of all else squeue knows first whether it is final.

        What sacct says of a job that is being cancelled or may be requeued changes until squeue lets it go.
        """
        if not any(run.exit_code or run.exit_signal for run in self.stored):
            self._ask_accounts(self.stored)
            index = matching.Index(self.facts)
            if not any(_has_failed(index.of(run).last) for run in self.stored):
                return
            self.facts, self.accounts = [], set()
        self.ask()

    def _ask_queue(self) -> None:
        self.facts += self.backend.queue(self.users)
        self.queued = True

    def _ask_accounts(self, asked: list[StoredRun]) -> None:
        """Ask sacct about runs, those of one age together: one old run would make it search far back for all.

        A run's time of submission and its job are what its owner says, and may be anything.
        """
        ages: dict[int, list[StoredRun]] = {}
        for run in asked:
            if _job_of(run):
                age = self.now - run.time_submitted
                ages.setdefault(sum(age > limit for limit in _AGES), []).append(run)
        for _, members in sorted(ages.items()):
            earliest = max(min(run.time_submitted for run in members), self.now - _OLDEST)
            self._ask_accounts_since(members, min(earliest, self.now) - matching.BEHIND)

    def _ask_accounts_since(self, asked: list[StoredRun], since: datetime) -> None:
        """Ask sacct about runs; about tasks that never were jobs of their own through their arrays."""
        unborn = [run for run in asked if run.slurm_job_id is None]
        sizes = Counter(run.array_job_id for run in unborn)
        whole = {array for array, size in sizes.items() if array is not None and size >= _WHOLE_ARRAY}
        facts = self._ended(asked, whole, since)
        silent = _silent_arrays([run for run in unborn if run.array_job_id not in whole], facts)
        if silent:
            facts += self.backend.ended([str(array) for array in sorted(silent)], since)
        self.facts += facts
        self.accounts |= {run.run_id for run in asked}

    def _ended(self, asked: list[StoredRun], whole: set[int], since: datetime) -> list[JobFacts]:
        jobs = {str(run.array_job_id) if run.array_job_id in whole else _job_of(run): None for run in asked}
        return self.backend.ended([job for job in jobs if job], since)


def _silent_arrays(tasks: list[StoredRun], facts: list[JobFacts]) -> set[int]:
    """Return the arrays of tasks of which accounting has no row."""
    index = matching.Index(facts)
    arrays = {run.array_job_id for run in tasks if not index.of(run).rows}
    return {array for array in arrays if array is not None}


def _in_turn(absent: list[StoredRun]) -> list[StoredRun]:
    """Return the runs that are asked about in this pass: of each login some, others each time.

    Anybody may invent any number of jobs that Slurm does not know.
    """
    logins: dict[str | None, list[StoredRun]] = {}
    for run in absent:
        logins.setdefault(run.owner, []).append(run)
    return [
        run
        for runs in logins.values()
        for run in (random.sample(runs, _MOST_ABSENT) if len(runs) > _MOST_ABSENT else runs)
    ]


def _has_failed(last: JobFacts | None) -> bool:
    """Whether an execution on record has ended otherwise than well."""
    return last is not None and states.has_ended(last.status) and last.status is not RunStatus.COMPLETED


def _job_of(run: StoredRun) -> str | None:
    """The job as sacct knows it; None where there is none, or what the row says can be no job of Slurm's.

    sacct refuses a whole question for one number that it can't read.
    """
    if run.kind == "batch" and run.array_task_id is not None:
        valid = _is_job(run.array_job_id) and 0 <= run.array_task_id <= _LAST_TASK
        return f"{run.array_job_id}_{run.array_task_id}" if valid else None
    return str(run.slurm_job_id) if _is_job(run.slurm_job_id) else None


def _is_job(number: int | None) -> bool:
    return number is not None and 0 < number <= _LAST_JOB


def _is_due(run: StoredRun, checked: datetime | None, now: datetime) -> bool:
    """Whether to ask accounting about a run that squeue does not list: ever more rarely with time."""
    if run.reason not in (UNKNOWN, NOT_LISTED):
        return True  # it has not been told yet what accounting knows
    if run.exit_code is not None or run.exit_signal is not None:
        return True  # that is its end if accounting says the same once more
    if run.missing_since is None or checked is None or now - run.missing_since < _PERSIST:
        return True

    def age(at: datetime) -> int:
        seconds = max(1.0, (at - (run.missing_since or at)).total_seconds())
        return int(math.log(seconds, _INTERVAL_GROWTH))

    return age(checked) != age(now)


def _lacks_ends(run: StoredRun, live: JobFacts, now: datetime) -> bool:
    """Whether Slurm has started a job again and we don't know how its earlier attempts ended.

    Stored attempts are asked about until they have an end, missing ones for a while after the restart.
    """
    if not live.attempt or run.kind == "command" or live.time_submitted is None:
        return False
    earlier = [attempt for attempt in run.attempts if attempt.attempt < live.attempt]
    if not all(states.has_ended(attempt.status) for attempt in earlier):
        return True
    return now - live.time_submitted <= _LOOK_BACK and len(earlier) < live.attempt
