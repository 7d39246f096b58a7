"""What follows from facts: the changes that make PostgreSQL say what Slurm and the relays say. Pure.

Slurm is the truth about a job's status, and what it does not say is no evidence. A run is over when its job
is: when accounting has an end for its newest execution and squeue no longer lists it; after a preemption or a
requeue only when squeue has not listed it for a while, since Slurm may start it again. A command
(`hpctrack run`) is over when it says so.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack.model import Attempt, Change, JobFacts, RunStatus, StoredRun, replaced
from hpctrack.reconcile import matching, numbering, running_time
from hpctrack.reconcile.attempts import NOT_LISTED, UNKNOWN, History, verdict_of
from hpctrack.run import states
from hpctrack.run.states import Ends, Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

#: How long squeue must not have listed a job before its absence means anything.
GRACE = timedelta(minutes=5)
#: How often ``runs.time_seen`` is renewed.
VOUCH = timedelta(minutes=5)
#: How long after it was told first, an end other than success is looked up once more: what accounting says of
#: a job that cancels itself changes after squeue has let it go, when its steps have ended. So is a success
#: whose row says no partition: of a brief job accounting learns the end first, and its beginning later.
RECHECK = timedelta(seconds=20)
#: How long after its end slurmctld has forgotten a job (MinJobAge, five minutes by default). If it is started
#: anew before, it tells accounting of that end again, with what it knows by now; later nothing changes.
FORGOTTEN = timedelta(minutes=6)
#: ``runs.reason`` where Slurm knows the array, and the task is in it no more.
TAKEN_OUT = "no longer in its array: cancelled before it started"

_log = logging.getLogger(__name__)


class Survey(NamedTuple):
    """What was asked: without it, what is missing among the facts means nothing."""

    queue: bool = False
    """squeue answered, and every job it lists is among the facts."""
    accounts: Collection[int] = frozenset()
    """Runs whose jobs accounting was asked about, and answered."""


NOTHING_ASKED = Survey()


def plan(
    facts: Iterable[JobFacts],
    stored: Iterable[StoredRun],
    now: datetime,
    *,
    survey: Survey = NOTHING_ASKED,
    grace: timedelta = GRACE,
) -> list[Change]:
    """Return what follows from the facts for the stored runs: only for those that change.

    The order of the facts does not matter, nor whether they come again. A run of which nothing can be made is
    left as it is: people write into their rows, and no others are to wait for it.
    """
    changes = []
    with _no_collection():
        index = matching.Index(facts)
        for run in stored:
            try:
                change = _decide(run, index, now, survey, grace)
            except (ArithmeticError, LookupError, TypeError, ValueError):
                _log.exception("r%d can't be judged and stays as it is", run.run_id)
            else:
                if change is not None:
                    changes.append(change)
    return changes


def _decide(
    run: StoredRun, index: matching.Index, now: datetime, survey: Survey, grace: timedelta
) -> Change | None:
    evidence = index.of(run)
    if not evidence.relay and _says_nothing_new(run, evidence, survey):
        return None
    decide = _command if run.kind == "command" else _batch
    return decide(run, evidence, now, survey, grace)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no garbage meanwhile: among new records there is none, and it takes a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def settle(run: StoredRun, status: RunStatus, when: datetime, reason: str, now: datetime) -> Change | None:
    """Return what follows if a user knows how a run ended that can't tell any more."""
    history = History(run, now)
    history.conclude(status, when, "user", reason)
    return _change(history, matching.NOTHING, over=True, missing=None, long_gone=False)


