"""Runs that scripts track through the API: created, started, measured, ended. Without a collector.

Everything goes by the rights of the caller's own role: row-level security leaves everybody their own runs.
What Slurm tracks is Slurm's to say: starting and ending are for runs that were not submitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb

from hpctrack import errors, limits
from hpctrack.store import database, values
from hpctrack.store.ingest import metrics
from hpctrack.store.metrics import columns
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpctrack.model import RunStatus
    from hpctrack.store.database import Connection

_AXES = {
    "run_id": "bigint",
    "step": "bigint",
    "progress": "double precision",
    "attempt": "integer",
    "time": "timestamptz",
    "extra": "jsonb",
}


class Origin(NamedTuple):
    """Where a run comes from: its program, and the Slurm job around it, if there is one."""

    job_name: str | None = None
    cluster: str | None = None
    job_id: int | None = None
    array_job_id: int | None = None
    task: int | None = None
    partition: str | None = None


class End(NamedTuple):
    """How a run ended."""

    status: RunStatus
    exit_code: int | None = None
    exit_signal: int | None = None
    reason: str | None = None


class _Held(NamedTuple):
    attempt: int
    started: bool
    submitted: bool
    next_step: int


def create(connection: Connection, experiment_id: int, origin: Origin) -> int:
    """Create a run, and return its id."""
    with database.translated(), connection.transaction():
        name = (
            None
            if origin.job_name is None
            else limits.cut(limits.JOB_NAME, database.without_secrets(origin.job_name))
        )
        parameters = {"experiment": experiment_id, **origin._asdict(), "job_name": name}
        row = connection.execute(statement("create_run"), parameters).fetchone()
        assert row is not None  # noqa: S101 (RETURNING returns)
        run_id = int(str(row[0]))
        _note(connection, run_id, 0, "PENDING", None)
    return run_id


def start(connection: Connection, run_id: int, node: str, job_id: int | None) -> int:
    """Note that a run begins, and return its attempt: the next one if it began before.

    Raises `errors.UsageError` for a run that was submitted, `errors.StoreDenied` for somebody else's.
    """
    with database.translated(), connection.transaction():
        held = _hold(connection, run_id)
        if held.submitted:
            raise errors.UsageError(f"r{run_id} was submitted: its states are told by Slurm and its relay")
        attempt = held.attempt + 1 if held.started else held.attempt
        parameters = {"id": run_id, "attempt": attempt, "node": node, "job_id": job_id}
        connection.execute(statement("start_run"), parameters)
        connection.execute(statement("start_attempt"), parameters)
        _note(connection, run_id, attempt, "RUNNING", None)
    return attempt


def end(connection: Connection, run_id: int, attempt: int, how: End) -> None:
    """Note that an attempt, and the run with it unless a later one began, is over."""
    with database.translated(), connection.transaction():
        held = _hold(connection, run_id)
        parameters = {**how._asdict(), "status": how.status.value, "id": run_id, "attempt": attempt}
        connection.execute(statement("end_attempt"), parameters)
        if held.attempt == attempt:
            connection.execute(statement("end_run"), parameters)
        _note(connection, run_id, attempt, how.status.value, how.reason)


def add_metrics(
    connection: Connection,
    run_id: int,
    measured: Mapping[str, float | int | bool | str],
    *,
    step: int | None,
    progress: float,
    adder: columns.Adder | None = None,
) -> None:
    """Store a row; without a step it gets the one after the run's last.

    Values go into their columns as far as those hold them exactly, others into ``extra``; ``adder`` makes
    columns for new numbers. Raises `errors.StoreDenied` for somebody else's run.
    """
    measured = {
        name: database.without_secrets(value) if isinstance(value, str) else value
        for name, value in measured.items()
    }
    with database.translated():
        targets = _targets(connection, measured, adder)
        with connection.transaction():
            held = _hold(connection, run_id)
            step = held.next_step if step is None else step
            placed = {name: value for name, value in measured.items() if _fits(targets.get(name), value)}
            extra = {name: values.encode(value) for name, value in measured.items() if name not in placed}
            row = {
                "run_id": run_id,
                "step": step,
                "progress": progress,
                "attempt": held.attempt,
                "extra": values.to_object(extra) if extra else None,
            }
            touched = [name for name in measured if name in targets]
            connection.execute(_merge(row, placed, {name: targets[name] for name in touched}))
            connection.execute(statement("touch_run"), {"id": run_id})


def set_args(connection: Connection, run_id: int, args: Mapping[str, Any], *, merge: bool) -> None:
    """Set arguments, or merge them over those that are there.

    Raises `errors.StoreDenied`, `errors.UsageError` for what does not fit.
    """
    limits.value(limits.ARGS, args)
    with database.translated(), connection.transaction():
        _hold(connection, run_id)
        parameters = {
            "id": run_id,
            "args": Jsonb(database.without_secrets(dict(args)), dumps=values.to_json),
            "merge": merge,
        }
        connection.execute(statement("set_run_args"), parameters)


def _hold(connection: Connection, run_id: int) -> _Held:
    row: tuple[Any, ...] | None = connection.execute(statement("hold_run"), {"id": run_id}).fetchone()
    if row is None:
        raise errors.StoreDenied(f"r{run_id} is not a run of yours, or was deleted")
    return _Held(*row)


def _note(connection: Connection, run_id: int, attempt: int, status: str, reason: str | None) -> None:
    parameters = {"id": run_id, "attempt": attempt, "status": status, "reason": reason}
    connection.execute(statement("note_transition"), parameters)


def _targets(
    connection: Connection, measured: Mapping[str, Any], adder: columns.Adder | None
) -> Mapping[str, columns.Target]:
    targets = columns.load(connection).targets
    new = [
        name
        for name, value in measured.items()
        if name not in targets and isinstance(value, float | int) and not isinstance(value, bool)
    ]
    if not new or adder is None or not adder.ready:
        return targets
    try:
        adder.add(connection, new)
    except errors.StoreError:
        return targets
    return columns.load(connection).targets


def _fits(target: columns.Target | None, value: float | int | bool | str) -> bool:
    """Whether a column gives the value back as it is."""
    if target is None:
        return False
    long = isinstance(value, int) and value.bit_length() > 63
    given: Any = [value] if isinstance(value, str) or long else np.array([value])
    return bool(target.convert(given)[1][0])


def _merge(
    row: Mapping[str, Any], placed: Mapping[str, Any], targets: Mapping[str, columns.Target]
) -> sql.Composed:
    """Return the statement that merges one row into ``metrics``."""
    now = sql.SQL("clock_timestamp()")
    cells = [now if name == "time" else _cell(row[name], type_) for name, type_ in _AXES.items()]
    cells += [_cell(placed.get(name), target.type) for name, target in targets.items()]
    names = sql.SQL(", ").join(map(sql.Identifier, [*_AXES, *targets]))
    source = sql.SQL("(VALUES ({})) AS given ({})").format(sql.SQL(", ").join(cells), names)
    return metrics.merge_statement(list(targets), source)


def _cell(value: Any, type_: str) -> sql.Composed:
    return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(type_))
