"""The records that cross layers: frozen, typed, standard library only. Unknown stays None."""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    import numpy as np
    from numpy.typing import NDArray

    from hpctrack.run.states import RunStatus

    Mask = NDArray[np.bool_]
    Array = NDArray[Any]

Source = Literal["submit", "relay", "squeue", "sacct", "user"]
#: Who says that a run is over: Slurm, its supervisor, or whoever made it.
RunKind = Literal["batch", "command", "client"]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class JobFacts(NamedTuple):
    """What one source says about one execution of a job. Times are aware; unknown is None."""

    source: Source
    cluster: str | None
    job_id: int | None
    """Raw job id: of an array task its own one; of a line that stands for many pending tasks the array's.

    None only in what a relay says that does not know it: Slurm always does.
    """
    raw: str
    """The source's own words, such as ``CANCELLED by 1000``."""
    status: RunStatus | None
    """None for a word that we do not know: never an end."""
    slurm_user: str | None = None
    array_job_id: int | None = None
    array_task_id: int | None = None
    het_job_id: int | None = None
    het_offset: int | None = None
    attempt: int | None = None
    """Number of restarts, where the source says it."""
    time_submitted: datetime | None = None
    time_started: datetime | None = None
    time_ended: datetime | None = None
    exit_code: int | None = None
    """The script's own, which only the relay sees."""
    exit_signal: int | None = None
    slurm_exit_code: int | None = None
    """The job's in Slurm's books."""
    slurm_exit_signal: int | None = None
    reason: str | None = None
    node_list: str | None = None
    batch_host: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    job_name: str | None = None
    time_limit: timedelta | None = None
    unlimited: bool = False
    """Whether it is known to have no time limit; else one that is None is not known."""
    time_used: timedelta | None = None
    """How long a running or suspended job has run by ``time``, but for the time that it was suspended."""
    stdout_path: str | None = None
    stderr_path: str | None = None
    resources: Mapping[str, Any] = _NOTHING
    """``elapsed_s, cpu_s, max_rss_bytes, req_tres, alloc_tres`` as far as the source has them."""
    array_tasks: tuple[range, ...] = ()
    """Tasks of an array that this line speaks for together (pending, or cancelled before they started)."""
    time: datetime | None = None
    """When the source said so."""
    run_id: int | None = None
    """The run itself, where the source knows it: the relay does."""
    stderr_tail: str | None = None
    sluid: str | None = None
    """Slurm's other name for an execution, from 24.11 on."""


class Attempt(NamedTuple):
    """One stored execution of a run."""

    attempt: int
    status: RunStatus | None = None
    time_submitted: datetime | None = None
    time_started: datetime | None = None
    time_ended: datetime | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    slurm_exit_code: int | None = None
    slurm_exit_signal: int | None = None
    node_list: str | None = None
    batch_host: str | None = None
    reason: str | None = None
    sluid: str | None = None
    stderr_tail: str | None = None
    resources: Mapping[str, Any] = _NOTHING


class Transition(NamedTuple):
    """One change of a run's status."""

    run_id: int
    attempt: int
    status: RunStatus | None
    time: datetime
    source: Source
    reason: str | None = None
    raw: str | None = None


class StoredRun(NamedTuple):
    """What the reconciler knows of a run: columns of ``runs`` that it reads or writes, and its attempts."""

    run_id: int
    kind: RunKind
    status: RunStatus
    slurm_user: str | None
    """Whose job it is for Slurm."""
    cluster: str | None
    """None for a run outside Slurm."""
    time_submitted: datetime
    slurm_job_id: int | None = None
    array_job_id: int | None = None
    array_task_id: int | None = None
    het_job_id: int | None = None
    attempt: int = 0
    """Greatest one that started."""
    time_started: datetime | None = None
    time_ended: datetime | None = None
    """When the run was over for good; None while it may still change."""
    time_seen: datetime | None = None
    missing_since: datetime | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    reason: str | None = None
    node_list: str | None = None
    slurm_state: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    job_name: str | None = None
    time_limit: timedelta | None = None
    stdout_path: str | None = None
    stderr_path: str | None = None
    recheck_after: datetime | None = None
    """When accounting is asked once more about an end that it may still correct."""
    time_stopped: datetime | None = None
    """Since when the latest attempt that started does not run: it is over or suspended."""
    suspended: timedelta = timedelta()
    """For how long that attempt was suspended."""
    sluid: str | None = None
    submission: UUID | None = None
    owner: str | None = None
    """PostgreSQL login that wrote all this, but for what Slurm and relays said."""
    attempts: tuple[Attempt, ...] = ()
    """In order; a run that is still waiting for its first start has none."""