def _says_nothing_new(run: StoredRun, evidence: matching.Evidence, survey: Survey) -> bool:
    """Recognise quickly the two usual cases: nothing was said, or all is as it was."""
    live = evidence.live
    if live is None:
        return not evidence.rows and not survey.queue
    return (
        live.status is run.status
        and live.raw == run.slurm_state
        and live.reason == run.reason
        and (live.attempt or 0) == run.attempt
        and live.node_list in (run.node_list, None)
        and live.time_started in (run.time_started, None)
        and live.sluid in (run.sluid, None)
        and (live.job_id == run.slurm_job_id or bool(live.array_tasks))
        and live.time_limit in (run.time_limit, None)
        and not (live.unlimited and run.time_limit)
        and live.partition in (run.partition, None)
        and (live.job_name is None or matching.is_called(live.job_name, run.job_name))
        and not running_time.has_slipped(run, live)
        and run.missing_since is None
        and not evidence.rows
        and not evidence.components
        and not _worth_vouching(run, live.time)
        and not (run.run_id in survey.accounts and _lacks_ends(run.attempts))
    )


def _lacks_ends(attempts: tuple[Attempt, ...]) -> bool:
    """Whether an earlier execution has not ended, as far as we know."""
    return any(not states.has_ended(attempt.status) for attempt in attempts[:-1])


def _worth_vouching(run: StoredRun, seen: datetime | None) -> bool:
    return seen is not None and (run.time_seen is None or seen - run.time_seen >= VOUCH)


def _batch(
    run: StoredRun, evidence: matching.Evidence, now: datetime, survey: Survey, grace: timedelta
) -> Change | None:
    """Decide about a batch job, whose end is Slurm's word."""
    history = History(run, now)
    numbered = numbering.number(history.attempts, evidence, queue=survey.queue)
    history.move(numbered.executions)
    for number, fact in numbered.facts:
        history.take(number, fact)
    _keep_components(history, evidence)
    listed = evidence.live is not None or any(
        part.source == "squeue" and matching.goes_on(part) for part in evidence.components
    )
    missing = _missing(history, survey, listed=listed)
    long_gone = missing is not None and now - missing >= grace
    again = run.reason in (UNKNOWN, NOT_LISTED) and run.run_id in survey.accounts
    if long_gone and not history.ended and again:
        _conclude_without_slurm(history, evidence, missing)
    over = _is_over(history, listed=listed, long_gone=long_gone)
    if over or _tells_no_more(history, evidence, survey, grace):
        history.close_earlier()
    recheck = _recheck_after(history, evidence, survey) if over else None
    return _change(
        history, evidence, over=over, missing=missing, long_gone=long_gone, recheck=recheck,
        asked=run.run_id in survey.accounts,
    )  # fmt: skip


def _tells_no_more(history: History, evidence: matching.Evidence, survey: Survey, grace: timedelta) -> bool:
    """Whether accounting was asked long after a job was submitted again, and has no earlier end then."""
    again = evidence.live.time_submitted if evidence.live else None
    asked = history.run.run_id in survey.accounts
    return asked and again is not None and len(history.attempts) > 1 and history.now - again >= grace


def _recheck_after(history: History, evidence: matching.Evidence, survey: Survey) -> datetime | None:
    """When to ask accounting once more how a run ended: ever more rarely, and a last time."""
    run, top = history.run, history.top
    due = run.recheck_after is not None and history.now >= run.recheck_after
    again = due and run.run_id in survey.accounts
    if history.inferred:
        return history.now + FORGOTTEN
    if evidence.rows and top and top.time_ended:
        forgotten = min(top.time_ended, history.now) + FORGOTTEN
        soon = again and history.now < forgotten
        if _lacks_beginning(evidence.rows[-1]) and (run.recheck_after is None or soon):
            return history.now + RECHECK
        if history.status is not RunStatus.COMPLETED:
            before = [_end_of(attempt) for attempt in run.attempts if attempt.attempt == top.attempt]
            if before != [_end_of(top)] or run.time_ended is None:
                return history.now + RECHECK
            if soon:
                return min(forgotten, history.now + max(RECHECK, history.now - top.time_ended))
    return None if again else run.recheck_after


def _lacks_beginning(fact: JobFacts) -> bool:
    """Whether accounting has been told how a job ended, and not yet what was submitted."""
    return fact.source == "sacct" and fact.partition is None


