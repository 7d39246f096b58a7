"""Reading metrics looks at no other run's rows, nor at those that were read before."""

import pytest
from psycopg import sql

from hpctrack.store.metrics import copy_out, metric_tables, packed_columns


@pytest.fixture
def many(run, connection):
    """Runs with rows enough that the planner has a choice; returns their ids."""
    ids = [run() for _ in range(20)]
    connection.execute("ALTER TABLE metrics ADD loss double precision")
    connection.execute(
        "INSERT INTO metrics (run_id, step, loss)"
        " SELECT id, n, n FROM unnest(%s::bigint[]) id, generate_series(1, 2000) n",
        (ids,),
    )
    connection.execute("ANALYZE metrics")
    return ids


@pytest.fixture
def plans(connection, monkeypatch):
    """Plans of the queries that are made meanwhile."""
    found = []

    def explain(query):
        rows = connection.execute(sql.SQL("EXPLAIN {}").format(query)).fetchall()
        found.append("\n".join(str(line) for (line,) in rows))

    original = copy_out.chunks

    def chunks(connection, query):
        explain(query)
        return original(connection, query)

    monkeypatch.setattr(copy_out, "chunks", chunks)
    composable = packed_columns.composable

    class Explained:
        def __init__(self, name):
            self.name = name

        def format(self, *parts, **named):
            query = composable(self.name).format(*parts, **named)
            if self.name == "fetch_packed":
                explain(query)
            return query

    monkeypatch.setattr(packed_columns, "composable", Explained)
    return found


def test_rows_of_runs_are_found_by_the_index(connection, many, plans):
    assert sum(part.rows for part in metric_tables.read(connection, many[3:9], ["loss"])) == 12_000
    (plan,) = plans
    assert "metrics_leaf_1_pkey" in plan
    assert "Seq Scan" not in plan


def test_stretches_of_a_run_begin_where_the_last_one_ended(connection, many, plans, monkeypatch):
    monkeypatch.setattr(packed_columns, "_ROWS", 500)
    parts = packed_columns.read(connection, many[5], ["loss"])
    assert sum(part.rows for part in parts) == 2000
    assert len(plans) == 5
    for plan in plans:
        assert "metrics_leaf_1_pkey" in plan
        assert "Seq Scan" not in plan
    conditions = [line for line in plans[1].splitlines() if "Index Cond" in line]
    assert "ROW(step, progress) > ROW(500" in conditions[0]
