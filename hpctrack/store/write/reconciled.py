"""Runs as the reconciler reads and writes them: few statements, however many runs.

Every function works inside the caller's transaction and lets psycopg's errors through: the owner of the
transaction decides what they mean (`database.translated`).
"""

from __future__ import annotations

import functools
import json
import logging
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hpctrack import errors, limits
from hpctrack.model import Attempt, StoredRun
from hpctrack.run.states import RunStatus
from hpctrack.store import refusals
from hpctrack.store.statements import composable, statement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from psycopg import Cursor

    from hpctrack.model import Change, Transition
    from hpctrack.store.database import Connection

_T = TypeVar("_T")
_R = TypeVar("_R")
_log = logging.getLogger(__name__)
_STATUSES = {status.value: status for status in RunStatus}
#: Open runs of one login that are looked at together: more than people have, too few to hold anybody up.
MOST_OPEN = 50_000
#: Attempts that are read together, and of one run: people may invent any number.
_MOST_ATTEMPTS, _MOST_OF_A_RUN = 1_000_000, 200
#: Columns of runs that `apply` writes as they are.
_WRITTEN = (
    "slurm_job_id attempt time_started time_ended time_seen missing_since exit_code exit_signal reason "
    "time_stopped sluid node_list slurm_state partition account qos job_name stdout_path stderr_path "
    "recheck_after"
).split()
#: Columns of what `load` reads; the attempts of a run come by themselves.
_RUN = StoredRun._fields[: StoredRun._fields.index("attempts")]
_ATTEMPT_OF_RUN = ("run_id", *Attempt._fields)
#: Columns of attempts that `apply` writes as they are.
_ATTEMPT = (
    "attempt time_submitted time_started time_ended exit_code exit_signal slurm_exit_code slurm_exit_signal "
    "node_list batch_host reason stderr_tail sluid"
).split()


def load_open(
    connection: Connection,
    cluster: str,
    user: str | None = None,
    *,
    only: Collection[int] = (),
    most: int = MOST_OPEN,
) -> list[StoredRun]:
    """Return the runs of a cluster that are not over, of one Slurm user or of all, in the order of ids.

    With them those whose ends are to be looked up once more (`StoredRun.recheck_after`). ``only``: of these
    runs alone. Of a login that has more than ``most`` runs, so many are returned, others at each call.
    """
    parameters = {
        "cluster": cluster,
        "user": user,
        "ids": list(only) or None,
        "most": most,
        "turn": random.random(),  # noqa: S311 (no secret)
    }
    return _runs(connection, "load_open_runs", parameters)


def ended_lately(connection: Connection, cluster: str, user: str | None, within: timedelta) -> bool:
    """Whether a job of the cluster, of one Slurm user or of anybody, ended within this span of time."""
    parameters = {"cluster": cluster, "user": user, "within": within}
    return connection.execute(statement("find_lately_ended"), parameters).fetchone() is not None


def load(connection: Connection, ids: Collection[int]) -> list[StoredRun]:
    """Return these runs, locked in the order of their ids."""
    return _runs(connection, "lock_runs", {"ids": list(ids)})


def find_ended(
    connection: Connection, cluster: str, jobs: Collection[int], tasks: Collection[tuple[int, int]]
) -> list[int]:
    """Return the ids of runs that are over, by job ids or by (array, task)."""
    parameters = {
        "cluster": cluster,
        "jobs": list(jobs),
        "arrays": [array for array, _ in tasks],
        "tasks": [task for _, task in tasks],
    }
    return _ids(connection.execute(statement("find_ended_runs"), parameters))


def add_tasks(connection: Connection, missing: Sequence[tuple[int, int]]) -> list[int]:
    """Create runs for array tasks: pairs of a run of the same array and the task. Return the new ids.

    Those that PostgreSQL refuses are left out.
    """

    def add(some: Sequence[tuple[int, int]]) -> list[int]:
        parameters = {"like": [like for like, _ in some], "tasks": [task for _, task in some]}
        return _ids(connection.execute(statement("add_array_tasks"), parameters))

    return _but_refused(connection, missing, add, lambda pair: f"task {pair[1]} of the array of r{pair[0]}")


def _but_refused(
    connection: Connection,
    items: Sequence[_T],
    write: Callable[[Sequence[_T]], list[_R]],
    name: Callable[[_T], str],
) -> list[_R]:
    """Write items, but for those that PostgreSQL refuses; return what was written.

    People may write into rows of their own what PostgreSQL refuses when it is written back. That must keep no
    other run from its state.
    """
    try:
        with refusals.told(connection), connection.transaction():
            return write(items)
    except errors.ContentRefused as error:
        if len(items) == 1:
            _log.warning("%s can't be corrected: %s", name(items[0]), error)
            return []
    middle = len(items) // 2
    return [
        written
        for half in (items[:middle], items[middle:])
        for written in _but_refused(connection, half, write, name)
    ]


class Silent(NamedTuple):
    """A run outside Slurm that has not been heard of for a while."""

    run_id: int
    heard: datetime
    restarted: bool
    """Whether its machine has been started since it began."""
    name: str
    """As on the wire and in ``HPCTRACK_RUN``: submission and task."""


def find_silent_commands(connection: Connection, node: str, booted: datetime, silence: float) -> list[Silent]:
    """Return the caller's runs outside Slurm on ``node`` that have been silent for ``silence`` seconds.

    ``booted`` is when the node was started last.
    """
    parameters = {"node": node, "booted": booted, "silence": silence}
    return list(
        map(Silent._make, _fetch(connection, statement("find_silent_commands"), parameters, Silent._fields))
    )