def _end_of(attempt: Attempt) -> tuple[object, ...]:
    """What accounting may correct."""
    return attempt.status, attempt.time_ended, attempt.slurm_exit_code, attempt.slurm_exit_signal


def _command(
    run: StoredRun, evidence: matching.Evidence, now: datetime, survey: Survey, grace: timedelta
) -> Change | None:
    """Decide about an `hpctrack run`: the end of the job around it counts only if it never told its own."""
    history = History(run, now)
    for fact in sorted(evidence.relay, key=lambda fact: numbering.order((fact.attempt or 0, fact))):
        history.take(fact.attempt or 0, fact)
    missing = None
    long_gone = False
    if not history.ended and run.cluster is not None:
        missing = _missing(history, survey, listed=evidence.live is not None)
        long_gone = missing is not None and now - missing >= grace
        last = evidence.rows[-1] if evidence.rows else None
        if long_gone and last and last.status and _has_ended(last):
            # A job that ended well before its command did has killed it.
            killed = last.status is RunStatus.COMPLETED
            status = RunStatus.CANCELLED if killed else last.status
            history.conclude(status, last.time_ended, "sacct", f"its job ended: {last.raw}")
    asked = run.run_id in survey.accounts
    return _change(history, evidence, over=history.ended, missing=missing, long_gone=long_gone, asked=asked)


def _missing(history: History, survey: Survey, *, listed: bool) -> datetime | None:
    """Since when squeue does not list the job."""
    if listed or history.heard:
        return None
    return (history.run.missing_since or history.now) if survey.queue else history.run.missing_since


def _is_over(history: History, *, listed: bool, long_gone: bool) -> bool:
    run, status = history.run, history.status
    if run.time_ended is not None and status is run.status and history.newest == history.newest_before:
        return True
    if listed or not history.ended:
        return False
    return states.ends(status) is Ends.RUN or long_gone


def _conclude_without_slurm(history: History, evidence: matching.Evidence, missing: datetime | None) -> None:
    """Decide about a job that is long gone, and of which accounting has no end, as it has said before.

    After an outage slurmdbd answers before it has been told what happened meanwhile.
    """
    top = history.top
    if top and history.script_ended:
        verdict = verdict_of(top.exit_code, top.exit_signal)
        history.conclude(verdict, top.time_ended, "relay", NOT_LISTED if evidence.rows else UNKNOWN)
    elif not top and evidence.siblings:
        # Slurm keeps no record of a task that is cancelled before it is split off its array.
        history.conclude(RunStatus.CANCELLED, missing, "sacct", TAKEN_OUT)


def _has_ended(row: JobFacts) -> bool:
    return states.has_ended(row.status) and bool(row.time_ended)


def _keep_components(history: History, evidence: matching.Evidence) -> None:
    if evidence.components:
        newest = {part.het_offset or 0: part for part in sorted(evidence.components, key=_component_order)}
        told: list[dict[str, object]] = [
            {"offset": offset, "job_id": part.job_id, "state": part.raw, "node_list": part.node_list}
            for offset, part in sorted(newest.items())
        ]
        history.set_components(told)


def _component_order(part: JobFacts) -> tuple[float, int, str]:
    submitted = part.time_submitted.timestamp() if part.time_submitted else 0.0
    return submitted, numbering.TRUST[part.source], part.raw


