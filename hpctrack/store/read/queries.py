"""One run and all that is stored about it, for command line, Python interface and web page alike.

Every function takes a connection of `hpctrack.store.database` and returns frozen records. It writes nothing
and never scans metrics. Unknown is None; times are aware. Lists of runs are in `lists`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from psycopg import sql

from hpctrack import errors
from hpctrack.model import Attempt, RunKind, Transition
from hpctrack.run import runids, timeline, words
from hpctrack.run.states import RunStatus
from hpctrack.store import rows
from hpctrack.store.statements import composable
from hpctrack.stream.wire import messages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from hpctrack.run.efficiency import Resources
    from hpctrack.store.database import Connection


@dataclass(frozen=True)
class MetricSummary:
    """Statistics of a metric in a run; of a run that goes on they are a few seconds old."""

    run_id: int
    name: str
    min: float | None
    """Apart from nan."""
    max: float | None
    first: float | None
    """At the first step that has a value."""
    last: float | None
    count: int
    """Rows that a later attempt superseded do not count, here and elsewhere."""
    nans: int


@dataclass(frozen=True)
class RunRow:
    """One run, as lists show it."""

    is_array: ClassVar[Literal[False]] = False

    id: int
    experiment: str
    status: RunStatus
    time_created: datetime
    time_started: datetime | None
    time_ended: datetime | None
    tags: dict[str, Any] | None
    args: Any
    """None also where its owner keeps it to himself."""
    user_name: str
    cluster: str | None
    kind: RunKind
    """Who ends it."""
    archived: bool
    """Whether lists leave it out."""
    slurm_job_id: int | None
    array_job_id: int | None
    array_task_id: int | None
    het_job_id: int | None
    job_name: str | None
    partition: str | None
    account: str | None
    qos: str | None
    comment: str | None
    time_limit: timedelta | None
    attempt: int
    """Counts from 0, as SLURM_RESTART_COUNT does."""
    exit_code: int | None
    """The script's own."""
    exit_signal: int | None
    reason: str | None
    node_list: str | None
    slurm_state: str | None
    """Slurm's latest word, unchanged."""
    missing_since: datetime | None
    """Since when neither squeue nor accounting knows the job."""
    silent_since: datetime | None
    """Since when a client or a command outside Slurm that is not over has said nothing; no verdict."""
    last_step: int | None
    last: dict[str, Any]
    """Latest value of each metric."""
    rows: int
    """Rows of metrics that have arrived."""
    lost: int
    """Lines lost, torn or rejected."""
    waiting: int
    """Rows known to wait in the spool."""
    time_stopped: datetime | None = field(default=None, kw_only=True)
    """Since when its latest attempt does not run, although the run may go on; None while it does."""
    suspended: timedelta = field(default=timedelta(), kw_only=True)
    """For how long that attempt was suspended until then."""
    resources: Resources | None = field(default=None, kw_only=True)
    """Of the latest attempt, where they were asked for (`hpctrack.store.read.attempt_resources`)."""
    summaries: Mapping[str, MetricSummary] = field(default_factory=dict, kw_only=True)
    """Of metrics, where they were asked for (`hpctrack.store.read.metric_summaries`)."""

    @property
    def ref(self) -> str:
        """How people write the run's own id: ``r7``."""
        return f"r{self.id}"

    @property
    def job(self) -> str | None:
        """Slurm's id of the job (``14``, ``14_3``); None outside Slurm."""
        return runids.job_text(self.slurm_job_id, self.array_job_id, self.array_task_id)

    @property
    def exit(self) -> str | None:
        """How the script itself ended: ``3``, ``SIGSEGV``; None while it has not, or nobody saw it."""
        return words.exit_text(self.exit_code, self.exit_signal)

    def elapsed(self, now: datetime) -> timedelta | None:
        """Return how long its latest attempt has run, or ran, without suspensions; None before it started."""
        if self.time_started is None:
            return None
        return (self.time_ended or self.time_stopped or now) - self.time_started - self.suspended

    def waited(self, now: datetime) -> timedelta | None:
        """Return how long it has waited, or waited, for its start; None if it never started."""
        if self.time_started is None and self.time_ended is not None:
            return None
        return (self.time_started or now) - self.time_created


@dataclass(frozen=True)
class Run(RunRow):
    """Everything that stands in a run's own row."""

    env: dict[str, str] | None
    """What differs on the node from the submission's environment."""
    submission: UUID | None
    stdout_path: str | None
    stderr_path: str | None
    time_seen: datetime | None
    """When Slurm or the relay last vouched for it."""


@dataclass(frozen=True)
class Submission:
    """What one ``hpctrack sbatch`` or ``hpctrack run`` handed in."""

    uuid: UUID
    user_name: str
    cluster: str | None
    time: datetime
    submit_line: str | None
    script: str | None
    script_path: str | None
    script_sha256: str | None
    """Of the script itself, without masks."""
    work_dir: str | None
    git: dict[str, Any] | None
    env: dict[str, str] | None


