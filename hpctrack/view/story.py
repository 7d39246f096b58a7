"""All that is told of one run: gathered from PostgreSQL, and its facts in words.

Facts are not made visible yet: who shows them does that, see `hpctrack.text.visible`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hpctrack.run import efficiency, fields, words
from hpctrack.run.states import Ends, RunStatus, Stage
from hpctrack.store.metrics import curves, metric_names, series_rows
from hpctrack.store.read import attempt_resources, queries
from hpctrack.view import executions, notation, remarks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from hpctrack.model import Attempt, Transition
    from hpctrack.run.efficiency import Resources
    from hpctrack.run.fields import Field
    from hpctrack.store.database import Connection
    from hpctrack.store.metrics.curves import Curve
    from hpctrack.store.metrics.series_rows import Series
    from hpctrack.store.read.queries import Losses, Relative, Run, RunRow, Submission, Usage

#: A text, or names with their values.
Told: TypeAlias = "str | Mapping[str, Any] | None"


class Fact(NamedTuple):
    """A line that tells something of a run."""

    name: str
    told: Told


class Subject(NamedTuple):
    """The run that facts are told of."""

    run: RunRow
    now: datetime
    attempts: Sequence[Attempt] = ()
    """Its executions, where they are known."""


@dataclass(frozen=True)
class Story:
    """Everything that PostgreSQL knows about a run."""

    now: datetime
    run: Run
    submission: Submission | None
    transitions: list[Transition]
    attempts: list[Attempt]
    usage: list[Usage]
    resources: list[Resources]
    losses: Losses
    relatives: list[Relative]
    curves: list[Curve]
    series: list[Series]

    def environment(self) -> dict[str, Any] | None:
        """Return the environment that the run began with; None where its owner keeps it to himself."""
        return None if self.submission is None else environment(self.run, self.submission)

    def hints(self) -> list[str]:
        """Return what the latest attempt could have asked less of, in one sentence each."""
        if not self.resources:
            return []
        return efficiency.hints(self.resources[-1], completed=self.run.status is RunStatus.COMPLETED)

    def arrived(self) -> str:
        """Return how much of metrics arrived, and what did not; empty where there is nothing to say."""
        rows = [words.counted(self.run.rows, "row")] if self.run.rows else []
        return ", ".join([*rows, *remarks.on_losses(self.losses)])

    def stderr_tail(self) -> str | None:
        """Return the end of what the latest attempt with a failure had to say."""
        return next((row.stderr_tail for row in reversed(self.attempts) if row.stderr_tail), None)

    def facts(self) -> Iterator[Fact]:
        """Yield what is known, in the order in which it is told."""
        subject = Subject(self.run, self.now, self.attempts)
        yield from facts(subject)
        yield from _facts_of_submission(self.run, self.submission)
        yield from _facts(subject, (field for field in fields.FIELDS if field.whole))
        if self.relatives:
            links = (_link(self.run.id, relative) for relative in self.relatives)
            yield Fact("links", ", ".join(links))
        if self.series:
            yield Fact(
                "series", ", ".join(f"{name}: {words.counted(rows, 'row')}" for name, rows in self.series)
            )


def gather(connection: Connection, run: Run, *, buckets: int) -> Story:
    """Return the story of a run, with each metric's course in so many stretches."""
    names = metric_names.fetch(connection, [run.id])
    return Story(
        now=queries.now(connection),
        run=run,
        submission=queries.submission(connection, run.submission),
        transitions=queries.transitions(connection, run.id),
        attempts=queries.attempts(connection, run.id),
        usage=queries.usage(connection, run.id),
        resources=attempt_resources.of_run(connection, run.id),
        losses=queries.losses(connection, run.id),
        relatives=queries.relatives(connection, run.id),
        curves=curves.fetch(connection, run.id, names, buckets=buckets),
        series=series_rows.fetch(connection, [run.id]),
    )


def environment(run: Run, submission: Submission) -> dict[str, Any]:
    """Return the submission's environment with what differs on the node; a null there: not set."""
    merged: dict[str, Any] = {}
    for told in (submission.env, run.env):
        merged.update(told if isinstance(told, dict) else {})
    return {name: value for name, value in sorted(merged.items()) if value is not None}


def title(run: RunRow) -> list[str]:
    """Return the words by which a run is called: ``r7``, ``job 14``, its name."""
    return [word for word in (run.ref, run.job and f"job {run.job}", run.job_name) if word]


def label(run: RunRow) -> str:
    """Return the same in short: ``r7 14 train.sh``."""
    return " ".join(word for word in (run.ref, run.job, run.job_name) if word)


def facts(subject: Subject) -> Iterator[Fact]:
    """Yield what a run's row in a list tells, in the order of its fields; what is not known is left out."""
    return _facts(subject, (field for field in fields.FIELDS if not field.whole))


