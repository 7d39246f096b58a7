"""Fold facts into the attempts of a run and its transitions. Pure.

Per attempt the status only goes forward (`Stage`); Slurm's word about times and nodes goes before the
relay's; nothing that was known becomes unknown. That makes the outcome independent of the order of the facts.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from hpctrack.model import Attempt, JobFacts, Source, StoredRun, Transition, replaced
from hpctrack.run import states, words
from hpctrack.run.states import Ends, RunStatus, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

#: ``attempts.reason`` where the job was started again, and nobody told how an execution ended.
UNTOLD = "requeued; Slurm keeps no account of it"
UNKNOWN = words.UNKNOWN_TO_SLURM
#: ``runs.reason`` where accounting knows a job that goes on, and squeue has not listed it for long.
NOT_LISTED = "squeue does not list it; accounting has no end of it"
#: Reasons that are none any more when accounting has told an end.
_INFERRED = (UNTOLD, UNKNOWN, NOT_LISTED)
#: How a shell reports that a program was interrupted or terminated.
_STOPPED_CODES = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_STOPPED_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def verdict_of(exit_code: int | None, exit_signal: int | None, *, out_of_memory: bool = False) -> RunStatus:
    """Return the status of a run of which only the end of its process is known."""
    if out_of_memory:
        return RunStatus.OUT_OF_MEMORY
    if exit_signal in _STOPPED_SIGNALS or exit_code in _STOPPED_CODES:
        return RunStatus.CANCELLED
    return RunStatus.COMPLETED if exit_code == 0 and not exit_signal else RunStatus.FAILED


class History:
    """The attempts of a run while facts are folded in, in the order of `plan.plan`."""

    def __init__(self, run: StoredRun, now: datetime) -> None:
        self.run = run
        self.now = now
        self.attempts = {attempt.attempt: attempt for attempt in run.attempts}
        self.newest = max(self.attempts, default=0)
        """Number of the newest attempt."""
        self.newest_before = self.newest
        self.transitions: list[Transition] = []
        self.heard = False
        """A relay said that the run lives, which was not known."""
        self.slurm_state: str | None = None
        """Slurm's latest word about the newest attempt."""
        self.inferred: str | None = None
        """Why the run is taken to have ended, where no source said so."""
        self.accounted: set[int] = set()
        """Attempts whose end accounting has told."""
        self._waiting = run.status

    @property
    def top(self) -> Attempt | None:
        """The newest attempt; None while the run waits for its first start."""
        return self.attempts.get(self.newest)

    @property
    def in_order(self) -> tuple[Attempt, ...]:
        """All attempts, the first one first."""
        return tuple([self.attempts[number] for number in sorted(self.attempts)])

    @property
    def shown(self) -> Attempt | None:
        """The latest attempt that started."""
        started = [attempt for attempt in self.attempts.values() if _has_started(attempt)]
        return max(started, key=lambda attempt: attempt.attempt, default=None)

    @property
    def status(self) -> RunStatus:
        """Status of the newest attempt, which is the run's."""
        top = self.attempts.get(self.newest)
        return (top.status if top else None) or self._waiting

    @property
    def ended(self) -> bool:
        """Whether the newest attempt is known to have ended."""
        return states.has_ended(self.status)

    @property
    def script_ended(self) -> bool:
        """Whether the relay has told the end of the newest attempt."""
        top = self.top
        return top is not None and (top.exit_code is not None or top.exit_signal is not None)

    def take(self, number: int, fact: JobFacts) -> None:
        """Fold one fact into the attempt it is about."""
        self._hear(number, fact)
        status = self._claimed(fact)
        if status is None:
            if fact.raw != self.run.slurm_state:
                self._add(number, None, fact.time, fact.source, fact.reason, fact.raw)
            return
        attempt = self.attempts.get(number)
        if attempt and fact.time_submitted and attempt.time_submitted:
            if fact.time_submitted < attempt.time_submitted:
                return
            if fact.time_submitted > attempt.time_submitted:
                self._withdraw(attempt, fact)
        self._advance(number, fact, status)

    def _hear(self, number: int, fact: JobFacts) -> None:
        """Keep Slurm's latest word, and of which attempts accounting has told the end."""
        if fact.source != "relay" and number >= self.newest:
            self.slurm_state = fact.raw
        if fact.source == "sacct" and fact.time_ended:
            self.accounted.add(number)

    def _advance(self, number: int, fact: JobFacts, status: RunStatus) -> None:
        """Move an attempt to the status that a fact claims, if it goes forward, and take in all else."""
        old = self._status_of(number, fact)
        moves = _moves(old, status, fact) or self._is_final(number, old, status, fact)
        if number or number in self.attempts or status.stage >= Stage.RUNNING:
            self._merge(number, fact, status if moves else old)
        elif moves:
            self._waiting = status
        if moves:
            self._note(number, old, status, fact)

    def move(self, executions: Mapping[datetime, int]) -> None:
        """Empty attempts whose execution turns out to have another number.

        ``executions``: numbers by time of submission. An attempt that has ended is also emptied if its
        number belongs to another execution, even if no fact tells of its own. What Slurm said of it is
        among the facts to come, or is said again; what the relay said stays.
        """
        owners = {number: when for when, number in executions.items()}
        for attempt in list(self.attempts.values()):
            number, when = attempt.attempt, attempt.time_submitted
            if when is None:
                continue
            taken = states.has_ended(attempt.status) and owners.get(number, when) != when
            if taken or executions.get(when, number) != number:
                self._empty(attempt)

    def _withdraw(self, attempt: Attempt, fact: JobFacts) -> None:
        """Begin an attempt anew: Slurm took its start back, without counting a restart.

        Or it had ended, and squeue lists its execution as one that goes on: the end was another number's.
        """
        stage = attempt.status.stage if attempt.status else Stage.WAITING
        if stage is Stage.ENDED and fact.source != "squeue":
            return
        if stage is not Stage.WAITING:
            self._add(attempt.attempt, RunStatus.PENDING, fact.time_submitted, fact.source)
        self._empty(attempt)

    def _empty(self, attempt: Attempt) -> None:
        """Keep of an attempt only what the relay said."""
        self.attempts[attempt.attempt] = Attempt(
            attempt.attempt,
            RunStatus.PENDING,
            batch_host=attempt.batch_host,
            exit_code=attempt.exit_code,
            exit_signal=attempt.exit_signal,
            stderr_tail=attempt.stderr_tail,
        )

    def _claimed(self, fact: JobFacts) -> RunStatus | None:
        """Return the status that a fact claims; COMPLETING if a relay says that a batch script ended."""
        ended = states.has_ended(fact.status)
        if fact.source == "relay" and ended and self.run.kind == "batch":
            return RunStatus.COMPLETING
        return fact.status

    def _is_final(self, number: int, old: RunStatus | None, status: RunStatus, fact: JobFacts) -> bool:
        """Whether an end goes before the one we know.

        A command's own word goes before what its job's end made us think; and accounting corrects itself: of
        an attempt that we took to have ended, of a run that is over (`StoredRun.recheck_after`), and of one
        that squeue does not list for a second time. A job that is cancelled while it completes for its
        requeue was REQUEUED first.
        """
        if old is status or not states.has_ended(status):
            return False
        if fact.source == "relay":
            return self.run.kind == "command"
        attempt = self.attempts.get(number)
        if fact.source == "sacct" and attempt and attempt.reason == UNTOLD:
            return True
        gone = self.run.recheck_after is not None or self.run.missing_since is not None
        return gone and states.has_ended(old)

    def _status_of(self, number: int, fact: JobFacts) -> RunStatus | None:
        attempt = self.attempts.get(number)
        if attempt:
            return attempt.status
        if number or self.attempts:
            return None
        # A run that ended without an execution on record did so by inference: a sign of life undoes that.
        undone = fact.source == "relay" and self.run.time_ended is not None
        return RunStatus.PENDING if undone else self._waiting

    def _merge(self, number: int, fact: JobFacts, status: RunStatus | None) -> None:
        attempt = self.attempts.get(number)
        known = attempt or Attempt(number)
        told: dict[str, Any] = {
            name: value
            for name, value in _told(known, fact, status, final=self.run.kind == "command").items()
            if getattr(known, name) != value
        }
        if attempt is None:
            self.attempts[number] = Attempt(number, **told)
            self.newest = max(self.newest, number)
        elif told:
            self.attempts[number] = replaced(attempt, told)

    def _note(self, number: int, old: RunStatus | None, status: RunStatus, fact: JobFacts) -> None:
        """Note a change of status, and the steps on the way there that the fact proves."""
        if fact.source == "relay" and status is RunStatus.RUNNING:
            self.heard = True
        before = old.stage if old else None
        after = status.stage
        self._note_steps(number, before, after, fact)
        when = _time_of(fact, before, after, number)
        self._add(number, status, when or fact.time, fact.source, fact.reason, fact.raw)

    def _note_steps(self, number: int, before: Stage | None, after: Stage, fact: JobFacts) -> None:
        """Note that an attempt has waited or run meanwhile, where a fact says when that began."""
        source = fact.source
        if number and before is None and after > Stage.WAITING and source != "relay" and fact.time_submitted:
            self._add(number, RunStatus.PENDING, fact.time_submitted, source)
        if (before or 0) < Stage.RUNNING < after and fact.time_started:
            self._add(number, RunStatus.RUNNING, fact.time_started, source)

    def _add(
        self, number: int, status: RunStatus | None, when: datetime | None, source: Source, *words: str | None
    ) -> None:
        """Add a transition; ``words`` are its reason and the source's own words."""
        transition = Transition(self.run.run_id, number, status, when or self.now, source, *words)
        self.transitions.append(transition)

    def conclude(self, status: RunStatus, when: datetime | None, source: Source, reason: str) -> None:
        """End the run with a status that is inferred: no source has said it."""
        top = self.top
        self.inferred = reason
        if top:
            ended = top.time_ended or when
            self.attempts[self.newest] = top._replace(status=status, reason=reason, time_ended=ended)
        else:
            self._waiting = status
        self._add(self.newest, status, when, source, reason)

    def close_earlier(self) -> None:
        """End the attempts before the newest one whose end no source has told, or will tell."""
        for number in sorted(self.attempts)[:-1]:
            attempt, after = self.attempts[number], min(n for n in self.attempts if n > number)
            if states.has_ended(attempt.status):
                continue
            ended = attempt.time_ended or self.attempts[after].time_submitted
            self.attempts[number] = attempt._replace(
                status=RunStatus.REQUEUED, time_ended=ended, reason=UNTOLD
            )
            self._add(number, RunStatus.REQUEUED, ended, "squeue", UNTOLD)

    def set_components(self, components: list[dict[str, object]]) -> None:
        """Keep what is known of the other components of a heterogeneous job."""
        top = self.top
        if top and top.resources.get("components") != components:
            resources = {**top.resources, "components": components}
            self.attempts[self.newest] = top._replace(resources=resources)


