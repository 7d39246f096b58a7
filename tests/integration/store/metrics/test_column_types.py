"""A type of columns is one row: with it values are written, read, shown, drawn and exported."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from hpctrack.store.metrics import column_types, curves, extreme_values, metric_tables
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
    [days] = curves.fetch(connection, run_id, ["day"])
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
    assert curves.fetch(connection, run_id, ["day"]) == []


#: A type as an extension brings it, which says itself how it is cast.
_FIXED = """
CREATE TYPE fixed;
CREATE FUNCTION fixed_in(cstring) RETURNS fixed LANGUAGE internal IMMUTABLE STRICT AS 'float8in';
CREATE FUNCTION fixed_out(fixed) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'float8out';
CREATE TYPE fixed (INPUT = fixed_in, OUTPUT = fixed_out, LIKE = float8);
CREATE CAST (fixed AS double precision) WITHOUT FUNCTION;
"""


@pytest.mark.parametrize(
    "definition, type_",
    [
        pytest.param("CREATE DOMAIN share AS real CHECK (VALUE BETWEEN 0 AND 1)", "share", id="domain"),
        pytest.param("CREATE DOMAIN a AS real; CREATE DOMAIN b AS a", "b", id="domain over a domain"),
        pytest.param("CREATE DOMAIN price AS money", "price", id="domain over a type without a row"),
        pytest.param("", "money", id="money"),
        pytest.param(_FIXED, "fixed", id="type of an extension"),
    ],
)
def test_what_postgresql_casts_to_a_number_is_drawn(connection, run, insert, definition, type_):
    connection.execute(f"{definition}; ALTER TABLE metrics ADD COLUMN acc {type_}")
    run_id = run()
    insert("metrics", run_id=run_id, step=0, attempt=0, acc="0.5")
    insert("metrics", run_id=run_id, step=1, attempt=0, acc="0.25")
    insert("metrics", run_id=run_id, step=2, attempt=0, extra='{"acc": 1}')
    [accuracy] = curves.fetch(connection, run_id, ["acc"])
    assert (accuracy.first, accuracy.minimum, accuracy.last, accuracy.count) == (0.5, 0.25, 1.0, 3)
    assert extreme_values.fetch(connection, [run_id])[run_id]["acc"] == (0.25, 1.0)


def test_an_oid_is_drawn(connection, run, insert):
    connection.execute("ALTER TABLE metrics ADD COLUMN object oid")
    run_id = run()
    insert("metrics", run_id=run_id, step=0, attempt=0, object=4_000_000_000)
    [objects] = curves.fetch(connection, run_id, ["object"])
    assert objects.last == 4_000_000_000


def test_json_that_may_be_no_number_is_not_drawn(connection, run, insert):
    connection.execute("ALTER TABLE metrics ADD COLUMN acc jsonb")
    run_id = run()
    insert("metrics", run_id=run_id, step=0, attempt=0, acc='"high"')
    assert curves.fetch(connection, run_id, ["acc"]) == []
