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
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.model import Attempt, Change, JobFacts, StoredRun, replaced
from hpctrack.reconcile import matching, numbering, running_time
from hpctrack.reconcile.attempts import NOT_LISTED, UNKNOWN, History, verdict_of
from hpctrack.run import states
from hpctrack.run.states import Ends, RunStatus

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
    """What Slurm was asked: only then does the absence of a fact mean anything."""

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

    The order of the facts does not matter, nor whether they come again. A run that can't
    be judged is left as it is: people write into their rows, and others' runs must not wait for that.
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
    case = _Case(run, evidence, now, run.run_id in survey.accounts, survey.queue, grace)
    return _command(case) if run.kind == "command" else _batch(case)


class _Case(NamedTuple):
    """A run that is to be judged, and by what."""

    run: StoredRun
    evidence: matching.Evidence
    now: datetime
    asked: bool = False
    """Accounting was asked about its job, and answered."""
    queue: bool = False
    """squeue answered."""
    grace: timedelta = GRACE

    def missing(self, history: History, *, listed: bool) -> datetime | None:
        """Since when squeue does not list the job."""
        if listed or history.heard:
            return None
        return (self.run.missing_since or self.now) if self.queue else self.run.missing_since

    def is_long_ago(self, when: datetime | None) -> bool:
        """Whether it is so long ago that silence since then means something."""
        return when is not None and self.now - when >= self.grace


class _Conclusion(NamedTuple):
    """What was concluded about a run besides its attempts."""

    over: bool
    missing: datetime | None = None
    """Since when squeue does not list its job."""
    long_gone: bool = False
    """Whether that is so long ago that it means something."""
    recheck: datetime | None = None
    """When accounting is to be asked once more."""


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the garbage collector off: new records are no garbage, and it takes a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def settle(run: StoredRun, status: RunStatus, when: datetime, reason: str, now: datetime) -> Change | None:
    """Return the change that ends a run whose processes are gone, so that they can't tell how it ended."""
    history = History(run, now)
    history.conclude(status, when, "user", reason)
    return _change(history, _Case(run, matching.NOTHING, now), _Conclusion(over=True))


# ---- What is as it was -------------------------------------------------------------------------------------


def _says_nothing_new(run: StoredRun, evidence: matching.Evidence, survey: Survey) -> bool:
    """Recognise quickly the two usual cases: nothing was said, or all is as it was."""
    live = evidence.live
    if live is None:
        return not evidence.rows and not survey.queue
    return (
        _is_as_stored(run, live)
        and run.missing_since is None
        and not evidence.rows
        and not evidence.components
        and not _is_news(run, live.time, VOUCH)
        and not (run.run_id in survey.accounts and _lacks_ends(run.attempts))
    )


def _is_as_stored(run: StoredRun, live: JobFacts) -> bool:
    """Whether squeue's line says nothing but what the run's row says."""
    return (
        live.status is run.status
        and live.raw == run.slurm_state
        and live.reason == run.reason
        and (live.attempt or 0) == run.attempt
        and live.node_list in (run.node_list, None)
        and live.time_started in (run.time_started, None)
        and not running_time.has_slipped(run, live)
        and _is_same_job(run, live)
    )


def _is_same_job(run: StoredRun, live: JobFacts) -> bool:
    """Whether squeue calls and limits the job as the run's row does: `scontrol update` may change that."""
    return (
        live.sluid in (run.sluid, None)
        and (live.job_id == run.slurm_job_id or bool(live.array_tasks))
        and live.partition in (run.partition, None)
        and live.time_limit in (run.time_limit, None)
        and not (live.unlimited and run.time_limit)
        and (live.job_name in (run.job_name, None) or matching.is_called(live.job_name, run.job_name))
    )


def _lacks_ends(attempts: tuple[Attempt, ...]) -> bool:
    """Whether an earlier execution has not ended, as far as we know."""
    return any(not states.has_ended(attempt.status) for attempt in attempts[:-1])


def _is_news(run: StoredRun, seen: datetime | None, after: timedelta) -> bool:
    """Whether a sign of life came so long after the one that is stored."""
    return seen is not None and (run.time_seen is None or seen - run.time_seen >= after)


# ---- Batch jobs --------------------------------------------------------------------------------------------


def _batch(case: _Case) -> Change | None:
    """Decide about a batch job, whose end is Slurm's word."""
    run, evidence = case.run, case.evidence
    history = History(run, case.now)
    numbered = numbering.number(history.attempts, evidence, queue=case.queue)
    history.move(numbered.executions)
    for number, fact in numbered.facts:
        history.take(number, fact)
    _keep_components(history, evidence)
    listed = evidence.listed
    missing = case.missing(history, listed=listed)
    long_gone = case.is_long_ago(missing)
    if long_gone:
        _conclude_without_slurm(history, case, missing)
    over = _is_over(history, listed=listed, long_gone=long_gone)
    if over or _tells_no_more(history, case):
        history.close_earlier()
    recheck = _recheck_after(history, case) if over else None
    return _change(history, case, _Conclusion(over, missing, long_gone, recheck))


