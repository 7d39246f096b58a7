"""Extremes of metrics: taken from the statistics of runs, from rows where these do not tell of all."""

from __future__ import annotations

import json

import pytest

from hpctrack.store.metrics import extreme_values, statistics

ROWS = {"loss": (0.25, 4.0)}
TOLD = {"loss": (0.5, 2.0)}
"""What the statistics say, so that it can be seen where extremes come from."""


@pytest.fixture
def logged(connection, run, insert):
    """Insert a run with rows, and statistics that say something else; returns its id."""
    connection.execute("INSERT INTO metric_names (name) VALUES ('loss')")

    def make(low=0.5, high=2.0, names=("loss",), **latest):
        stats = {name: [3, 0, low, 0, high, 1, 1.0, 0, 0, 2.0, 2, 0] for name in names}
        settled = latest.get("settled", False)
        run_id = run(latest={"last": {"loss": 1}, "stats": {} if settled else stats, **latest})
        if settled:
            insert("run_metrics", run_id=run_id, name_id=1, count=3, nans=0, min=low, max=high)
        for step, value in enumerate((0.25, 4.0, float("nan"), float("inf"))):
            connection.execute(
                "INSERT INTO metrics (run_id, step, extra) VALUES (%s, %s, %s)",
                [
                    run_id,
                    step,
                    json.dumps({"loss": {"float": str(value)} if value > 9 or value != value else value}),
                ],
            )
        return run_id

    return make


CASES = {
    "over": ({"settled": True}, TOLD),
    "goes on": ({}, TOLD),
    "has further rows": ({"unsummed": 1}, ROWS),
    "was over, has late rows": ({"unsummed": 1, "settled": False}, ROWS),
    "is stale": ({"stale": True}, ROWS),
    "infinite": ({"settled": True, "high": "inf"}, ROWS),
    "infinite and goes on": ({"high": {"float": "inf"}}, ROWS),
    "only nan": ({"settled": True, "low": None, "high": None}, {}),
    "too many metrics": ({"names": ["loss", *map(str, range(1, statistics.MOST))]}, ROWS),
    "no statistics": ({"names": ()}, ROWS),
}


@pytest.mark.parametrize(("given", "expected"), CASES.values(), ids=CASES)
def test_extremes_come_from_statistics_where_these_have_them(connection, logged, given, expected):
    run_id, other = logged(**given), logged(unsummed=1)
    assert extreme_values.fetch(connection, [run_id, other]) == {run_id: expected, other: ROWS}


def test_rows_that_nobody_told_of_are_read(connection, run, insert):
    run_id = run()
    insert("metrics", run_id=run_id, step=1, extra={"loss": 3})
    assert extreme_values.fetch(connection, [run_id, run()]) == {run_id: {"loss": (3.0, 3.0)}}
    assert extreme_values.fetch(connection, []) == {}
