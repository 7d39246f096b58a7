"""What metrics take on disk, tables and indexes, beside a table with a row for each value."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from benchmarks.result import Result
from benchmarks.site import personal
from benchmarks.stream import collector as load
from hpctrack.store.database import Connection

#: What the names of its results begin with.
RESULTS = ("store.disk",)

ROWS = 120_000
_VALUES = 5
_BY_VALUE = """
CREATE TABLE by_value (
    run_id bigint NOT NULL, step bigint NOT NULL, progress double precision NOT NULL, time timestamptz,
    metric text NOT NULL, value double precision, PRIMARY KEY (run_id, metric, step, progress));
INSERT INTO by_value
SELECT run_id, step, progress, time, key, value::double precision
FROM metrics m, jsonb_each_text(jsonb_strip_nulls(to_jsonb(m)))
WHERE key NOT IN ('run_id', 'step', 'progress', 'time', 'attempt', 'extra', 'numbered')
"""


def measure() -> Iterator[Result]:
    """Measure rows of five values that the collector stored."""
    ten = [tuple(f"metric{n}" for n in range(first, first + _VALUES)) for first in (0, _VALUES)]
    yield from _measure("10_columns", ten, 4, 35)
    yield from _measure("200_columns", load.subsets(1000), 1000, 45)


def _measure(name: str, sets: Sequence[tuple[str, ...]], runs: int, target: float) -> Iterator[Result]:
    with personal() as site, site.collector() as collector:
        load.ship(site, collector, runs, ROWS, sets)
        with contextlib.closing(site.connect()) as connection:
            ours = _bytes(connection, "metrics")
            connection.execute(_BY_VALUE)
            others = _bytes(connection, "by_value")
    yield Result(f"store.disk.{name}", ours, "B/value", target=target, note=f"row per value: {others:.0f}")


def _bytes(connection: Connection, table: str) -> float:
    query = (
        "SELECT sum(pg_total_relation_size(part))::bigint FROM (SELECT %(table)s::regclass AS part"
        " UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = %(table)s::regclass) AS parts"
    )
    rows = connection.execute(query, {"table": table}).fetchone()
    return int(str(rows[0])) / (ROWS * _VALUES) if rows else 0.0