def _change(
    history: History,
    evidence: matching.Evidence,
    *,
    over: bool,
    missing: datetime | None,
    long_gone: bool,
    recheck: datetime | None = None,
    asked: bool = False,
) -> Change | None:
    """Return what is to be written, or None if all is as it was; ``asked``: accounting was, and answered."""
    run = history.run
    fields: dict[str, Any] = {
        "status": history.status,
        "missing_since": None if over else missing,
        "recheck_after": recheck,
        "reason": _reason(history, evidence, long_gone=long_gone, asked=asked),
        "time_ended": _time_ended(history, over=over),
    }
    fields.update(_attempt_fields(history, evidence, over=over))
    if run.kind == "batch":
        fields.update(_job_fields(run, evidence))
    different = {name: value for name, value in fields.items() if getattr(run, name) != value}
    written = tuple([history.attempts[number] for number in sorted(history.attempts)])
    attempts = tuple([attempt for attempt in written if attempt not in run.attempts])
    seen = evidence.live.time if evidence.live else None
    for fact in evidence.relay:
        if fact.time and (seen is None or fact.time > seen):
            seen = fact.time
    if seen and (_worth_vouching(run, seen) or (different and seen > (run.time_seen or seen))):
        different["time_seen"] = seen
    if not different and not attempts and not history.transitions:
        return None
    new = replaced(run, {**different, "attempts": written})
    return Change(run, new, attempts, tuple(history.transitions))


def _time_ended(history: History, *, over: bool) -> datetime | None:
    run, top = history.run, history.top
    if not over:
        return None
    return (top.time_ended if top else None) or run.time_ended or run.missing_since or history.now


def _reason(history: History, evidence: matching.Evidence, *, long_gone: bool, asked: bool) -> str | None:
    run, top = history.run, history.top
    if history.ended:
        return top.reason if top else history.inferred or run.reason
    if evidence.live:
        return evidence.live.reason if evidence.live.status in (history.status, None) else None
    if long_gone and asked:
        return NOT_LISTED if evidence.rows else UNKNOWN
    if long_gone:
        return run.reason
    return run.reason if history.status is run.status and not history.heard else None


def _attempt_fields(
    history: History, evidence: matching.Evidence, *, over: bool
) -> Iterator[tuple[str, object]]:
    """What a run shows of its latest attempt that started."""
    if history.slurm_state is not None:
        yield "slurm_state", history.slurm_state
    started = [attempt for attempt in history.attempts.values() if _has_started(attempt)]
    shown = max(started, key=lambda attempt: attempt.attempt, default=None)
    spent = running_time.spent(history, shown, evidence.live)
    yield "time_stopped", None if over else spent.stopped
    yield "suspended", spent.suspended
    if history.top and history.top.sluid:
        yield "sluid", history.top.sluid
    if shown:
        yield "attempt", shown.attempt
        yield "time_started", shown.time_started
        yield "exit_code", shown.exit_code
        yield "exit_signal", shown.exit_signal
        yield "node_list", shown.node_list or history.run.node_list
    else:
        if history.attempts:
            yield "time_started", None  # it was taken back
        if evidence.live and evidence.live.node_list:
            yield "node_list", evidence.live.node_list


def _has_started(attempt: Attempt) -> bool:
    if attempt.time_started is not None:
        return True
    return attempt.status is not None and Stage.RUNNING <= states.stage_of(attempt.status) < Stage.ENDED


def _job_fields(run: StoredRun, evidence: matching.Evidence) -> Iterator[tuple[str, object]]:
    """What belongs to the job as a whole."""
    newest = evidence.live or (evidence.rows[-1] if evidence.rows else None)
    if newest:
        for name in ("partition", "account", "qos", "time_limit"):
            value = getattr(newest, name)
            if value is not None or (name == "time_limit" and newest.unlimited):
                yield name, value
        if newest.job_name and not _lacks_beginning(newest) and _is_new_name(run, newest):
            yield "job_name", newest.job_name
        if not newest.array_tasks:
            yield "slurm_job_id", newest.job_id
        if newest.sluid:
            yield "sluid", newest.sluid
    for fact in evidence.relay:
        for name in ("stdout_path", "stderr_path"):
            if getattr(fact, name) is not None:
                yield name, getattr(fact, name)
        if newest is None and run.slurm_job_id is None and fact.job_id:
            yield "slurm_job_id", fact.job_id


def _is_new_name(run: StoredRun, fact: JobFacts) -> bool:
    return not run.job_name or matching.is_renamed(fact, run.job_name)
