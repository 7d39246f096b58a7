"""The views that make queries short: what they hold, for every kind of value and of run."""

from __future__ import annotations

import math

import pytest

from hpctrack.store.ingest import summaries


@pytest.fixture
def values(connection, insert, run):
    """A run with metrics of every kind, with and without columns."""
    connection.execute(
        "ALTER TABLE metrics ADD COLUMN loss float, ADD COLUMN epochs integer, ADD COLUMN note text,"
        ' ADD COLUMN "val/Loss" float'
    )
    run_id = run(kind="client")
    insert("metrics", run_id=run_id, step=1, loss=2.0, epochs=7, extra={"acc": 0.25, "name": "x"})
    insert("metrics", run_id=run_id, step=2, loss=math.nan, note="NaN?", **{"val/Loss": math.inf})
    insert("metrics", run_id=run_id, step=3, extra={"acc": {"float": "nan"}, "big": {"int": str(10**20)}})
    insert("metrics", run_id=run_id, step=4, loss=0.5, extra={"acc": True, "name": None})
    insert("metrics", run_id=run_id, step=5, loss=0.5)
    connection.execute("UPDATE runs SET time_updated = now() WHERE id = %s", [run_id])
    assert [run.run_id for run in summaries.find_stale(connection)] == [run_id]
    assert summaries.renew(connection, run_id)
    return run_id


def test_each_value_is_a_row(connection, values):
    rows = connection.execute(
        "SELECT step, name, value::text, text FROM metric_values WHERE run_id = %s ORDER BY step, name",
        [values],
    ).fetchall()
    assert rows == [
        (1, "acc", "0.25", "0.25"), (1, "epochs", "7", "7"), (1, "loss", "2", "2"), (1, "name", None, "x"),
        (2, "loss", "NaN", "NaN"), (2, "note", None, "NaN?"), (2, "val/Loss", "Infinity", "Infinity"),
        (3, "acc", "NaN", "nan"), (3, "big", "1e+20", str(10**20)),
        (4, "acc", "1", "true"), (4, "loss", "0.5", "0.5"), (4, "name", None, None),
        (5, "loss", "0.5", "0.5"),
    ]  # fmt: skip


def test_each_metric_is_a_row(connection, values):
    rows = connection.execute(
        "SELECT name, count, first::text, last::text, min, min_step, max, max_step FROM metric_summary"
        " WHERE run_id = %s ORDER BY name", [values],
    ).fetchall()  # fmt: skip
    assert rows == [
        ("acc", 3, "0.25", "1", 0.25, 1, 1.0, 4), ("big", 1, "1e+20", "1e+20", 1e20, 3, 1e20, 3),
        ("epochs", 1, "7", "7", 7.0, 1, 7.0, 1), ("loss", 4, "2", "0.5", 0.5, 4, 2.0, 1),
        ("val/Loss", 1, "Infinity", "Infinity", math.inf, 2, math.inf, 2),
    ]  # fmt: skip


def test_columns_come_and_go_under_the_views(connection, insert, values):
    connection.execute("ALTER TABLE metrics DROP COLUMN epochs, ADD COLUMN late float")
    insert("metrics", run_id=values, step=9, late=1.5)
    rows = connection.execute("SELECT DISTINCT name FROM metric_values ORDER BY name").fetchall()
    assert [name for (name,) in rows] == ["acc", "big", "late", "loss", "name", "note", "val/Loss"]


def test_one_runs_values_are_found_by_the_index(connection, insert, run):
    for _ in range(20):
        connection.execute("INSERT INTO metrics (run_id, step) SELECT %s, generate_series(1, 200)", [run()])
    connection.execute("ANALYZE metrics")
    indexes = {
        "metric_values": ["metrics_leaf_1_pkey"],
        "metric_summary": ["run_metrics_pkey", "run_latest_"],
    }
    for view, used in indexes.items():
        plan = connection.execute(f"EXPLAIN SELECT * FROM {view} WHERE run_id = 3").fetchall()
        assert all(any(index in line for (line,) in plan) for index in used), plan


def test_jobs_are_called_what_slurm_calls_them(connection, insert):
    experiment = insert("experiments", name="e")
    for job in (
        {"slurm_job_id": 14}, {"slurm_job_id": 17, "array_job_id": 15, "array_task_id": 2},
        {"array_job_id": 15, "array_task_id": 3}, {"slurm_job_id": 20, "het_job_id": 20}, {},
    ):  # fmt: skip
        insert("runs", experiment_id=experiment, **job)
    rows = connection.execute("SELECT job_id FROM jobs ORDER BY run_id").fetchall()
    assert [job for (job,) in rows] == ["14", "15_2", "15_3", "20", None]


def test_time_that_a_job_took(connection, insert):
    experiment = insert("experiments", name="e")
    begun, ended = "2026-01-01 10:00Z", "2026-01-01 12:30Z"
    insert("runs", experiment_id=experiment, status="PENDING")
    insert("runs", experiment_id=experiment, status="CANCELLED", time_ended=ended)
    insert("runs", experiment_id=experiment, status="COMPLETED", time_started=begun, time_ended=ended)
    insert("runs", experiment_id=experiment, status="RUNNING", time_started=begun)
    rows = connection.execute(
        "SELECT elapsed::text, elapsed = now() - started FROM jobs ORDER BY run_id"
    ).fetchall()
    assert [row[0] for row in rows[:3]] == [None, None, "02:30:00"]
    assert rows[3][1] is True
