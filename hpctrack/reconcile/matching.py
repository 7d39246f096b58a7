"""Which facts are about which run. Pure.

A job id alone names nothing: ids wrap and are used again. A fact is about a run if cluster and user fit and
the job was submitted when the run was. A requeued job gets a new submit time with each execution, at most
`REVIVAL` after the end of the one before: Slurm must still know it.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.model import JobFacts, StoredRun
from hpctrack.run import states, words
from hpctrack.run.states import RunStatus
from hpctrack.text.redact import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

#: How much Slurm's clock may be behind the submitter's.
BEHIND = timedelta(minutes=5)
#: How long after its registered time a job may reach Slurm: sbatch waits for a slow slurmctld.
LATE = timedelta(hours=1)
#: How long after its end a job may be requeued: slurmctld forgets it after MinJobAge, usually 5 minutes.
REVIVAL = timedelta(days=1)


class Evidence(NamedTuple):
    """The facts about one run."""

    relay: Sequence[JobFacts] = ()
    live: JobFacts | None = None
    """squeue lists the job, and not as one that ended."""
    rows: Sequence[JobFacts] = ()
    """Executions on record, each once, in order."""
    components: Sequence[JobFacts] = ()
    """Of a heterogeneous job: what is said about its other components."""
    siblings: bool = False
    """Of an array task that has no fact of its own: Slurm knows its array."""

    @property
    def last(self) -> JobFacts | None:
        """The last execution on record."""
        return self.rows[-1] if self.rows else None

    @property
    def newest(self) -> JobFacts | None:
        """Slurm's newest word about the job."""
        return self.live or self.last

    @property
    def listed(self) -> bool:
        """Whether squeue lists the job, or another component of it, as one that goes on."""
        return self.live is not None or any(
            part.source == "squeue" and goes_on(part) for part in self.components
        )


NOTHING = Evidence()


class Index:
    """Facts, found by what a run has of its job."""

    def __init__(self, facts: Iterable[JobFacts]) -> None:
        self._runs: dict[int, list[JobFacts]] = defaultdict(list)
        self._jobs: dict[int | None, list[JobFacts]] = defaultdict(list)
        self._tasks: dict[tuple[int, int], list[JobFacts]] = defaultdict(list)
        self._arrays: dict[int | None, list[JobFacts]] = defaultdict(list)
        self._members: dict[int, JobFacts] = {}
        self._components: dict[int | None, list[JobFacts]] = defaultdict(list)
        for fact in facts:
            self._add(fact)

    def _add(self, fact: JobFacts) -> None:
        if fact.run_id is not None:
            self._runs[fact.run_id].append(fact)
        elif fact.array_tasks:
            self._arrays[fact.array_job_id or fact.job_id].append(fact)
        else:
            self._jobs[fact.job_id].append(fact)
            if fact.array_job_id is not None and fact.array_task_id is not None:
                self._tasks[fact.array_job_id, fact.array_task_id].append(fact)
                self._members[fact.array_job_id] = fact
            if fact.het_offset:
                self._components[fact.het_job_id or fact.job_id].append(fact)

    def of(self, run: StoredRun) -> Evidence:
        """Return the facts about a run."""
        relay = self._runs.get(run.run_id, ())
        if run.kind == "command":
            return self._of_command(run, relay)
        facts = self.listed(run)
        siblings = not facts and self._knows_array_of(run)
        ours = [fact for fact in facts if is_ours(run, fact)]
        if not ours and not relay:
            return Evidence(siblings=siblings) if siblings else NOTHING
        live, rows = _sorted(ours)
        if rows:
            live, rows = _of_one_job(run, live, rows)
        return Evidence(relay, live, rows, self._components_of(run) if self._components else (), siblings)

    def tasks(self, array_job_id: int) -> set[int]:
        """Return the tasks of an array that squeue lists, and not as ones that ended."""
        lines = [fact for fact in self._arrays.get(array_job_id, ()) if goes_on(fact)]
        single = {
            task
            for (array, task), facts in self._tasks.items()
            if array == array_job_id and any(map(goes_on, facts))
        }
        return single.union(*(part for fact in lines for part in fact.array_tasks))

    def listed(self, run: StoredRun) -> Sequence[JobFacts]:
        """Return the facts under a batch run's ids, whoever's they are."""
        if run.array_job_id is None or run.array_task_id is None:
            return self._jobs.get(run.slurm_job_id or -1, ())
        own = self._tasks.get((run.array_job_id, run.array_task_id))
        if own:
            return own
        lines = self._arrays.get(run.array_job_id, ())
        return [fact for fact in lines if any(run.array_task_id in part for part in fact.array_tasks)]

    def _knows_array_of(self, run: StoredRun) -> bool:
        """Whether there are facts about other tasks of the run's array."""
        if run.array_job_id is None or run.array_task_id is None:
            return False
        member = self._members.get(run.array_job_id)
        others = [*self._arrays.get(run.array_job_id, ()), *([member] if member else [])]
        return any(is_ours(run, fact) for fact in others)

    def _components_of(self, run: StoredRun) -> Sequence[JobFacts]:
        """Return the facts about the other components of a heterogeneous job."""
        parts = self._components.get(run.slurm_job_id or 0, ()) if run.array_task_id is None else ()
        return [part for part in parts if is_ours(run, part)]

    def _of_command(self, run: StoredRun, relay: Sequence[JobFacts]) -> Evidence:
        """Facts about the execution of the job in which a command runs."""
        facts = self._jobs.get(run.slurm_job_id or -1, ())
        live, rows = _sorted([fact for fact in facts if _same_owner(run, fact) and _covers(fact, run)])
        return Evidence(relay, live, rows)