def _has_started(attempt: Attempt) -> bool:
    if attempt.time_started is not None:
        return True
    return attempt.status is not None and Stage.RUNNING <= attempt.status.stage < Stage.ENDED


def _moves(old: RunStatus | None, new: RunStatus, fact: JobFacts) -> bool:
    """Whether a fact moves an attempt on. It never moves back."""
    if old is None:
        return True
    before, after = old.stage, new.stage
    if before is not after or old is new:
        return after > before
    if after is Stage.ENDED:
        return _end_rank(new) > _end_rank(old)
    return fact.source == "squeue"


def _end_rank(status: RunStatus) -> tuple[bool, str]:
    """Rank two ends of one execution: accounting says FAILED, and then REQUEUED if Slurm requeues the job."""
    return status.ends is Ends.ATTEMPT, status.value


def _time_of(fact: JobFacts, before: Stage | None, after: Stage, number: int) -> datetime | None:
    """When an attempt came to a stage, if the fact says so; the first one was submitted with its run."""
    if after is Stage.WAITING:
        return fact.time_submitted if number and before is None else None
    if after is Stage.RUNNING:
        return fact.time_started if (before or 0) < Stage.RUNNING else None
    return fact.time_ended if after is Stage.ENDED else None


def _told(attempt: Attempt, fact: JobFacts, status: RunStatus | None, *, final: bool) -> dict[str, object]:
    """What a fact says about an attempt whose status becomes ``status``."""
    told: dict[str, object] = {"status": status}
    ended = states.has_ended(fact.status)
    settled = states.has_ended(attempt.status) and not ended
    stronger = fact.source != "relay" and not settled
    for name in ("time_submitted", "time_started", "node_list", "batch_host", "sluid"):
        value = getattr(fact, name)
        if value is not None and (stronger or getattr(attempt, name) is None):
            told[name] = value
    if ended:
        told.update(_told_of_end(attempt, fact, status, final=final))
    elif stronger and fact.source == "squeue":
        told["reason"] = fact.reason
    return told


