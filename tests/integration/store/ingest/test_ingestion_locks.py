"""Ingestion beside other sessions: what they hold must not stop it, nor it them."""

from __future__ import annotations

import logging
import time

import pytest
from psycopg import OperationalError

from hpctrack import errors, model, reconcile
from hpctrack.store import database as store
from hpctrack.store.ingest import ingestion
from hpctrack.store.write import collectors, reconciled
from hpctrack.stream.collector import arrays
from hpctrack.stream.wire import bodies, journal
from tests.support.journals import A
from tests.support.waiting import eventually

#: What libpq says of a session that was ended; the server's own words may be lost with the connection.
ENDED = "administrator command|server closed the connection"


def piece(run_id: int, number: int, line: journal.Line) -> model.Piece:
    """Return the piece of this number of a journal: one line."""
    body, _ = bodies.pack([line])
    start = 100 * number
    return model.Piece(run_id, A, 0, start, start + 100, arrays.decode(body), body)


def test_a_long_query_costs_new_columns_one_short_wait_and_rows_none(database, connection, run, caplog):
    run_id = run()
    ingest = ingestion.Ingestion(connection, lambda _c, _m: frozenset(), auto_columns=True)
    caplog.set_level(logging.WARNING)
    with store.connect(database) as reader:
        reader.execute("SELECT count(*) FROM metrics")
        for step in range(50):
            row = journal.Row.of(0, step, None, None, {f"metric{step}": 0.5})
            assert ingest.store([piece(run_id, step, row)]).watermarks == {(run_id, A): 100 * step + 100}
        # The wait for the lock is bounded, and there is no second one before the pause is over.
        assert {record.getMessage() for record in caplog.records} == {
            "metrics is in use: no columns were added"
        }
        assert len(caplog.records) < 5
        with store.connect(database, autocommit=True) as other:
            assert other.execute("SELECT count(*) FROM metrics WHERE extra IS NOT NULL").fetchone() == (50,)


def test_another_writer_costs_new_columns_their_turn_and_nobody_waits(database, connection, run):
    run_id = run()
    ingest = ingestion.Ingestion(connection, lambda _c, _m: frozenset(), auto_columns=True)
    with store.connect(database) as writer:
        writer.execute("INSERT INTO metrics (run_id, step) VALUES (%s, -1)", [run_id])
        row = journal.Row.of(0, 0, None, None, {"loss": 0.5})
        assert ingest.store([piece(run_id, 0, row)]).counts["rows"] == 1
        with store.connect(database, autocommit=True) as other:
            assert other.execute("SELECT extra FROM metrics WHERE step = 0").fetchone() == ({"loss": 0.5},)
            assert other.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,)


def test_a_batch_and_the_reconciler_do_not_wait_for_each_other(database, connection, run):
    run_id = run()
    loaded = []

    def observe(_connection, _messages):
        """Come in between: the batch holds its runs."""
        with store.connect(database, autocommit=True) as own, own.transaction():
            own.execute("SET LOCAL lock_timeout = '5s'")
            loaded.extend(reconciled.load(own, [run_id]))
        return frozenset()

    hello = piece(run_id, 0, journal.Message(0, "hello", "{}"))
    ingestion.Ingestion(connection, observe).store([hello])
    assert [found.run_id for found in loaded] == [run_id]


def test_the_reconcilers_hold_lets_rows_in(database, connection, run):
    run_id = run()
    with store.connect(database) as reconciler:
        assert reconciled.load(reconciler, [run_id])
        connection.execute("SET lock_timeout = '5s'")
        row = journal.Row.of(0, 0, None, None, {"loss": 0.5})
        stored = ingestion.Ingestion(connection, lambda _c, _m: frozenset()).store([piece(run_id, 0, row)])
    assert stored.watermarks == {(run_id, A): 100}


def test_a_collector_that_stands_still_in_mid_copy_is_ended_and_nobody_else(database, connection, run):
    run_id = run()
    line = journal.Row.of(0, 0, None, None, {"loss": 0.5})
    ingest = ingestion.Ingestion(connection, lambda _c, _m: frozenset())
    ingest.store([piece(run_id, 0, line)])
    with store.connect(database) as idle, store.connect(database, autocommit=True) as stopped:
        idle.execute("SELECT 1")
        with pytest.raises(OperationalError, match=ENDED), stopped.transaction():
            stopped.execute("SELECT FROM streams FOR UPDATE")
            with stopped.cursor().copy("COPY metrics (run_id, step) FROM STDIN"):
                assert collectors.end_standstill(connection, 60.0) == 0
                eventually(lambda: collectors.end_standstill(connection, 0.0) == 1)
        connection.execute("SET lock_timeout = '5s'")
        assert ingest.store([piece(run_id, 1, line)]).watermarks == {(run_id, A): 200}
        assert collectors.end_standstill(connection, 0.0) == 0
        assert idle.execute("SELECT 1").fetchone() == (1,)


