"""The one read service under command line and API. Reads never write.

Every function takes a connection of `hpctrack.store.database` and returns frozen records; unknown is None,
times are aware. Lists read the view ``run_overview`` and never scan metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from psycopg.rows import dict_row

from hpctrack import errors
from hpctrack.model import Attempt, RunStatus, Transition
from hpctrack.run import runids, timeline, words
from hpctrack.store import database, values
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from uuid import UUID

    from psycopg import sql

    from hpctrack.run.efficiency import Resources

_T = TypeVar("_T")
_AT_ONCE = 1000


@dataclass(frozen=True)
class RunRow:
    """One run, as lists show it."""

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
    """Since when nothing has been heard of a command outside Slurm that is not over; no verdict."""
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
    """Those of the latest attempt, where they were asked for (`hpctrack.store.read.attempt_resources`)."""

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
    kind: str
    """``batch``, or ``command`` (hpctrack run)."""


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
    cpu_s: float | None
    cores: float | None
    """Processors that it kept busy between its first and last samples."""
    memory_peak_bytes: int | None
    read_bytes: int | None
    write_bytes: int | None
    processes: int | None


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
    awaited: bool = True
    """Whether any run there is still to hear of Slurm."""


class Session(NamedTuple):
    """PostgreSQL's clock, and who is logged in."""

    now: datetime
    user_name: str


def get_run(connection: database.Connection, run_id: int) -> Run:
    """Return one run. Raises `errors.RunNotFound`."""
    runs = fetch(connection, "get_run", {"id": run_id}, Run)
    if not runs:
        raise errors.RunNotFound(f"no run r{run_id}")
    return runs[0]


def transitions(connection: database.Connection, run_id: int) -> list[Transition]:
    """Return the timeline of a run: its states in the order in which they were learnt, events among them."""
    return timeline.arranged(fetch(connection, "fetch_transitions", {"id": run_id}, Transition))


def attempts(connection: database.Connection, run_id: int) -> list[Attempt]:
    """Return the executions of a run, the first one first."""
    return fetch(connection, "fetch_attempts", {"id": run_id}, Attempt)


def submission(connection: database.Connection, uuid: UUID | None) -> Submission | None:
    """Return what was handed in; None where there is none, or its owner keeps it to himself."""
    return next(iter(fetch(connection, "fetch_submission", {"uuid": uuid}, Submission)), None)


def relatives(connection: database.Connection, run_id: int) -> list[Relative]:
    """Return the links of a run to others."""
    return fetch(connection, "fetch_relatives", {"id": run_id}, Relative)


def usage(connection: database.Connection, run_id: int) -> list[Usage]:
    """Return what each attempt used."""
    return fetch(connection, "fetch_usage", {"id": run_id}, Usage)


def losses(connection: database.Connection, run_id: int) -> Losses:
    """Return what did not arrive whole."""
    (counts,) = fetch(connection, "fetch_losses", {"id": run_id}, Losses)
    if not counts.rejected:
        return counts
    reasons = fetch(connection, "fetch_rejections", {"id": run_id}, lambda reason, count: (reason, count))
    return counts._replace(reasons=tuple(reasons))


def clusters(connection: database.Connection) -> list[Cluster]:
    """Return what the reconciler knows about each Slurm cluster."""
    return fetch(connection, "fetch_clusters", {}, Cluster)


def clock(connection: database.Connection) -> datetime:
    """Return PostgreSQL's clock at this moment."""
    found: list[datetime] = fetch(connection, "fetch_clock", {}, lambda clock_timestamp: clock_timestamp)
    return found[0]


def relay_lag(connection: database.Connection, run_id: int) -> float | None:
    """Return how many seconds after its relay's first words, by the node's clock, they were stored."""
    found: list[float | None] = fetch(connection, "fetch_relay_lag", {"id": run_id}, lambda lag: lag)
    return found[0]


def session(connection: database.Connection) -> Session:
    """Return PostgreSQL's clock and who is logged in."""
    (found,) = fetch(
        connection,
        "fetch_now",
        {},
        lambda statement_timestamp, session_user: (statement_timestamp, session_user),
    )
    return Session(*found)


def fetch(
    connection: database.Connection,
    query: str | sql.Composed,
    params: Mapping[str, Any],
    make: Callable[..., _T],
) -> list[_T]:
    """Run a statement, perhaps a named one; each row becomes a record, its columns the keyword arguments."""
    text = statement(query) if isinstance(query, str) else query
    with database.translated(), connection.cursor(row_factory=dict_row) as cursor:
        return [make(**_python(row)) for row in cursor.execute(text, params).fetchall()]


def iterate(
    connection: database.Connection, query: sql.Composed, params: Mapping[str, Any], make: Callable[..., _T]
) -> Iterator[_T]:
    """Run a statement as `fetch` does, and hold a few rows at a time: PostgreSQL keeps the rest."""
    with (
        database.translated(),
        connection.transaction(),
        connection.cursor("rows", row_factory=dict_row) as cursor,
    ):
        cursor.itersize = _AT_ONCE
        for row in cursor.execute(query, params):
            yield make(**_python(row))


def _python(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("status") is not None:
        row["status"] = RunStatus(row["status"])
    if "last" in row:
        row["last"] = {key: values.decode(value) for key, value in (row["last"] or {}).items()}
    return row
