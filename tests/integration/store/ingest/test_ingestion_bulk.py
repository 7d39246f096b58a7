"""Batches of thousands of rows: their runs are checked once each, and everything else as ever."""

from __future__ import annotations

import math
import random
import struct
import threading

import psycopg
import pytest

from hpctrack import model
from hpctrack.store import database as store
from hpctrack.store.ingest import ingestion, metrics
from hpctrack.stream.collector import arrays
from hpctrack.stream.wire import bodies, journal
from tests.support.journals import A, Journal, bits
from tests.support.waiting import eventually

ROWS = 2 * metrics._MANY


def pieces(run_id: int, *, first: int = 0, **values: float) -> list[model.Piece]:
    """Return a whole journal, as many rows as it takes."""
    made = []
    for start in range(first, first + ROWS, 100):
        lines = [
            journal.Row.of(0, step, None, None, values or {"x": 1.0}) for step in range(start, start + 100)
        ]
        body, _ = bodies.pack(lines, 1 << 20)
        end = start + 100
        made.append(model.Piece(run_id, A, 0, start, end, arrays.decode(body), body))
    return made


def count(connection, condition="true") -> int:
    return connection.execute(f"SELECT count(*) FROM metrics WHERE {condition}").fetchone()[0]


def checks(connection) -> str:
    return connection.execute("SHOW session_replication_role").fetchone()[0]


@pytest.fixture
def lookups(connection):
    """Ask PostgreSQL how often it looked up a run: once for each row that it checks by itself."""

    def ask() -> int:
        connection.execute("SELECT pg_stat_force_next_flush()")
        rows = connection.execute(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'runs_pkey'"
        )
        return rows.fetchone()[0]

    return ask


def test_a_large_batch_asks_for_each_run_once(connection, plain, run, lookups):
    run_id = run()
    before = lookups()
    assert plain.store(pieces(run_id)).counts["rows"] == ROWS
    assert lookups() - before < 10
    assert count(connection) == ROWS
    assert checks(connection) == "origin"
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute("INSERT INTO metrics (run_id) VALUES (%s)", [run_id + 1])
    connection.execute("DELETE FROM runs WHERE id = %s", [run_id])
    assert count(connection) == 0


def test_who_may_not_has_every_row_checked(connection, plain, run, lookups):
    """As a collector's own login: no superuser."""
    run_id = run()
    connection.execute("CREATE ROLE bulk_reader; GRANT USAGE ON SCHEMA hpctrack TO bulk_reader")
    try:
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA hpctrack TO bulk_reader")
        connection.execute("ALTER ROLE bulk_reader BYPASSRLS; SET ROLE bulk_reader")
        before = lookups()
        assert plain.store(pieces(run_id)).counts["rows"] == ROWS
        assert lookups() - before >= ROWS
        connection.execute("RESET ROLE; GRANT SET ON PARAMETER session_replication_role TO bulk_reader")
        connection.execute("SET ROLE bulk_reader")
        before = lookups()
        other = [piece._replace(journal="b" * 16) for piece in pieces(run_id)]
        assert plain.store(other).counts["rows"] == ROWS
        assert lookups() - before < 10
    finally:
        connection.execute("RESET ROLE; DROP OWNED BY bulk_reader; DROP ROLE bulk_reader")


def test_a_trigger_of_the_users_sees_every_row(connection, plain, run):
    run_id = run()
    connection.execute(
        "CREATE TABLE seen (step bigint);"
        " CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO seen VALUES (NEW.step); RETURN NULL; END $$;"
        " CREATE TRIGGER see AFTER INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION see()"
    )
    plain.store(pieces(run_id))
    assert connection.execute("SELECT count(DISTINCT step) FROM seen").fetchone() == (ROWS,)


def test_a_key_of_the_users_is_checked(connection, plain, run):
    run_id = run()
    connection.execute(
        "CREATE TABLE phases (id double precision PRIMARY KEY); INSERT INTO phases VALUES (1);"
        " ALTER TABLE metrics ADD COLUMN phase double precision REFERENCES phases"
    )
    outcome = plain.store(pieces(run_id, phase=1.0))
    assert outcome.counts["rejected"] == 0
    batch = [piece._replace(journal="b" * 16) for piece in pieces(run_id, first=ROWS, phase=2.0)]
    batch = [piece._replace(start=piece.start - ROWS, end=piece.end - ROWS) for piece in batch]
    plain.store(batch)
    assert count(connection, "phase = 2") == 0
    assert connection.execute("SELECT DISTINCT sqlstate FROM rejected").fetchall() == [("23503",)]


