"""Metrics of one run as a DataFrame: a million rows of five metrics.

The floor is psycopg's binary fetch of the same rows into Python objects, without making a DataFrame of them.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator

from benchmarks.result import Result
from benchmarks.site import Site, personal
from hpctrack import Client

#: What the names of its results begin with.
RESULTS = ("api.metrics",)

ROWS = 1_000_000
ROUNDS = 5
#: The last one is logged every tenth step, as validation is.
NAMES = ("loss", "accuracy", "lr", "norm", "val_loss")


def measure() -> Iterator[Result]:
    """Measure both in turn, round by round, so that what else the machine does hits both."""
    with personal() as site:
        dense, sparse = fill(site, ROWS, every=1), fill(site, ROWS, every=10)
        for name, run in (("metrics", dense), ("metrics_with_gaps", sparse)):
            floor, ours = _in_turn(lambda run=run: _fetch(site, run), lambda run=run: _frame(site, run))
            note = f"DataFrame of {ROWS:,} rows; floor: binary fetch into objects"
            yield Result(f"api.{name}", ours, "s", floor, 0.5, note=note)


def fill(site: Site, rows: int, *, every: int) -> int:
    """Insert rows of a new run, the last metric in one of ``every`` rows; returns the run's id."""
    (run,) = site.submit(1)
    with contextlib.closing(site.connect()) as connection:
        for name in NAMES:
            connection.execute(f"ALTER TABLE metrics ADD COLUMN IF NOT EXISTS {name} double precision")
        connection.execute(
            "SET session_replication_role = replica"
        )  # the run is there: no need to look for it
        connection.execute(
            f"INSERT INTO metrics (run_id, step, time, attempt, {', '.join(NAMES)})"
            " SELECT %(run)s, n, now() + n * interval '1 ms', 0, random(), random(), random(), random(),"
            " CASE WHEN n %% %(every)s = 0 THEN random() END FROM generate_series(1, %(rows)s) n",
            {"run": run.run_id, "rows": rows, "every": every},
        )
        connection.execute(
            "INSERT INTO run_latest (run_id, rows, last)"
            " SELECT %s, %s, jsonb_object_agg(name, 0.5) FROM unnest(%s::text[]) name",
            (run.run_id, rows, list(NAMES)),
        )
        connection.execute("VACUUM ANALYZE metrics")
    return run.run_id


def _in_turn(*calls: Callable[[], object]) -> list[float]:
    """Return the median seconds of each call."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            gc.collect()
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def _fetch(site: Site, run: int) -> int:
    query = (
        f"SELECT step, progress, time, {', '.join(NAMES)} FROM metrics"
        " WHERE run_id = %s ORDER BY step, progress"
    )
    with contextlib.closing(site.connect()) as connection, connection.cursor(binary=True) as cursor:
        return len(cursor.execute(query, (run,)).fetchall())


def _frame(site: Site, run: int) -> int:
    with Client(settings=site.settings) as client:
        return len(client.run(run).metrics())
