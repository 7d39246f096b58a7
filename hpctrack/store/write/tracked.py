"""Runs that scripts track through the API: created, started, measured, ended. Without a collector.

Everything goes by the rights of the caller's own role: row-level security leaves everybody their own runs.
Only runs that were not submitted are started and ended here: Slurm says the states of all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb

from hpctrack import errors, limits
from hpctrack.store import database, rows, values
from hpctrack.store.ingest import metrics
from hpctrack.store.metrics import columns

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hpctrack.run.states import RunStatus
    from hpctrack.store.database import Connection

_Value: TypeAlias = "float | int | bool | str"
_AXES = {
    "run_id": "bigint",
    "step": "bigint",
    "progress": "double precision",
    "attempt": "integer",
    "numbered": "boolean",
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


class _Locked(NamedTuple):
    """A run that nobody else changes until the transaction ends."""

    attempt: int
    started: bool
    """Whether it has ever started."""
    submitted: bool
    next_step: int
    """The step after its last."""


def create(connection: Connection, experiment_id: int, origin: Origin) -> int:
    """Create a run, and return its id."""
    name = origin.job_name
    if name is not None:
        origin = origin._replace(job_name=limits.cut(limits.JOB_NAME, database.without_secrets(name)))
    with rows.transaction(connection):
        run_id = int(rows.scalar(connection, "create_run", experiment=experiment_id, **origin._asdict()))
        _note(connection, run_id, 0, "PENDING", None)
    return run_id


def start(connection: Connection, run_id: int, node: str, job_id: int | None) -> int:
    """Note that a run begins, and return its attempt: the next one if it began before.

    Raises `errors.UsageError` for a run that was submitted, `errors.StoreDenied` for somebody else's.
    """
    with rows.transaction(connection):
        run = _lock(connection, run_id)
        if run.submitted:
            raise errors.UsageError(f"r{run_id} was submitted: its states are told by Slurm and its relay")
        attempt = run.attempt + 1 if run.started else run.attempt
        for name in ("start_run", "start_attempt"):
            rows.execute(connection, name, id=run_id, attempt=attempt, node=node, job_id=job_id)
        _note(connection, run_id, attempt, "RUNNING", None)
    return attempt


def end(connection: Connection, run_id: int, attempt: int, how: End) -> None:
    """Note that an attempt is over, and the run with it unless a later one began."""
    status = how.status.value
    end = {**how._asdict(), "status": status, "id": run_id, "attempt": attempt}
    with rows.transaction(connection):
        run = _lock(connection, run_id)
        rows.execute(connection, "end_attempt", **end)
        if run.attempt == attempt:
            rows.execute(connection, "end_run", **end)
        _note(connection, run_id, attempt, status, how.reason)


def add_metrics(
    connection: Connection,
    run_id: int,
    measured: Mapping[str, _Value],
    *,
    step: int | None,
    progress: float,
    adder: columns.Adder | None = None,
) -> None:
    """Store a row; without a step it gets the one after the run's last.

    A value goes into its metric's column if that holds it exactly, else into ``extra``; ``adder`` makes
    columns for new numeric metrics. Raises `errors.StoreDenied` for another user's run.
    """
    measured = {name: _without_secrets(value) for name, value in measured.items()}
    with database.translated():
        targets = _targets(connection, measured, adder)
        with connection.transaction():
            run = _lock(connection, run_id)
            row = _Row(run_id, run.next_step, progress, run.attempt, numbered=True)
            if step is not None:
                row = _placed(connection, row._replace(step=step, numbered=None), run.next_step)
            connection.execute(_merge(row, measured, targets))
            rows.execute(connection, "touch_run", id=run_id)


def set_args(connection: Connection, run_id: int, args: Mapping[str, Any], *, merge: bool) -> None:
    """Set arguments, or merge them over those that are there.

    Raises `errors.StoreDenied`, `errors.UsageError` for what does not fit.
    """
    limits.value(limits.ARGS, args)
    stored = Jsonb(database.without_secrets(dict(args)), dumps=values.to_json)
    with rows.transaction(connection):
        _lock(connection, run_id)
        rows.execute(connection, "set_run_args", id=run_id, args=stored, merge=merge)


def _lock(connection: Connection, run_id: int) -> _Locked:
    run = rows.one(connection, "lock_run", _Locked, id=run_id)
    if run is None:
        raise errors.StoreDenied(f"r{run_id} is not a run of yours, or was deleted")
    return run


def _note(connection: Connection, run_id: int, attempt: int, status: str, reason: str | None) -> None:
    rows.execute(connection, "note_transition", id=run_id, attempt=attempt, status=status, reason=reason)


def _without_secrets(value: _Value) -> _Value:
    return database.without_secrets(value) if isinstance(value, str) else value


def _targets(
    connection: Connection, measured: Mapping[str, _Value], adder: columns.Adder | None
) -> Mapping[str, columns.Target]:
    """Return the columns of metrics, to which ``adder`` has added those of new numbers."""
    targets = columns.load(connection).targets
    if adder is None or not adder.ready:
        return targets
    new = [name for name in _numbers(measured) if name not in targets]
    if not new:
        return targets
    try:
        adder.add(connection, new)
    except errors.StoreError:
        return targets
    return columns.load(connection).targets


def _is_number(value: _Value) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _numbers(measured: Mapping[str, _Value]) -> list[str]:
    """Return the metrics whose values are numbers."""
    return [name for name, value in measured.items() if _is_number(value)]


def _fits(target: columns.Target, value: _Value) -> bool:
    """Whether a column gives the value back as it is."""
    is_long = isinstance(value, int) and value.bit_length() > 63
    given: Any = [value] if isinstance(value, str) or is_long else np.array([value])
    return bool(target.convert(given)[1][0])


class _Row(NamedTuple):
    """The key of a row of ``metrics``, the attempt that it is from, and whether it came without a step."""

    run_id: int
    step: int
    progress: float
    attempt: int
    numbered: bool | None


def _placed(connection: Connection, row: _Row, next_step: int) -> _Row:
    """Make room for a row that brings its step, and return it with the progress that its step has."""
    source = _source(row, {})
    metrics.give_way(connection, source, {row.run_id: next_step})
    if row.progress:
        connection.execute(metrics.progress_statement(source))
        return row
    progress = rows.scalar(connection, "fetch_progress", id=row.run_id, step=row.step)
    return row._replace(progress=progress or 0.0)


def _merge(row: _Row, measured: Mapping[str, _Value], targets: Mapping[str, columns.Target]) -> sql.Composed:
    """Return the statement that merges one row into ``metrics``; its time is PostgreSQL's."""
    touched = {name: targets[name] for name in measured if name in targets}
    placed = {name: measured[name] for name, target in touched.items() if _fits(target, measured[name])}
    cells = {name: _cell(placed.get(name), target.type) for name, target in touched.items()}
    cells["time"] = sql.SQL("clock_timestamp()")
    cells["extra"] = _cell(_extra(measured, placed), "jsonb")
    return metrics.merge_statement(list(touched), _source(row, cells))


def _source(row: _Row, more: Mapping[str, sql.Composable]) -> sql.Composed:
    """Return a row and its further cells, by column, as what statements take rows from."""
    cells = {name: _cell(value, _AXES[name]) for name, value in row._asdict().items()} | dict(more)
    return sql.SQL("(SELECT {})").format(
        sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(cell, sql.Identifier(name)) for name, cell in cells.items()
        )
    )


def _extra(measured: Mapping[str, _Value], placed: Collection[str]) -> str | None:
    """Return the JSON object of what has no column; None if there is nothing."""
    texts = {name: values.encode(value) for name, value in measured.items() if name not in placed}
    return values.to_object(texts) if texts else None


def _cell(value: Any, type_: str) -> sql.Composable:
    return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(type_))