def _facts(subject: Subject, shown: Iterable[Field]) -> Iterator[Fact]:
    parts_of: dict[str, list[Field]] = {}
    for field in shown:
        if field.fact is not None:
            parts_of.setdefault(field.fact, []).append(field)
    for name, parts in parts_of.items():
        told = (_TOLD[name](subject) or None) if name in _TOLD else _plain(subject, parts)
        if told is not None:
            yield Fact(name, told)


def _plain(subject: Subject, parts: Sequence[Field]) -> Told:
    """Return a field's value; of several fields those that are known, with their names."""
    values = {field.name: _value(field, subject) for field in parts}
    known = {name: value for name, value in values.items() if value is not None}
    return (known or None) if len(parts) > 1 else next(iter(known.values()), None)


def _value(field: Field, subject: Subject) -> Any:
    value = field.read(subject.run, subject.now)
    return value if value is None or field.kind in ("text", "object") else notation.text(field.kind, value)


def _user(subject: Subject) -> str:
    run = subject.run
    return run.user_name + (f" on {run.cluster}" if run.cluster else "")


def _kind(subject: Subject) -> str | None:
    """Return who ends a run where that is neither Slurm nor `hpctrack run`."""
    is_client = subject.run.kind == "client"
    return "client: ended by whoever made it" if is_client else None


def _started(subject: Subject) -> str | None:
    run, waited = subject.run, subject.run.waited(subject.now)
    if run.time_started is not None:
        return f"{notation.moment(run.time_started)}, waited {notation.duration(waited)}"
    return None if waited is None else f"not yet, waiting for {notation.duration(waited)}"


def _ended(subject: Subject) -> str | None:
    run, elapsed = subject.run, subject.run.elapsed(subject.now)
    limit = f" of {notation.duration(run.time_limit)}" if run.time_limit else ""
    ran = None if elapsed is None else notation.duration(elapsed) + limit
    if run.time_ended is None:
        return ran and f"not yet, {_so_far(run.status, ran)}"
    return notation.moment(run.time_ended) + (f", ran {ran}" if ran else "")


def _so_far(status: RunStatus, ran: str) -> str:
    """Return what a run that started and is not over has done for how long."""
    stage = status.stage
    if status is RunStatus.SUSPENDED:
        return f"suspended after {ran}"
    if stage is Stage.RUNNING:
        return f"running for {ran}"
    if stage < Stage.RUNNING:
        return f"ran for {ran} and waits to be started again"
    return f"ran for {ran} and may be started again" if status.ends is Ends.ATTEMPT else f"ending after {ran}"


def _exit(subject: Subject) -> str:
    """Return how the script itself ended and what Slurm's books say: they may differ."""
    run = subject.run
    slurm = executions.slurm_exit(subject.attempts[-1]) if subject.attempts else ""
    parts = [f"{run.exit} (the script's own)"] if run.exit is not None else []
    parts += [f"{slurm} (Slurm's)"] if slurm else []
    if run.slurm_state and run.slurm_state != run.status.value:
        parts.append(f"Slurm says {run.slurm_state}")
    return ", ".join(parts)


def _stderr(subject: Subject) -> str | None:
    run: Any = subject.run
    return run.stderr_path and ("with stdout" if run.stderr_path == run.stdout_path else run.stderr_path)


#: Facts that are more than their fields' values.
_TOLD: Mapping[str, Callable[[Subject], Told]] = MappingProxyType(
    {
        "tags": lambda subject: notation.tags(subject.run.tags),
        "user": _user,
        "kind": _kind,
        "archived": lambda subject: "yes" if subject.run.archived else None,
        "started": _started,
        "ended": _ended,
        "exit": _exit,
        "stderr": _stderr,
    }
)


def _facts_of_submission(run: Run, submission: Submission | None) -> Iterator[Fact]:
    if submission is None:
        if run.submission is not None:
            yield Fact("details", f"args, script and environment are for {run.user_name} alone")
        return
    told = {
        "command": submission.submit_line,
        "work dir": submission.work_dir,
        "git": _git(submission.git or {}),
    }
    yield from (Fact(name, text) for name, text in told.items() if text)


def _git(git: Mapping[str, Any]) -> str:
    if not git.get("commit"):
        return ""
    branch = f" on {git['branch']}" if git.get("branch") else ""
    notes = {True: ", with uncommitted changes", None: ", files not compared"}
    return f"{str(git['commit'])[:12]}{branch}{notes.get(git.get('dirty', False), '')}"


def _link(run_id: int, relative: Relative) -> str:
    if relative.from_id == run_id:
        return f"{relative.kind} r{relative.to_id}"
    if relative.kind == "submitted":
        return f"submitted by r{relative.from_id}"
    return f"r{relative.from_id} {relative.kind} r{run_id}"
