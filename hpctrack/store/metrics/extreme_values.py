"""The least and the greatest value of each metric of many runs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from hpctrack.store import database
from hpctrack.store.metrics import metric_names, series
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.store.database import Connection


class Extremes(NamedTuple):
    """Of the finite values of a metric in one run."""

    minimum: float
    maximum: float


def fetch(connection: Connection, runs: Sequence[int]) -> dict[int, dict[str, Extremes]]:
    """Return them by run and metric; metrics without finite numbers are left out. Booleans are 0 and 1."""
    names = metric_names.fetch(connection, runs)
    types = series.numeric_columns(connection)
    found: dict[int, dict[str, Extremes]] = {}
    for chunk in series.chunks(names):
        aggregates = itertools.chain.from_iterable(
            (composable("least_value").format(value=value), composable("greatest_value").format(value=value))
            for value in (series.number_of(name, types.get(name)) for name in chunk)
        )
        query = composable("fetch_extremes").format(
            aggregates=sql.SQL(", ").join(aggregates), runs=list(runs)
        )
        with database.translated():
            rows = connection.execute(query).fetchall()
        for run_id, *cells in rows:
            of_run = found.setdefault(int(str(run_id)), {})
            for name, least, greatest in zip(chunk, cells[::2], cells[1::2], strict=True):
                if isinstance(least, float) and isinstance(greatest, float):
                    of_run[name] = Extremes(least, greatest)
    return found
