"""The database of the benchmarks, small: it is what it says, and every list reads it."""

from __future__ import annotations

import json

import pytest

from benchmarks import bigdata
from hpctrack.store.metrics import curves


@pytest.fixture
def filled(connection):
    bigdata.fill(connection, bigdata.Counts.of(600, long_series=3000))


def test_a_generated_database_is_like_a_real_one(cli, connection, filled):
    counts = {
        table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("runs", "experiments", "run_latest", "metrics")
    }
    assert counts == {"runs": 600, "experiments": 2, "run_latest": 600, "metrics": 600 * 20 + 2980}
    code, out, _ = cli("status", "--json", "--limit", "600")
    told = json.loads(out)
    assert code == 0
    assert len(told["runs"]) == sum(told["counts"].values()) == 600
    assert {"COMPLETED", "FAILED", "RUNNING", "PENDING"} <= set(told["counts"])
    assert any(run["array_job_id"] for run in told["runs"])
    assert told["runs"][-1]["last_step"] == 2999
    (only,) = curves.fetch(connection, 600, ["val_loss"], buckets=50)
    assert (only.count, only.maximum) == (3000, bigdata.SPIKE)
    # Statistics are those of the rows, of runs that are over and of others.
    query = """
        SELECT count(*), count(*) FILTER (WHERE (s.count, s.min, s.max) = (m.count, m.min, m.max))
        FROM metric_summary s
        JOIN (SELECT run_id, count(*) AS count, min(val_loss) AS min, max(val_loss) AS max
              FROM metrics GROUP BY run_id) m USING (run_id)
        WHERE s.name = 'val_loss'"""
    assert connection.execute(query).fetchone() == (600, 600)
    _, out, _ = cli("status", "--where", "min.val_loss < 0.3", "--sort", "min.val_loss", "--json")
    assert [run["id"] for run in json.loads(out)["runs"]] == [600]
    # The keys hold, although they were not checked when it was loaded.
    for table, key in (("runs", "submission"), ("attempts", "run_id"), ("metrics", "run_id")):
        target = "submissions s WHERE s.uuid" if key == "submission" else "runs s WHERE s.id"
        query = f"SELECT count(*) FROM {table} t WHERE NOT EXISTS (SELECT FROM {target} = t.{key})"
        assert connection.execute(query).fetchone() == (0,), table
