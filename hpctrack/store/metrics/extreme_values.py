"""The least and the greatest value of each metric of many runs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from hpctrack.store import rows
from hpctrack.store.metrics import metric_names, series, superseded
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.store.database import Connection


class Extremes(NamedTuple):
    """Minimum and maximum of a metric's finite values in one run."""

    minimum: float
    maximum: float


def fetch(connection: Connection, runs: Sequence[int]) -> dict[int, dict[str, Extremes]]:
    """Return the extremes by run and metric; metrics without finite numbers are left out.

    Booleans are 0 and 1.
    """
    names = metric_names.fetch(connection, runs)
    columns = series.columns_as_numbers(connection)
    standing = superseded.standing(connection, runs)
    extremes: dict[int, dict[str, Extremes]] = {}
    for chunk in series.chunks(names):
        aggregates = itertools.chain.from_iterable(_aggregates(name, columns.get(name)) for name in chunk)
        query = composable("fetch_extremes").format(
            aggregates=sql.SQL(", ").join(aggregates), runs=list(runs), standing=standing
        )
        for run_id, *cells in rows.tuples(connection, query):
            pairs = zip(chunk, map(Extremes, cells[::2], cells[1::2]), strict=True)
            extremes.setdefault(run_id, {}).update(
                (name, pair) for name, pair in pairs if pair.minimum is not None
            )
    return extremes


def _aggregates(name: str, as_number: str | None) -> tuple[sql.Composed, sql.Composed]:
    value = series.number_of(name, as_number)
    return composable("least_value").format(value=value), composable("greatest_value").format(value=value)