def _tells_no_more(history: History, case: _Case) -> bool:
    """Whether accounting was asked long after a job was submitted again, and has no earlier end then."""
    again = case.evidence.live.time_submitted if case.evidence.live else None
    return case.asked and len(history.attempts) > 1 and case.is_long_ago(again)


def _recheck_after(history: History, case: _Case) -> datetime | None:
    """When to ask accounting once more how a run ended: ever more rarely, and a last time."""
    run, top, rows = case.run, history.top, case.evidence.rows
    if history.inferred:
        return case.now + FORGOTTEN
    again = case.asked and run.recheck_after is not None and case.now >= run.recheck_after
    if rows and top and top.time_ended:
        after = _correction_after(history, top, rows[-1], again=again)
        if after is not None:
            return after
    return None if again else run.recheck_after


def _correction_after(history: History, top: Attempt, row: JobFacts, *, again: bool) -> datetime | None:
    """When accounting may say more than this row of an end; None if it will not.

    ``again``: it was asked once more just now.
    """
    now, ended = history.now, top.time_ended or history.now
    forgotten = min(ended, now) + FORGOTTEN
    soon = again and now < forgotten
    if _lacks_beginning(row) and (history.run.recheck_after is None or soon):
        return now + RECHECK
    if history.status is RunStatus.COMPLETED:
        return None
    if _is_new_end(history.run, top):
        return now + RECHECK
    return min(forgotten, now + max(RECHECK, now - ended)) if soon else None


def _lacks_beginning(fact: JobFacts) -> bool:
    """Whether accounting has been told how a job ended, and not yet what was submitted."""
    return fact.source == "sacct" and fact.partition is None


def _is_new_end(run: StoredRun, top: Attempt) -> bool:
    """Whether the end of the newest attempt is not what was stored of it."""
    stored = [_end_of(attempt) for attempt in run.attempts if attempt.attempt == top.attempt]
    return stored != [_end_of(top)] or run.time_ended is None


def _end_of(attempt: Attempt) -> tuple[object, ...]:
    """Return what accounting may correct of an attempt."""
    return attempt.status, attempt.time_ended, attempt.slurm_exit_code, attempt.slurm_exit_signal


def _is_over(history: History, *, listed: bool, long_gone: bool) -> bool:
    run, status = history.run, history.status
    if run.time_ended is not None and status is run.status and history.newest == history.newest_before:
        return True
    if listed or not history.ended:
        return False
    return status.ends is Ends.RUN or long_gone


def _conclude_without_slurm(history: History, case: _Case, missing: datetime | None) -> None:
    """Decide about a job that is long gone, and of which accounting has no end, as it has said before.

    After an outage slurmdbd answers before it has been told what happened meanwhile.
    """
    if history.ended or not case.asked or case.run.reason not in (UNKNOWN, NOT_LISTED):
        return
    top = history.top
    if top and history.script_ended:
        status = verdict_of(top.exit_code, top.exit_signal)
        history.conclude(status, top.time_ended, "relay", NOT_LISTED if case.evidence.rows else UNKNOWN)
    elif not top and case.evidence.siblings:
        # Slurm keeps no record of a task that is cancelled before it is split off its array.
        history.conclude(RunStatus.CANCELLED, missing, "sacct", TAKEN_OUT)


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


# ---- Commands ----------------------------------------------------------------------------------------------


def _command(case: _Case) -> Change | None:
    """Decide about an `hpctrack run`: the end of the job around it counts only if it never told its own."""
    run, evidence = case.run, case.evidence
    history = History(run, case.now)
    for fact in sorted(evidence.relay, key=lambda fact: numbering.order((fact.attempt or 0, fact))):
        history.take(fact.attempt or 0, fact)
    if history.ended or run.cluster is None:
        return _change(history, case, _Conclusion(history.ended))
    missing = case.missing(history, listed=evidence.live is not None)
    long_gone = case.is_long_ago(missing)
    if long_gone:
        _end_with_job(history, evidence)
    return _change(history, case, _Conclusion(history.ended, missing, long_gone))


def _end_with_job(history: History, evidence: matching.Evidence) -> None:
    """End a command whose job has ended well before it did: that has killed it."""
    last = evidence.last
    if last and last.status and last.time_ended and states.has_ended(last.status):
        killed = last.status is RunStatus.COMPLETED
        status = RunStatus.CANCELLED if killed else last.status
        history.conclude(status, last.time_ended, "sacct", f"its job ended: {last.raw}")


# ---- What is to be written ---------------------------------------------------------------------------------