_Record = TypeVar("_Record", Attempt, StoredRun)
_PLACES: dict[type, dict[str, int]] = {
    record: {name: place for place, name in enumerate(record._fields)} for record in (Attempt, StoredRun)
}


def replaced(record: _Record, values: Mapping[str, object]) -> _Record:
    """Return a record with other values: ``_replace``, in less than half its time."""
    cells: list[object] = list(record)
    places = _PLACES[type(record)]
    for name, value in values.items():
        cells[places[name]] = value
    return tuple.__new__(type(record), cells)


class Change(NamedTuple):
    """What the reconciler writes about one run."""

    before: StoredRun
    run: StoredRun
    attempts: tuple[Attempt, ...] = ()
    """The attempts that are new or different."""
    transitions: tuple[Transition, ...] = ()


class NodeMessage(NamedTuple):
    """A message line of a journal, as it came: nothing in it is trusted."""

    kind: str
    text: str
    """Meant to be a JSON object."""


class MetricColumn(NamedTuple):
    """The values of one metric and type in a `MetricBlock`."""

    name: str
    present: Mask | None
    """Which rows have a value; None: all."""
    values: Array | list[str | int]
    """Of the rows that have one, in their order: float64, int64, bool; or strings and longer integers."""


class MetricBlock(NamedTuple):
    """Rows that were logged one after the other, in columns. Arrays have an element for each row."""

    rows: int
    steps: Array | None
    """int64; None: no row has one."""
    stepped: Mask | None
    """Which rows have a step; None: all, if there are steps."""
    progress: Array | None
    """float64, not NaN; None: 0.0."""
    times: Array | None
    """int64, microseconds since the epoch; None: no row has one."""
    timed: Mask | None
    names: tuple[str, ...]
    """The metrics of ``matrix``."""
    matrix: Array
    """float64, of shape (names, rows): the metrics that every row has as a float."""
    columns: tuple[MetricColumn, ...]
    """All other metrics. A name may come again with another type, never twice in a row."""
    series: str | None = None
    """None for the rows of the run itself."""


class UnknownBlock(NamedTuple):
    """A block of a kind that only a newer hpctrack knows, as it came."""

    kind: int
    data: bytes


Block: TypeAlias = MetricBlock | NodeMessage | UnknownBlock


class Contents(NamedTuple):
    """What a range of a journal says."""

    blocks: list[Block]
    torn: int = 0
    """Lines that could not be read whole."""
    lines: int | None = None
    """Of rows and torn lines so many end at or before the end of this range, of which nothing is left."""


class Piece(NamedTuple):
    """The range ``[start, end)`` of a journal, ready to be stored."""

    run_id: int
    journal: str
    """16 hex digits."""
    attempt: int
    start: int
    end: int
    contents: Contents
    body: bytes
    """What ``contents`` was decoded from (docs/wire.md), kept should PostgreSQL refuse it."""
    fault: str | None = None
    """Why it can't be stored, if that is known already; with PostgreSQL's code, if it said so."""
    sqlstate: str | None = None
    submission: UUID | None = None
    task: int | None = None
    """The name of the run on the wire. The piece is stored only while the run of that id has this name."""
    owner: str = ""
    """Whose run it is; empty where all runs are one user's."""


class Member(NamedTuple):
    """What somebody is to an account."""

    user: str
    account: str | None
    """None for an operator, who is one for all accounts."""
    role: str
    """``member``, ``coordinator`` or ``operator``."""