def test_the_index_of_interleaved_runs_stays_dense(connection, plain, run):
    runs = [run() for _ in range(4)]
    for batch in range(4):
        batch_pieces = [piece for run_id in runs for piece in pieces(run_id, first=batch * ROWS)]
        plain.store(batch_pieces)
    assert count(connection) == 16 * ROWS
    (size,) = connection.execute("SELECT pg_relation_size('metrics_leaf_1_pkey')").fetchone()
    assert size / (16 * ROWS) < 52  # bytes; 36 is a page without any room, 72 one that is half empty


def test_a_run_that_is_deleted_meanwhile_takes_its_rows_along(database, connection, run):
    run_id, other_id = run(), run()
    waiting = threading.Event()

    def delete() -> None:
        with store.connect(database, autocommit=True) as own:
            waiting.set()
            own.execute("DELETE FROM runs WHERE id = %s", [run_id])

    thread = threading.Thread(target=delete)

    def observe(_connection, _messages):
        """Come in between: the rows are written, and not committed yet."""
        thread.start()
        with store.connect(database, autocommit=True) as own:
            query = "SELECT FROM pg_locks WHERE NOT granted"
            eventually(lambda: own.execute(query).fetchall(), pause=0.01)
        return frozenset()

    body, _ = bodies.pack([journal.Message(0, "hello", "{}")])
    hello = model.Piece(other_id, A, 0, 0, 100, arrays.decode(body), body)
    ingestion.Ingestion(connection, observe).store([*pieces(run_id), hello])
    thread.join(30)
    assert waiting.is_set()
    assert not thread.is_alive()
    assert count(connection) == 0
    assert connection.execute("SELECT count(*) FROM runs WHERE id = %s", [run_id]).fetchone() == (0,)


def test_rows_of_somebody_elses_beyond_what_is_known_are_met(connection, plain, run):
    run_id, other_id = run(), run()
    connection.execute("ALTER TABLE metrics ADD COLUMN x double precision, ADD COLUMN y double precision")
    connection.execute("INSERT INTO metrics (run_id, step, y) VALUES (%s, %s, 7)", [run_id, ROWS - 1])
    plain.store([*pieces(other_id), *pieces(run_id)])
    assert count(connection) == 2 * ROWS
    assert count(connection, "x = 1") == 2 * ROWS
    assert connection.execute("SELECT x, step FROM metrics WHERE y = 7").fetchall() == [(1.0, ROWS - 1)]
    assert checks(connection) == "origin"


def test_a_table_that_can_not_be_made_leaves_those_before_it_in_place(connection, plain, run, monkeypatch):
    monkeypatch.setattr("hpctrack.store.ingest.rows._MAX_CELLS", 1000)
    good_id, bad_id = run(), run()
    edge = Journal(bad_id).rows({"step": (1 << 63) - 1, "x": 1.0})
    plain.store([edge])
    numberless = edge._replace(start=100, end=200, contents=Journal(0).rows({"x": 2.0}).contents)
    outcome = plain.store([*pieces(good_id), numberless])
    assert (outcome.counts["rows"], outcome.counts["rejected"]) == (ROWS, 1)
    assert count(connection, f"run_id = {good_id}") == ROWS
    assert checks(connection) == "origin"


def test_values_of_a_large_batch_come_back_bit_for_bit(connection, run):
    run_id = run()
    rng = random.Random(4)
    given = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(ROWS)]
    given = [0.0 if math.isnan(value) else value for value in given]
    given[:6] = [-0.0, 5e-324, math.inf, -math.inf, 1.7976931348623157e308, math.nan]
    lines = [journal.Row.of(0, step, None, None, {"x": value}) for step, value in enumerate(given)]
    batch = []
    for start in range(0, ROWS, 100):
        body, _ = bodies.pack(lines[start : start + 100], 1 << 20)
        batch.append(model.Piece(run_id, A, 0, start, start + 100, arrays.decode(body), body))
    ingest = ingestion.Ingestion(connection, lambda _c, _m: frozenset(), auto_columns=True)
    assert ingest.store(batch).counts["rows"] == ROWS
    rows = connection.execute("SELECT x FROM metrics ORDER BY step").fetchall()
    assert [bits(value) for (value,) in rows] == [bits(value) for value in given]