#: What a user may do to own rows, and then leave the transaction open.
_HOLDS = (
    "DELETE FROM runs WHERE id = %(run)s",
    "SELECT FROM runs WHERE id = %(run)s FOR UPDATE",
    "UPDATE run_latest SET last = '{}' WHERE run_id = %(run)s",
    "INSERT INTO metrics (run_id, step) VALUES (%(run)s, 1)",
)


@pytest.mark.parametrize("hold", _HOLDS)
def test_rows_of_a_run_that_a_session_holds_wait_and_nobody_elses(database, connection, run, caplog, hold):
    held, *others = runs_ = [run() for _ in range(5)]
    connection.execute("SET lock_timeout = '100ms'")
    ingest = ingestion.Ingestion(connection, lambda _c, _m: frozenset())

    def store_all(number: int) -> dict:
        row = journal.Row.of(0, number, None, None, {"loss": 0.5})
        return ingest.store([piece(run_id, number, row) for run_id in runs_])

    store_all(0)
    caplog.set_level(logging.WARNING)
    with store.connect(database) as session:
        session.execute(hold, {"run": held})
        stored = store_all(1)
        assert stored.watermarks == {(run_id, A): 200 for run_id in others}
        assert stored.counts["put_off"] == 1
        [said] = {record.getMessage() for record in caplog.records}
        assert f"rows of r{held} wait: held by " in said
        assert f"pg_terminate_backend({session.info.backend_pid})" in said
        # Whoever is put off is not waited for again, and nothing new is said.
        assert store_all(2).watermarks == {(run_id, A): 300 for run_id in others}
        assert len(caplog.records) == 1
        session.rollback()
    row = journal.Row.of(0, 1, None, None, {"loss": 0.5})
    assert eventually(lambda: ingest.store([piece(held, 1, row)]).watermarks) == {(held, A): 200}
    assert store_all(3).counts["put_off"] == 0


def test_what_a_relay_says_of_a_run_that_a_session_holds_comes_again(database, connection, run):
    """An update of tags lets rows in, and keeps out what changes the run itself."""
    held, other = run(), run()
    connection.execute("SET lock_timeout = '100ms'")
    ingest = ingestion.Ingestion(connection, reconcile.observe)
    hello = journal.Message(0, "hello", '{"time": 1, "attempt": 0, "node": "n1"}')
    with store.connect(database) as session:
        session.execute("UPDATE runs SET tags = '{}' WHERE id = %s", [held])
        stored = ingest.store([piece(held, 0, hello), piece(other, 0, hello)])
        assert stored.watermarks == {(other, A): 100}
    assert eventually(lambda: ingest.store([piece(held, 0, hello)]).watermarks) == {(held, A): 100}
    rows = connection.execute("SELECT batch_host FROM attempts WHERE run_id = %s", [held]).fetchall()
    assert rows == [("n1",)]


def test_whole_tables_that_a_session_holds_are_trouble_that_names_it(database, connection, run):
    run_id = run()
    connection.execute("SET lock_timeout = '100ms'")
    ingest = ingestion.Ingestion(connection, lambda _c, _m: frozenset())
    row = journal.Row.of(0, 0, None, None, {"loss": 0.5})
    with store.connect(database) as session:
        session.execute("LOCK TABLE runs")
        with pytest.raises(errors.StoreBusy, match=f"session {session.info.backend_pid}, open for"):
            ingest.store([piece(run_id, 0, row)])
    assert ingest.store([piece(run_id, 0, row)]).watermarks == {(run_id, A): 100}


def test_an_experiment_that_its_owner_holds_puts_off_only_the_runs_that_say_goals(database, connection, run):
    held, other = run(user_name="alice", experiment="held"), run(user_name="bob", experiment="free")
    connection.execute("UPDATE experiments SET user_name = 'alice' WHERE name = 'held'")
    ingest = ingestion.Ingestion(connection, lambda _c, _m: frozenset())
    goal = piece(held, 0, journal.Message(0, "goal", '{"loss": "min"}'))._replace(owner="alice")
    row = piece(other, 0, journal.Row.of(0, 0, None, None, {"loss": 0.5}))._replace(owner="bob")
    with store.connect(database) as owner:
        owner.execute("UPDATE experiments SET comment = 'x' WHERE name = 'held'")
        began = time.monotonic()
        stored = ingest.store([goal, row])
        assert (stored.watermarks, stored.counts["rejected"]) == ({(other, A): 100}, 0)
        assert time.monotonic() - began < 5
    eventually(lambda: ingest.store([goal]).watermarks == {(held, A): 100})
    assert connection.execute("SELECT goals FROM experiments WHERE name = 'held'").fetchone() == (
        {"loss": "min"},
    )
