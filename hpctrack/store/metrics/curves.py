"""Metrics of a run, made small enough to draw by PostgreSQL itself; peaks survive.

A metric's values live in a column of ``metrics`` or in its ``extra``, and are read as one. The SQL is put
together from the statements in ``sql/queries/metrics/curves.sql`` and quoted identifiers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from psycopg import sql

from hpctrack.store import rows
from hpctrack.store.metrics import column_types, series_rows, superseded
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from hpctrack.store.database import Connection

#: So many metrics are read by one statement: PostgreSQL returns at most 1,664 columns.
_AT_ONCE = 200
_AGGREGATES = (
    "count({0})",
    "count({0}) FILTER (WHERE {1})",
    "min({0}) FILTER (WHERE {1})",
    "max({0}) FILTER (WHERE {1})",
)
_FINITE = "{0} > '-Infinity' AND {0} < 'Infinity'"


class Bucket(NamedTuple):
    """A stretch of the axis; ``x`` is the middle of its rows, in steps or progress."""

    x: float
    values: int
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Curve:
    """One metric of a run. Booleans are 0 and 1."""

    name: str
    axis: Literal["step", "progress"]
    count: int
    """Number of values, ``nonfinite`` (nan and infinities) among them."""
    nonfinite: int
    first: float | None
    last: float | None
    minimum: float | None
    """Of the finite values; None if there is none."""
    maximum: float | None
    buckets: tuple[Bucket, ...]
    """In the order of the axis; those without finite values are left out."""


class _Axis(NamedTuple):
    name: Literal["step", "progress"]
    low: float
    high: float


@dataclass(frozen=True)
class Span:
    """Which rows of a run, by step and time; None means no bound. Both ends of a range of steps count."""

    first_step: int | None = None
    last_step: int | None = None
    since: datetime | None = None
    """Logged then or later; rows without a time are left out."""
    until: datetime | None = None
    """Logged earlier."""
    every_attempt: bool = False
    """Also rows that a later attempt superseded."""
    series: str | None = None
    """The series that the rows are of; None: rows of metrics."""

    def condition(self, connection: Connection, run_id: int) -> sql.Composed:
        """Return the condition on rows ``m`` of a run."""
        bounds = (
            ("m.step >= {}::bigint", self.first_step),
            ("m.step <= {}::bigint", self.last_step),
            ("m.time >= {}::timestamptz", self.since),
            ("m.time < {}::timestamptz", self.until),
        )
        parts = [sql.SQL(text).format(sql.Literal(bound)) for text, bound in bounds if bound is not None]
        standing = superseded.standing(connection, [run_id], self.series, every_attempt=self.every_attempt)
        return sql.SQL(" AND ").join([standing, *parts])


EVERYTHING = Span()


def fetch(
    connection: Connection,
    run_id: int,
    names: Iterable[str],
    buckets: int = 40,
    span: Span = EVERYTHING,
) -> list[Curve]:
    """Return the numeric ones of some metrics, reduced to at most so many buckets each.

    Names without a numeric value in this run are left out.
    """
    columns = columns_as_numbers(connection, span.series)
    values = {name: number_of(name, columns.get(name)) for name in names}
    condition = span.condition(connection, run_id)
    source = series_rows.source(span.series)
    axis = _axis(connection, source, run_id, condition)
    if axis is None:
        return []
    return [
        curve
        for chunk in chunks(list(values))
        for curve in _fetch_chunk(
            connection,
            _Rows(source, run_id, condition, axis, buckets),
            {name: values[name] for name in chunk},
        )
    ]


def columns_as_numbers(connection: Connection, series: str | None = None) -> dict[str, str | None]:
    """Return the columns that hold metrics, each with `ColumnType.as_number` of its type.

    A series has none.
    """
    if series is not None:
        return {}
    columns = rows.tuples(connection, "fetch_metric_columns")
    return {name: column_types.as_number(type_, through) for name, type_, through in columns}


def number_of(name: str, as_number: str | None) -> sql.Composable:
    """Return the expression of a metric's value as a number; ``as_number``: its column's, if it has one."""
    extra = sql.SQL("metric_number(m.extra -> {})").format(sql.Literal(name))
    if as_number is None:
        return extra
    return sql.SQL("coalesce(" + as_number + ", {})").format(sql.Identifier("m", name), extra)


def _axis(connection: Connection, source: sql.Composable, run_id: int, span: sql.Composable) -> _Axis | None:
    """Return along what to draw: steps, or progress where all rows have the same step."""
    query = composable("fetch_axis").format(source=source, id=run_id, span=span)
    ((first_step, last_step, first_progress, last_progress),) = rows.tuples(connection, query)
    if first_step is None:
        return None
    if first_step == last_step and first_progress < last_progress:
        return _Axis("progress", first_progress, last_progress)
    return _Axis("step", float(first_step), float(last_step))


class _Rows(NamedTuple):
    """What to reduce, and to how much."""

    source: sql.Composable
    run_id: int
    span: sql.Composable
    axis: _Axis
    buckets: int


def _fetch_chunk(connection: Connection, which: _Rows, values: dict[str, sql.Composable]) -> Iterator[Curve]:
    labels = [sql.Identifier(f"v{number}") for number in range(len(values))]
    query = composable("fetch_buckets").format(
        axis=sql.Identifier("m", which.axis.name),
        values=sql.SQL(", ").join(map(sql.SQL("{} AS {}").format, values.values(), labels)),
        aggregates=sql.SQL(", ").join(itertools.chain.from_iterable(map(_aggregates, labels))),
        source=which.source,
        id=which.run_id,
        span=which.span,
        low=which.axis.low,
        high=which.axis.high,
        buckets=which.buckets,
    )
    buckets = rows.tuples(connection, query)
    (ends,) = rows.tuples(connection, _ends(which, values.values()))
    middles = [(low + high) / 2 for _, low, high, *_ in buckets]
    for number, name in enumerate(values):
        begin = 3 + number * len(_AGGREGATES)
        cells = [bucket[begin : begin + len(_AGGREGATES)] for bucket in buckets]
        curve = _curve(name, which.axis.name, middles, cells, ends[2 * number : 2 * number + 2])
        if curve.count:
            yield curve


def _aggregates(label: sql.Identifier) -> list[sql.Composable]:
    finite = sql.SQL(_FINITE).format(label)
    return [sql.SQL(aggregate).format(label, finite) for aggregate in _AGGREGATES]


def _ends(which: _Rows, values: Iterable[sql.Composable]) -> sql.Composed:
    end = composable("fetch_end")
    directions = (sql.SQL("ASC"), sql.SQL("DESC"))
    queries = [
        end.format(source=which.source, id=which.run_id, span=which.span, value=value, direction=direction)
        for value in values
        for direction in directions
    ]
    return composable("fetch_ends").format(ends=sql.SQL(", ").join(queries))


def _curve(
    name: str,
    axis: Literal["step", "progress"],
    middles: Sequence[float],
    cells: Sequence[Sequence[Any]],
    ends: Sequence[Any],
) -> Curve:
    """Put one metric together; a cell is (count, finite count, minimum, maximum)."""
    drawn = _drawn(middles, cells)
    count = sum(cell[0] for cell in cells)
    return Curve(
        name,
        axis,
        count,
        count - sum(bucket.values for bucket in drawn),
        first=ends[0],
        last=ends[1],
        minimum=min((bucket.minimum for bucket in drawn), default=None),
        maximum=max((bucket.maximum for bucket in drawn), default=None),
        buckets=drawn,
    )


def _drawn(middles: Sequence[float], cells: Sequence[Sequence[Any]]) -> tuple[Bucket, ...]:
    """Return the buckets that hold finite values."""
    return tuple(
        Bucket(x, finite, minimum, maximum)
        for x, (_, finite, minimum, maximum) in zip(middles, cells, strict=True)
        if finite
    )


def chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield as many names at a time as one statement may ask for."""
    return (names[begin : begin + _AT_ONCE] for begin in range(0, len(names), _AT_ONCE))