def is_ours(run: StoredRun, fact: JobFacts) -> bool:
    """Whether a fact under the id of a batch job is about this run's job, not about one that had the id."""
    submitted = fact.time_submitted
    if not _same_owner(run, fact):
        return False
    if submitted is None:
        return True
    if submitted < run.time_submitted - BEHIND:
        return False
    gone = _gone_since(run)
    if gone and submitted - gone > REVIVAL:
        return False
    # The first execution keeps the time at which the job was submitted.
    return fact.attempt != 0 or submitted <= run.time_submitted + LATE


def _gone_since(run: StoredRun) -> datetime | None:
    """When the newest known execution ended, or since when Slurm knows nothing of the job."""
    if run.time_ended:
        return run.time_ended
    newest = run.attempts[-1] if run.attempts else None
    if newest and states.has_ended(newest.status):
        return newest.time_ended
    return run.missing_since if run.reason == words.UNKNOWN_TO_SLURM else None


def _of_one_job(
    run: StoredRun, live: JobFacts | None, rows: list[JobFacts]
) -> tuple[JobFacts | None, list[JobFacts]]:
    """Leave out what is of a later job that got the id again."""
    live, rows = _until_revival(live, rows)
    if rows[0].attempt is None and _submitted(rows[0]) > run.time_submitted + LATE:
        rows = []  # the first execution on record is a later job with the same id
    return live, rows


def _until_revival(live: JobFacts | None, rows: list[JobFacts]) -> tuple[JobFacts | None, list[JobFacts]]:
    """Leave out what was submitted too long after the execution before it had ended."""
    for place, row in enumerate(rows):
        gone = row.time_ended
        if gone is None:
            continue
        if place + 1 < len(rows) and _submitted(rows[place + 1]) - gone > REVIVAL:
            return None, rows[: place + 1]
        if place + 1 == len(rows) and live and _submitted(live) - gone > REVIVAL:
            return None, rows
    return live, rows


def _same_owner(run: StoredRun, fact: JobFacts) -> bool:
    return (fact.cluster is None or run.cluster is None or fact.cluster == run.cluster) and (
        fact.slurm_user is None or run.slurm_user is None or fact.slurm_user == run.slurm_user
    )


def _covers(fact: JobFacts, run: StoredRun) -> bool:
    """Whether a command began during this execution of its job."""
    if fact.time_started is None or fact.time_started > run.time_submitted + BEHIND:
        return False
    return fact.time_ended is None or fact.time_ended >= run.time_submitted - BEHIND


