"""A type of columns is one row: with it values are written, read, shown, drawn and exported."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from hpctrack.store.metrics import column_types, metric_tables, series
from tests.support.journals import Journal

_DAYS_TO_2000 = 10_957


def _days(value, modifier):
    """Take ISO dates, as days since 1970."""
    try:
        return datetime.date.fromisoformat(value).toordinal() - datetime.date(1970, 1, 1).toordinal()
    except (TypeError, ValueError):
        return None


DATE = column_types.ColumnType(
    "date",
    ">i4",
    "time",
    column_types.each(_days, np.int64),
    to_copy=lambda days: days - _DAYS_TO_2000,
    from_copy=lambda days: (
        (days.astype(np.int64) + _DAYS_TO_2000).view("datetime64[D]").astype("datetime64[us]")
    ),
    as_number="({} - date '1970-01-01')::double precision",
)


@pytest.fixture
def dates(connection, monkeypatch):
    monkeypatch.setitem(column_types.TYPES, "date", DATE)
    connection.execute("ALTER TABLE metrics ADD COLUMN day date")


def test_a_made_up_type_is_one_row(dates, connection, ingest, run, database, printed, tmp_path):
    run_id = run()
    rows = [
        {"step": 0, "day": "2026-02-01"},
        {"step": 1, "day": "tomorrow"},
        {"step": 2, "day": "1999-12-31"},
    ]
    ingest.store([Journal(run_id).rows(*rows)])
    # Written by COPY.
    stored = connection.execute("SELECT step, day, extra FROM metrics ORDER BY step").fetchall()
    assert stored == [
        (0, datetime.date(2026, 2, 1), None),
        (1, None, {"day": "tomorrow"}),
        (2, datetime.date(1999, 12, 31), None),
    ]
    # Read back by COPY.
    [part] = metric_tables.read(connection, [run_id], ["day"])
    assert part.metrics["day"].values[[0, 2]].astype("datetime64[D]").tolist() == [
        datetime.date(2026, 2, 1),
        datetime.date(1999, 12, 31),
    ]
    assert part.extra == {"day": {1: "tomorrow"}}
    # Drawn.
    [days] = series.fetch(connection, run_id, ["day"])
    assert (days.minimum, days.maximum) == (10_956, 20_485)
    # Shown, and exported.
    assert "2026-02-01" in printed("metrics", f"r{run_id}", "day")
    path = tmp_path / "runs.csv"
    printed("export", f"r{run_id}", "-o", str(path))
    assert "2026-02-01" in path.read_text(encoding="utf-8")


def test_a_type_without_a_row_is_not_written_and_read_as_text(connection, ingest, run):
    run_id = run()
    connection.execute("ALTER TABLE metrics ADD COLUMN day date")
    ingest.store([Journal(run_id).rows({"step": 0, "day": "2026-02-01"})])
    assert connection.execute("SELECT day, extra FROM metrics").fetchall() == [(None, {"day": "2026-02-01"})]
    connection.execute("UPDATE metrics SET day = '2026-02-01', extra = NULL")
    [part] = metric_tables.read(connection, [run_id], ["day"])
    assert part.metrics["day"].values.tolist() == ["2026-02-01"]
    assert series.fetch(connection, run_id, ["day"]) == []


def test_a_domain_is_drawn_as_what_it_is_made_of(connection, run, insert):
    connection.execute("CREATE DOMAIN share AS real CHECK (VALUE BETWEEN 0 AND 1)")
    connection.execute("ALTER TABLE metrics ADD COLUMN acc share")
    run_id = run()
    insert("metrics", run_id=run_id, step=0, attempt=0, acc=0.5)
    [accuracy] = series.fetch(connection, run_id, ["acc"])
    assert accuracy.last == 0.5