@dataclass(frozen=True)
class Usage:
    """What one attempt used, over all its nodes."""

    attempt: int
    nodes: int
    samples: int
    time_first: datetime
    time_last: datetime
    cores: float | None
    """Processors that it kept busy between its first and last samples."""
    totals: Mapping[str, float | None]
    """Of each of `messages.TOTALS`, by name."""


class Losses(NamedTuple):
    """What did not arrive whole, in lines and rows."""

    lost: int
    torn: int
    rejected: int
    replaced: int
    """Rows of an earlier attempt that a later one replaced."""
    reasons: tuple[tuple[str, int], ...] = ()
    """Why PostgreSQL rejected datagrams, and how many."""


class Relative(NamedTuple):
    """A link between two runs; ``submitted``: ``from_id`` submitted ``to_id`` from inside its job."""

    from_id: int
    kind: str
    to_id: int


@dataclass(frozen=True)
class Cluster:
    """What the reconciler knows about a Slurm cluster."""

    name: str
    time_checked: datetime | None
    unreachable_since: datetime | None
    error: str | None
    members_checked: datetime | None = None
    """When it was last told who belongs to which account; None if never."""
    members_error: str | None = None
    """Why it could not be told since."""
    awaited: bool = True
    """Whether any run there is still to hear of Slurm."""


def get_run(connection: Connection, run_id: int) -> Run:
    """Return one run. Raises `errors.RunNotFound`."""
    run = rows.one(connection, "get_run", Run, id=run_id)
    if run is None:
        raise errors.RunNotFound(f"no run r{run_id}")
    return run


def transitions(connection: Connection, run_id: int) -> list[Transition]:
    """Return the timeline of a run: its states in the order in which they were learnt, events among them."""
    return timeline.arranged(rows.records(connection, "fetch_transitions", Transition, id=run_id))


def attempts(connection: Connection, run_id: int) -> list[Attempt]:
    """Return the executions of a run, oldest first."""
    return rows.records(connection, "fetch_attempts", Attempt, id=run_id)


def submission(connection: Connection, uuid: UUID | None) -> Submission | None:
    """Return what was handed in; None where there is none, or its owner keeps it private."""
    return rows.one(connection, "fetch_submission", Submission, uuid=uuid)


def relatives(connection: Connection, run_id: int) -> list[Relative]:
    """Return the links of a run to others."""
    return rows.records(connection, "fetch_relatives", Relative, id=run_id)


def usage(connection: Connection, run_id: int) -> list[Usage]:
    """Return what each attempt used."""
    return rows.records(connection, _fetch_usage(messages.TOTALS), _usage, id=run_id)


@functools.cache
def _fetch_usage(figures: tuple[messages.Figure, ...]) -> sql.Composed:
    """Return the statement for these figures, which are added up over nodes."""
    return composable("fetch_usage").format(
        totals=sql.SQL("").join(
            sql.SQL(", sum({name})::{type} AS {name}").format(
                name=sql.Identifier(figure.name),
                type=sql.Identifier("float8" if figure.type == "float8" else "int8"),
            )
            for figure in figures
        ),
        greatest=sql.SQL("").join(
            sql.SQL(", max(coalesce({})) AS {}").format(
                sql.SQL(", ").join(map(sql.Identifier, filter(None, (figure.name, figure.or_else)))),
                sql.Identifier(figure.name),
            )
            for figure in figures
        ),
    )


def _usage(**row: Any) -> Usage:
    totals = {figure.name: row.pop(figure.name) for figure in messages.TOTALS}
    return Usage(**row, totals=totals)


def losses(connection: Connection, run_id: int) -> Losses:
    """Return what did not arrive whole."""
    (counts,) = rows.records(connection, "fetch_losses", Losses, id=run_id)
    if not counts.rejected:
        return counts
    return counts._replace(reasons=tuple(rows.tuples(connection, "fetch_rejections", id=run_id)))


def silent_clients(connection: Connection, users: Sequence[str]) -> list[int]:
    """Return the runs of clients that are RUNNING and have said nothing for minutes, some of these users'."""
    return rows.column(connection, "find_silent_clients", users=list(users))


def clusters(connection: Connection) -> list[Cluster]:
    """Return what the reconciler knows about each Slurm cluster."""
    return rows.records(connection, "fetch_clusters", Cluster)


def relay_lag(connection: Connection, run_id: int) -> float | None:
    """Return how many seconds after its relay's first words, by the node's clock, they were stored."""
    lag: float | None = rows.scalar(connection, "fetch_relay_lag", id=run_id)
    return lag


def now(connection: Connection) -> datetime:
    """Return the time by PostgreSQL's clock."""
    time: datetime = rows.scalar(connection, "fetch_now")
    return time
