"""Rows of a run, one by one, for people and text files; arrays are made by `metric_tables`.

A metric's value lives in a column of ``metrics`` or in its ``extra``, and both are read as one.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql

from hpctrack.store import rows, values
from hpctrack.store.metrics import curves, metric_names, series_rows
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from hpctrack.store.database import Connection

_AT_ONCE = 2000
_AXES = 4


class MetricRow(NamedTuple):
    """A row of metrics."""

    step: int
    progress: float
    time: datetime | None
    attempt: int | None
    values: tuple[Any, ...]
    """In the order of the names that were asked for; None where the row has none."""


class LastValue(NamedTuple):
    """The latest value of a metric."""

    name: str
    value: Any
    step: int
    progress: float
    time: datetime | None


def iterate(
    connection: Connection, run_id: int, names: Sequence[str], span: curves.Span, last: int | None = None
) -> Iterator[MetricRow]:
    """Yield the rows that have one of these metrics, in order of step; with ``last`` only so many, the last.

    PostgreSQL keeps the rows that were not asked for yet. Raises `errors.StoreError`.
    """
    columns = curves.columns_as_numbers(connection, span.series)
    placed = [name for name in names if name in columns]
    query = composable("list_metric_rows").format(
        columns=sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier("m", name)) for name in placed),
        names=sql.Literal(list(names)),
        source=series_rows.source(span.series),
        run_id=run_id,
        span=span.condition(connection, run_id),
        present=metric_names.has_any(names, placed),
        direction=sql.SQL("ASC" if last is None else "DESC"),
        limit=sql.Literal(last),
    )
    places = dict(zip(placed, itertools.count(_AXES + 1), strict=False))
    with rows.transaction(connection), connection.cursor("metric_rows") as cursor:
        cursor.itersize = _AT_ONCE
        for row in cursor.execute(query):
            yield MetricRow._make((*row[:_AXES], _row_values(row, names, places)))


def last_values(
    connection: Connection, run_id: int, names: Sequence[str], span: curves.Span
) -> list[LastValue]:
    """Return the latest value of each metric that has one."""
    columns = curves.columns_as_numbers(connection, span.series)
    condition = span.condition(connection, run_id)
    latest = []
    for name in names:
        placed = [name] if name in columns else []
        query = composable("fetch_last_value").format(
            column=sql.Identifier("m", name) if placed else sql.SQL("NULL"),
            name=sql.Literal(name),
            source=series_rows.source(span.series),
            run_id=run_id,
            span=condition,
            present=metric_names.has_any([name], placed),
        )
        row = rows.first(connection, query)
        if row is not None:
            value, extra, *axes = row
            latest.append(LastValue(name, values.decode(extra) if value is None else value, *axes))
    return latest


def _row_values(row: Sequence[Any], names: Sequence[str], places: dict[str, int]) -> tuple[Any, ...]:
    extra = row[_AXES] or {}
    cells = [row[places[name]] if name in places else None for name in names]
    return tuple(
        values.decode(extra.get(name)) if cell is None else cell
        for name, cell in zip(names, cells, strict=True)
    )
