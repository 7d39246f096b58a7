"""Metrics of runs in columns of arrays: what DataFrames and exported files are made of.

A metric's value lives in a column of ``metrics`` or in its ``extra``, and both are read as one. Values of
columns come by COPY BINARY and never become Python objects; those in ``extra`` do, one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql

from hpctrack.store import database, rows, values
from hpctrack.store.metrics import (
    column_types,
    columnar,
    copy_decode,
    copy_out,
    metric_names,
    series_rows,
    superseded,
)
from hpctrack.store.metrics.column_types import FLOAT8, INT4, INT8, TEXT, TIMESTAMPTZ
from hpctrack.store.metrics.columnar import Cells
from hpctrack.store.statements import composable
from hpctrack.stream.wire.messages import FIGURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hpctrack.store.database import Connection

#: What stands before the metrics: column in PostgreSQL and type.
AXES = {
    "run": ("run_id", INT8),
    "step": ("step", INT8),
    "progress": ("progress", FLOAT8),
    "time": ("time", TIMESTAMPTZ),
    "restarts": ("attempt", INT4),
}
#: What a sample of usage says, and types.
USAGE = {
    "time": TIMESTAMPTZ,
    "attempt": INT4,
    "node": TEXT,
    **{figure.name: figure.type for figure in FIGURES},
}


class Part(NamedTuple):
    """Some rows, in columns."""

    rows: int
    axes: dict[str, Cells]
    metrics: dict[str, Cells]
    """Those that have a column in PostgreSQL."""
    extra: dict[str, dict[int, Any]]
    """Values that are not in columns: by metric, by index of the row."""


class _Field(NamedTuple):
    expression: sql.Composable
    type: str


def count(connection: Connection, runs: Sequence[int], series: str | None = None) -> int:
    """Return how many rows came in for runs, or for a series; there may be fewer, where some came twice."""
    if series is not None:
        return sum(known.rows for known in series_rows.fetch(connection, runs) if known.name == series)
    return int(rows.scalar(connection, "count_rows", ids=list(runs)))


def read(
    connection: Connection,
    runs: Sequence[int],
    names: Iterable[str],
    series: str | None = None,
    *,
    axes: Sequence[str] = tuple(AXES),
    every_row: bool = True,
    every_attempt: bool = False,
) -> Iterator[Part]:
    """Yield the rows of runs, or of a series, run by run, each run's in the order of step and progress.

    ``every_row``: also those without a value of any of these metrics; ``every_attempt``: also those that a
    later attempt superseded. Raises `errors.StoreError`.
    """
    names = list(dict.fromkeys(names))
    types = metric_names.column_types(connection, series)
    placed = {name: types[name] for name in names if name in types}
    fields = _fields(axes, placed, names)
    query = composable("select_metrics").format(
        fields=_listed(fields),
        source=series_rows.source(series),
        runs=list(runs),
        standing=superseded.standing(connection, runs, series, every_attempt=every_attempt),
        condition=sql.SQL("true") if every_row else metric_names.has_any(names, list(placed)),
    )
    for size, cells in _copied(connection, query, fields):
        yield Part(
            size,
            dict(zip(axes, cells, strict=False)),
            dict(zip(placed, cells[len(axes) :], strict=False)),
            _by_metric(cells[-1], frozenset(names)),
        )


def _fields(axes: Sequence[str], placed: Mapping[str, str], names: Sequence[str]) -> list[_Field]:
    """Return the fields of a row: axes, metrics in columns (name to type), and ``extra`` if it has any."""
    extra = sql.SQL("CASE WHEN {} THEN m.extra::text END").format(metric_names.has_extra(names))
    return [
        *(_Field(sql.Identifier("m", AXES[axis][0]), AXES[axis][1]) for axis in axes),
        *(_field(sql.Identifier("m", name), type_) for name, type_ in placed.items()),
        _Field(extra, TEXT),
    ]


def read_usage(connection: Connection, run_id: int) -> Iterator[Part]:
    """Yield the samples of what a run used, in the order of time; all of it as ``axes``."""
    fields = [_field(sql.Identifier("u", name), type_) for name, type_ in USAGE.items()]
    query = composable("select_usage").format(fields=_listed(fields), run=run_id)
    for size, cells in _copied(connection, query, fields):
        yield Part(size, dict(zip(USAGE, cells, strict=True)), {}, {})


def kind_of_type(type_: str) -> str:
    """Return the kind (see `columnar`) of a column's values as they are read."""
    return column_types.of(type_).kind


def _field(column: sql.Composable, type_: str) -> _Field:
    """Return how to read a column of the user's."""
    read_as = column_types.of(type_).read_as
    if read_as is None:
        return _Field(column, type_)
    return _Field(sql.SQL("{}::{}").format(column, sql.Identifier(read_as)), read_as)


def _listed(fields: Iterable[_Field]) -> sql.Composed:
    return sql.SQL(", ").join(field.expression for field in fields)


def _copied(
    connection: Connection, query: sql.Composable, fields: list[_Field]
) -> Iterator[tuple[int, list[Cells]]]:
    types = [field.type for field in fields]
    for chunk in copy_out.chunks(connection, query):
        yield len(chunk.sizes), copy_decode.decode(chunk.data, chunk.sizes, types)


def _by_metric(cells: Cells, names: frozenset[str]) -> dict[str, dict[int, Any]]:
    """Return the values in ``extra`` that are asked for."""
    of_metric: dict[str, dict[int, Any]] = {}
    for row in columnar.mask(cells).nonzero()[0].tolist():
        for name, value in database.loads(cells.values[row]).items():
            if name in names and value is not None:
                of_metric.setdefault(name, {})[row] = values.decode(value)
    return of_metric