def _change(history: History, case: _Case, conclusion: _Conclusion) -> Change | None:
    """Return what is to be written, or None if all is as it was."""
    run = history.run
    different = _differences(history, case, conclusion)
    attempts = history.in_order
    written = tuple([attempt for attempt in attempts if attempt not in run.attempts])
    if not different and not written and not history.transitions:
        return None
    new = replaced(run, {**different, "attempts": attempts})
    return Change(run, new, written, tuple(history.transitions))


def _differences(history: History, case: _Case, conclusion: _Conclusion) -> dict[str, object]:
    """Return the columns of the run's row that have another value by now."""
    run, evidence = case.run, case.evidence
    fields: dict[str, object] = _attempt_fields(history, evidence, over=conclusion.over)
    fields["status"] = history.status
    fields["missing_since"] = None if conclusion.over else conclusion.missing
    fields["recheck_after"] = conclusion.recheck
    fields["reason"] = _reason(history, case, conclusion)
    fields["time_ended"] = _time_ended(history, over=conclusion.over)
    if run.kind == "batch":
        fields.update(_job_fields(run, evidence))
    different = {name: value for name, value in fields.items() if getattr(run, name) != value}
    seen = _last_sign(evidence)
    if _is_news(run, seen, timedelta.resolution if different else VOUCH):
        different["time_seen"] = seen
    return different


def _last_sign(evidence: matching.Evidence) -> datetime | None:
    """Return when squeue or the relay last told of the job; accounting is no sign of life."""
    seen = evidence.live.time if evidence.live else None
    for fact in evidence.relay:
        if fact.time and (seen is None or fact.time > seen):
            seen = fact.time
    return seen


def _time_ended(history: History, *, over: bool) -> datetime | None:
    run, top = history.run, history.top
    if not over:
        return None
    return (top.time_ended if top else None) or run.time_ended or run.missing_since or history.now


def _reason(history: History, case: _Case, conclusion: _Conclusion) -> str | None:
    """Return why the run is in its state, as Slurm says it, or we where it does not."""
    run, live = history.run, case.evidence.live
    if history.ended:
        return history.top.reason if history.top else history.inferred or run.reason
    if live:
        return live.reason if live.status in (history.status, None) else None
    if conclusion.long_gone:
        return _reason_unlisted(case)
    return run.reason if history.status is run.status and not history.heard else None


def _reason_unlisted(case: _Case) -> str | None:
    if not case.asked:
        return case.run.reason
    return NOT_LISTED if case.evidence.rows else UNKNOWN


def _attempt_fields(history: History, evidence: matching.Evidence, *, over: bool) -> dict[str, object]:
    """What a run shows of its latest attempt that started."""
    shown = history.shown
    spent = running_time.spent(history, shown, evidence.live)
    fields = _fields_of_start(history.run, shown) if shown else _fields_before_start(history, evidence.live)
    fields["time_stopped"] = None if over else spent.stopped
    fields["suspended"] = spent.suspended
    if history.slurm_state is not None:
        fields["slurm_state"] = history.slurm_state
    if history.top and history.top.sluid:
        fields["sluid"] = history.top.sluid
    return fields


def _fields_of_start(run: StoredRun, shown: Attempt) -> dict[str, object]:
    return {
        "attempt": shown.attempt,
        "time_started": shown.time_started,
        "exit_code": shown.exit_code,
        "exit_signal": shown.exit_signal,
        "node_list": shown.node_list or run.node_list,
    }


def _fields_before_start(history: History, live: JobFacts | None) -> dict[str, object]:
    fields: dict[str, object] = {}
    if history.attempts:
        fields["time_started"] = None  # it was taken back
    if live and live.node_list:
        fields["node_list"] = live.node_list
    return fields


def _job_fields(run: StoredRun, evidence: matching.Evidence) -> dict[str, object]:
    """What belongs to the job as a whole."""
    newest = evidence.newest
    fields = _fields_by_slurm(run, newest) if newest else {}
    nameless = newest is None and run.slurm_job_id is None
    for fact in evidence.relay:
        fields.update(_known(fact, "stdout_path", "stderr_path"))
        if nameless and fact.job_id:
            fields["slurm_job_id"] = fact.job_id
    return fields


def _fields_by_slurm(run: StoredRun, newest: JobFacts) -> dict[str, object]:
    fields = _known(newest, "partition", "account", "qos", "time_limit", "sluid")
    if newest.unlimited:
        fields["time_limit"] = newest.time_limit
    if _has_new_name(run, newest):
        fields["job_name"] = newest.job_name
    if not newest.array_tasks:
        fields["slurm_job_id"] = newest.job_id
    return fields


def _known(fact: JobFacts, *names: str) -> dict[str, object]:
    """Return what a fact says of these fields, where it says anything."""
    return {name: value for name in names if (value := getattr(fact, name)) is not None}


def _has_new_name(run: StoredRun, fact: JobFacts) -> bool:
    if not fact.job_name or _lacks_beginning(fact):
        return False
    return not run.job_name or matching.is_renamed(fact, run.job_name)
