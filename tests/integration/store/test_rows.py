"""The verbs that run SQL: cells reach records by name, errors come out translated."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from psycopg import sql

from hpctrack import errors
from hpctrack.run.states import RunStatus
from hpctrack.store import rows, statements
from hpctrack.store.write import reconciled


class Point(NamedTuple):
    x: int
    y: int


def test_cells_reach_a_record_by_the_names_of_their_columns(connection):
    query = sql.SQL("SELECT 2 AS y, 1 AS x").format()
    assert rows.records(connection, query, Point) == [Point(x=1, y=2)]
    assert list(rows.iterate(connection, query, Point)) == [Point(x=1, y=2)]


def test_a_column_that_a_record_does_not_have_is_refused(connection):
    with pytest.raises(TypeError, match="z"):
        rows.records(connection, sql.SQL("SELECT 1 AS x, 2 AS y, 3 AS z").format(), Point)


def test_states_and_latest_values_are_read_as_what_they_mean(connection):
    query = sql.SQL("SELECT 'RUNNING' AS status, {}::jsonb AS last").format('{"loss": {"float": "inf"}}')
    assert rows.one(connection, query, dict) == {"status": RunStatus.RUNNING, "last": {"loss": float("inf")}}


def test_where_there_is_no_row_there_is_none(connection):
    nothing = sql.SQL("SELECT 1 AS x, 1 AS y WHERE false").format()
    assert rows.one(connection, nothing, Point) is None
    assert rows.first(connection, nothing) is None
    assert rows.scalar(connection, nothing) is None
    assert rows.column(connection, nothing) == rows.tuples(connection, nothing) == []
    assert rows.execute(connection, nothing) == 0


def test_a_percent_sign_stands_for_itself_where_there_are_no_parameters(connection):
    assert rows.scalar(connection, sql.SQL("SELECT {}").format("5 %s")) == "5 %s"


@pytest.mark.parametrize(
    "verb",
    [rows.execute, rows.scalar, rows.column, rows.first, rows.tuples, lambda *how: rows.records(*how, dict)],
)
def test_every_verb_translates_what_psycopg_raises(connection, verb):
    with pytest.raises(errors.StoreError, match="division by zero"):
        verb(connection, sql.SQL("SELECT 1 / 0").format())


def test_what_fails_inside_a_transaction_leaves_nothing(connection):
    with pytest.raises(errors.StoreError, match="division"), rows.transaction(connection):
        rows.execute(connection, "ensure_experiment", name="short-lived")
        rows.scalar(connection, sql.SQL("SELECT 1 / 0").format())
    assert rows.column(connection, "fetch_experiment_names") == []


def test_runs_whose_columns_stand_in_another_order_are_refused(connection, monkeypatch):
    """A column of text in the place of another would pass every check of types."""
    assert reconciled.load_open(connection, "mini") == []
    whole = statements.load_all()
    swapped = whole["stored_run"].replace(b"r.account, r.qos", b"r.qos, r.account")
    monkeypatch.setattr(statements, "load_all", lambda: {**whole, "stored_run": swapped})
    reconciled._statement.cache_clear()
    try:
        with pytest.raises(TypeError, match="'qos', 'account'"):
            reconciled.load_open(connection, "mini")
    finally:
        reconciled._statement.cache_clear()