def _sorted(facts: Iterable[JobFacts]) -> tuple[JobFacts | None, list[JobFacts]]:
    """Tell the newest line of the living from the executions on record, each once and in order."""
    live: JobFacts | None = None
    rows: dict[datetime, JobFacts] = {}
    for fact in facts:
        if fact.source == "squeue" and goes_on(fact):
            live = fact if live is None else max(live, fact, key=_freshness)
        else:
            submitted = _submitted(fact)
            known = rows.get(submitted)
            rows[submitted] = fact if known is None else max(known, fact, key=_freshness)
    return live, [rows[submitted] for submitted in sorted(rows)]


def goes_on(fact: JobFacts) -> bool:
    """Whether a line of squeue is about a job that has not ended. One with an unknown word has not."""
    return (
        fact.status is None
        or fact.status is RunStatus.REQUEUED
        or fact.status.stage is not states.Stage.ENDED
    )


def _submitted(fact: JobFacts) -> datetime:
    when = fact.time_submitted or fact.time_started or fact.time_ended or fact.time
    assert when is not None, "every backend says when it was asked"  # noqa: S101
    return when


def _freshness(fact: JobFacts) -> tuple[float, int, int, str]:
    stage = fact.status.stage if fact.status else 0
    return fact.time.timestamp() if fact.time else 0.0, fact.attempt or 0, stage, fact.raw


def missing_tasks(facts: Iterable[JobFacts], stored: Iterable[StoredRun]) -> list[tuple[int, int]]:
    """Find tasks of our arrays that squeue lists and that have no run among ``stored``.

    Returns pairs of a run of the same submission and the task's number. Anybody's rows may name an array:
    each submission is judged by itself.
    """
    arrays = _claimed_tasks(stored)
    missing = []
    for fact, claims in _claimed_lines(facts, arrays):
        listed = _tasks_of(fact)
        for run, known in claims.values():
            if not listed <= known and is_ours(run, fact):
                missing += [(run.run_id, task) for task in sorted(listed - known)]
                known.update(listed)
    return missing


#: By submission and user: a run of the array, and the tasks of which there are runs.
_Claims = dict[object, tuple[StoredRun, set[int]]]


def _claimed_tasks(stored: Iterable[StoredRun]) -> dict[int, _Claims]:
    """Return the arrays that runs say they are of."""
    arrays: dict[int, _Claims] = defaultdict(dict)
    for run in stored:
        if run.kind == "batch" and run.array_job_id is not None and run.array_task_id is not None:
            claims = arrays[run.array_job_id]
            claims.setdefault((run.submission, run.slurm_user), (run, set()))[1].add(run.array_task_id)
    return arrays


def _claimed_lines(
    facts: Iterable[JobFacts], arrays: Mapping[int, _Claims]
) -> Iterator[tuple[JobFacts, _Claims]]:
    """Yield squeue's lines of these arrays."""
    for fact in facts if arrays else ():
        claims = arrays.get(fact.array_job_id or 0)
        if claims and fact.source == "squeue":
            yield fact, claims


def _tasks_of(fact: JobFacts) -> set[int]:
    """Return the tasks of an array that a line speaks for."""
    tasks = set[int]().union(*fact.array_tasks)
    return tasks if fact.array_task_id is None else tasks | {fact.array_task_id}


#: Characters that slurmdbd does not store as they are.
_UNLIKE_IN_BOOKS = frozenset("`\"'\\\ufffd")
#: So many bytes of a name it may cut.
_CUT_IN_BOOKS = 250


def is_renamed(fact: JobFacts, stored: str) -> bool:
    """Whether a job has another name than the one that was stored.

    Accounting has quotes and the like replaced, and may cut names: those that it can't have tell nothing.
    """
    name = fact.job_name or ""
    if is_called(name, stored):
        return False
    if fact.source == "squeue":
        return True
    plain = _UNLIKE_IN_BOOKS.isdisjoint(name + stored) and name.isprintable() and stored.isprintable()
    return plain and len(name.encode()) < _CUT_IN_BOOKS


def is_called(name: str | None, stored: str | None) -> bool:
    """Whether a job has the name that was stored, without secrets; of some runs none is known."""
    if stored is None or name == stored:
        return True
    begin, *pieces = stored.split(MASK)
    if name is None or not pieces or not name.startswith(begin):
        return False
    position, end = len(begin), pieces.pop()
    for piece in pieces:
        place = name.find(piece, position)
        if place < 0:
            return False
        position = place + len(piece)
    return name.endswith(end) and len(name) - len(end) >= position