def apply(connection: Connection, changes: Iterable[Change]) -> None:
    """Write changes. The runs must be locked by this transaction, and be as the changes say they were."""
    changes = list(changes)
    _write(connection, "update_runs", [_run_row(change) for change in changes if change.run != change.before])
    _write(
        connection,
        "write_attempts",
        [_attempt_row(change.run, attempt) for change in changes for attempt in change.attempts],
    )
    _write(
        connection,
        "add_transitions",
        [_transition_row(transition) for change in changes for transition in change.transitions],
    )


def apply_each(connection: Connection, changes: Sequence[Change]) -> list[Change]:
    """Write changes as `apply` does, but for those that PostgreSQL refuses; return what was written."""

    def write(some: Sequence[Change]) -> list[Change]:
        apply(connection, some)
        return list(some)

    return _but_refused(connection, changes, write, lambda change: f"r{change.run.run_id}")


def set_env(connection: Connection, environments: Mapping[int, Mapping[str, Any]]) -> None:
    """Store what the environment on the node has that the submission's has not, by run."""
    _write(connection, "set_run_env", [{"id": run, "env": env} for run, env in sorted(environments.items())])


def check_lease(connection: Connection, collector: UUID) -> None:
    """Raise `errors.LeaseLost` unless this collector reconciles; hold that until the transaction ends."""
    lease = connection.execute(statement("check_lease"), {"id": collector}).fetchone()
    if lease is None or not lease[0]:
        raise errors.LeaseLost


def last_checked(connection: Connection, cluster: str) -> datetime | None:
    """Return when Slurm last answered everything."""
    checked = connection.execute(statement("get_cluster_checked"), {"name": cluster}).fetchone()
    return checked[0] if checked else None


def note_cluster(connection: Connection, cluster: str, error: str | None) -> None:
    """Note that Slurm answered, or why it did not."""
    if error is None:
        connection.execute(statement("note_cluster_answered"), {"name": cluster})
    else:
        connection.execute(statement("note_cluster_silent"), {"name": cluster, "error": error})


def _ids(cursor: Cursor[tuple[Any, ...]]) -> list[int]:
    return [run_id for (run_id,) in cursor]


def _runs(connection: Connection, name: str, parameters: Mapping[str, object]) -> list[StoredRun]:
    runs = _fetch(connection, _statement(name), parameters, _RUN)
    ids = [run[0] for run in runs]
    most = min(_MOST_OF_A_RUN, _MOST_ATTEMPTS // max(len(runs), 1) + 1)
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    loaded = _fetch(connection, statement("load_attempts"), {"ids": ids, "most": most}, _ATTEMPT_OF_RUN)
    for run_id, number, status, *others, resources in loaded:
        known = _STATUSES.get(status)
        attempts[run_id].append(Attempt._make((number, known, *others, resources or {})))
    return [
        StoredRun._make((run_id, kind, _STATUSES[status], *others, tuple(attempts.get(run_id, ()))))
        for run_id, kind, status, *others in runs
    ]


@functools.cache
def _statement(name: str) -> bytes:
    """Return a statement that lists the columns of `StoredRun`."""
    return composable(name).format(columns=composable("stored_run")).as_bytes()


def _fetch(
    connection: Connection, query: bytes, parameters: Mapping[str, object], fields: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Return rows whose columns are ``fields``, in that order; a statement with others is refused.

    Records are made of them by position, since finding each cell by its name takes as long as all the rest.
    The cells come in binary form: times that come as text take still longer.
    """
    cursor = connection.execute(query, parameters, binary=True)
    columns = [column.name for column in cursor.description or ()]
    if columns != list(fields):
        raise TypeError(f"a row has the columns {columns}, and its record the fields {fields}")
    return cursor.fetchall()


def _write(connection: Connection, name: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(statement(name), {"rows": json.dumps(rows, default=_encode)})


def _encode(value: object) -> str:
    return str(value)  # times, which PostgreSQL reads as Python prints them


def _run_row(change: Change) -> dict[str, Any]:
    run = change.run
    row = {name: _cut(name, getattr(run, name)) for name in _WRITTEN}
    limit = run.time_limit.total_seconds() if run.time_limit is not None else None
    spans = {"time_limit_s": limit, "suspended_s": run.suspended.total_seconds()}
    return {**row, **spans, "id": run.run_id, "status": run.status.value}


#: Longest texts of Slurm's and of nodes; the schema takes no longer ones.
_TEXTS = {
    "job_name": limits.JOB_NAME,
    "partition": limits.PATH,
    "account": limits.WORD,
    "qos": limits.WORD,
    "stdout_path": limits.PATH,
    "stderr_path": limits.PATH,
    "reason": limits.PATH,
    "node_list": limits.NOTE,
    "slurm_state": limits.WORD,
    "raw": limits.PATH,
    "batch_host": limits.PATH,
    "stderr_tail": limits.NOTE,
    "sluid": limits.WORD,
}


def _cut(name: str, value: object) -> object:
    return limits.cut(_TEXTS[name], value) if isinstance(value, str) and name in _TEXTS else value


def _attempt_row(run: StoredRun, attempt: Attempt) -> dict[str, Any]:
    row = {name: _cut(name, getattr(attempt, name)) for name in _ATTEMPT}
    status = attempt.status.value if attempt.status else None
    return {
        **row,
        "run_id": run.run_id,
        "slurm_job_id": run.slurm_job_id,
        "status": status,
        "resources": attempt.resources or None,
    }


def _transition_row(transition: Transition) -> dict[str, Any]:
    return {
        "run_id": transition.run_id,
        "attempt": transition.attempt,
        "status": transition.status.value if transition.status else None,
        "time": transition.time,
        "source": transition.source,
        "reason": _cut("reason", transition.reason),
        "raw": _cut("raw", transition.raw),
    }
