"""The least and the greatest value of each metric of many runs.

They are taken from the statistics of runs (`hpctrack.store.ingest.summaries`). Rows are read only of runs
whose statistics may not say it: they do not tell of all rows yet, have infinite extremes, or not all metrics.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from hpctrack.store import rows
from hpctrack.store.metrics import curves, metric_names, statistics, superseded
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
    extremes = _known(connection, runs)
    return {**extremes, **_scanned(connection, [run_id for run_id in runs if run_id not in extremes])}


def _known(connection: Connection, runs: Sequence[int]) -> dict[int, dict[str, Extremes]]:
    """Return those of runs whose statistics have them."""
    summaries: dict[int, dict[str, Extremes]] = {}
    for run_id, name, *pair in rows.tuples(connection, "fetch_known_extremes", runs=list(runs)):
        summaries.setdefault(run_id, {})[name] = Extremes(*pair)
    return {
        run_id: {name: pair for name, pair in sorted(of_run.items()) if pair.minimum is not None}
        for run_id, of_run in summaries.items()
        if len(of_run) < statistics.MOST and not any(map(_is_infinite, of_run.values()))
    }


def _is_infinite(pair: Extremes) -> bool:
    return pair.minimum is not None and (math.isinf(pair.minimum) or math.isinf(pair.maximum))


def _scanned(connection: Connection, runs: Sequence[int]) -> dict[int, dict[str, Extremes]]:
    if not runs:
        return {}
    names = metric_names.fetch(connection, runs)
    columns = curves.columns_as_numbers(connection)
    standing = superseded.standing(connection, runs)
    extremes: dict[int, dict[str, Extremes]] = {}
    for chunk in curves.chunks(names):
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
    value = curves.number_of(name, as_number)
    return composable("least_value").format(value=value), composable("greatest_value").format(value=value)