def _told_of_end(
    attempt: Attempt, fact: JobFacts, status: RunStatus | None, *, final: bool
) -> Iterator[tuple[str, object]]:
    if fact.source == "relay":
        yield from _told_by_script(attempt, fact, final=final)
    elif status is fact.status:
        yield "time_ended", fact.time_ended
        yield "slurm_exit_code", fact.slurm_exit_code
        yield "slurm_exit_signal", fact.slurm_exit_signal
        # When slurmctld is started anew, accounting forgets who cancelled a job.
        yield "reason", fact.reason or _kept_reason(attempt, status)
        if fact.resources:
            yield "resources", {**attempt.resources, **fact.resources}


def _kept_reason(attempt: Attempt, status: RunStatus | None) -> str | None:
    return attempt.reason if status is attempt.status and attempt.reason not in _INFERRED else None


def _told_by_script(attempt: Attempt, fact: JobFacts, *, final: bool) -> Iterator[tuple[str, object]]:
    """The end of the script itself, as its supervisor saw it."""
    yield "exit_code", fact.exit_code
    yield "exit_signal", fact.exit_signal
    if fact.stderr_tail is not None:
        yield "stderr_tail", fact.stderr_tail
    if final or attempt.time_ended is None:
        yield "time_ended", fact.time_ended
    if final:
        yield "reason", fact.reason
