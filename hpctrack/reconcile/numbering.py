"""To which attempt a fact belongs. Pure.

Relays know (SLURM_RESTART_COUNT), and so does squeue, but while a job completes for its requeue. Accounting
does not. From 24.11 on it has the count of restarts at the time when slurmctld told of the execution last:
one too many if slurmctld was started anew, or reconfigured, while the execution completed for its requeue.
Releases before say nothing. Executions are submitted one after the other, so numbers rise with the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hpctrack.model import Attempt, JobFacts
from hpctrack.run import states
from hpctrack.run.states import Ends, RunStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from hpctrack.reconcile.matching import Evidence

#: How much a source knows of an execution that has ended.
TRUST = {"relay": 0, "squeue": 1, "sacct": 2}


class Numbered(NamedTuple):
    """Facts by attempt."""

    facts: list[tuple[int, JobFacts]]
    """Those that count, in the order in which they are to be taken."""
    executions: Mapping[datetime, int]
    """The attempt of each execution that Slurm speaks of, by its time of submission."""


class _Live(NamedTuple):
    """What squeue says of a job that goes on."""

    number: int
    submitted: datetime | None
    before: int
    """Greatest number of an execution that was submitted earlier."""
    fact: JobFacts | None
    """What is to be taken of it."""


def number(attempts: Mapping[int, Attempt], evidence: Evidence, *, queue: bool) -> Numbered:
    """Tell to which attempt each fact belongs, and leave out what must not count yet.

    ``attempts`` are those known, by number. ``queue``: squeue was asked, so that a job that it does not list
    is not requeued.
    """
    facts = [(fact.attempt or 0, fact) for fact in evidence.relay]
    executions: dict[datetime, int] = {}
    live = _read_live(attempts, evidence.live) if evidence.live else None
    if live and live.fact:
        facts.append((live.number, live.fact))
        if live.fact.time_submitted:
            executions[live.fact.time_submitted] = live.number
    for row, at in zip(evidence.rows, _row_numbers(attempts, evidence.rows, live), strict=True):
        if at < 0:
            continue  # more rows than the job has had executions: of a job that had the id before
        if row.time_submitted:
            executions[row.time_submitted] = at
        if _counts(row, at, live, last=row is evidence.rows[-1], queue=queue):
            facts.append((at, row))
    if len(facts) > 1:
        facts.sort(key=order)
    return Numbered(facts, executions)


def _counts(row: JobFacts, at: int, live: _Live | None, *, last: bool, queue: bool) -> bool:
    """Whether what accounting says of an execution is to be believed already."""
    if _is_half_written(row):
        return False
    if live:
        # While squeue lists the job, its newest execution has not ended.
        return at < live.number
    # A job that failed may be requeued for it; only squeue shows whether.
    return not last or queue or row.status is RunStatus.COMPLETED


def _is_half_written(row: JobFacts) -> bool:
    """Whether accounting names an end, but not when it was.

    After an outage of slurmdbd, slurmctld tells first that such a job started, with the state that it has by
    then, and only later how and when it ended.
    """
    return row.time_ended is None and states.has_ended(row.status)


def _row_numbers(attempts: Mapping[int, Attempt], rows: Sequence[JobFacts], live: _Live | None) -> list[int]:
    """Number executions on record: rising from 0 or later, none beyond what squeue and the next row allow.

    Negative for those that there is no room for.
    """
    known = {
        attempt.time_submitted: attempt.attempt for attempt in attempts.values() if attempt.time_submitted
    }
    numbers: list[int] = []
    bound: int | None = None
    for index in reversed(range(len(rows))):
        row = rows[index]
        at = max(index, _claimed(index, row, known, last=index == len(rows) - 1))
        if live:
            at = _beside(live, row, at)
        if bound is not None:
            at = min(at, bound)
        numbers.append(at)
        bound = at - 1
    return numbers[::-1]


def _claimed(index: int, row: JobFacts, known: Mapping[datetime, int], *, last: bool) -> int:
    """Return what is said of an execution's number, by squeue earlier or by accounting."""
    before = known.get(row.time_submitted) if row.time_submitted else None
    if row.attempt is None:
        return _next_free(index, row, known) if before is None else before
    if before is not None:
        return min(before, row.attempt)
    # The row of the execution that follows may not have been written yet.
    return index if last and row.attempt == index + 1 and _may_be_requeued(row) else row.attempt


def _next_free(index: int, row: JobFacts, known: Mapping[datetime, int]) -> int:
    """Number an execution of which nothing else is known but when it was submitted."""
    when = row.time_submitted
    return max([index, *(at + 1 for earlier, at in known.items() if when and earlier < when)])


def _may_be_requeued(row: JobFacts) -> bool:
    return row.status is not None and (row.status.ends is Ends.ATTEMPT or row.status is RunStatus.NODE_FAIL)


def _beside(live: _Live, row: JobFacts, claimed: int) -> int:
    """Number an execution on record of a job that squeue lists."""
    if row.time_submitted is None or live.submitted is None:
        return min(claimed, live.number)
    if row.time_submitted < live.submitted:
        return min(claimed, live.before)
    # The same, or one that began after squeue was asked.
    return live.number if row.time_submitted == live.submitted else max(claimed, live.number + 1)


def _read_live(attempts: Mapping[int, Attempt], fact: JobFacts) -> _Live:
    """Number a line of squeue by its restart count, which Slurm raises when a requeue begins."""
    count = fact.attempt or 0
    if fact.status is RunStatus.REQUEUED:
        before = attempts.get(count - 1)
        old = before is not None and before.time_submitted == fact.time_submitted
        submitted = None if old else fact.time_submitted
        told = fact._replace(status=RunStatus.PENDING, time_submitted=submitted)
        return _Live(count, submitted, count - 1, told)
    if count and fact.status is RunStatus.COMPLETING and not _is_known(attempts.get(count), fact):
        # Still the execution before; its times are wiped or already the next one's. If we never saw it
        # start, accounting will tell how it went.
        before = attempts.get(count - 1)
        seen = before is not None and before.time_started is not None
        wiped = fact._replace(time_submitted=None, time_started=None) if seen else None
        return _Live(count - 1, fact.time_submitted, count - 1, wiped)
    return _Live(count, fact.time_submitted, count - 1, fact)


def _is_known(attempt: Attempt | None, fact: JobFacts) -> bool:
    """Whether an attempt is the execution that a line of squeue is about, and goes on."""
    if attempt is None or attempt.time_submitted != fact.time_submitted:
        return False
    return attempt.status is None or attempt.status.ends is not Ends.ATTEMPT


def order(numbered: tuple[int, JobFacts]) -> tuple[int, float, int, int, float, str]:
    """Return the key by which facts are sorted before they are folded in."""
    at, fact = numbered
    submitted = fact.time_submitted.timestamp() if fact.time_submitted else 0.0
    said = fact.time.timestamp() if fact.time else 0.0
    stage = fact.status.stage if fact.status else 0
    return at, submitted, stage, TRUST[fact.source], said, fact.raw
