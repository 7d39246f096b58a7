"""What PostgreSQL refuses is set aside alone; what is wrong with the server refuses nothing."""

from __future__ import annotations

import pytest

from hpctrack import errors, model
from hpctrack.store import database as store
from hpctrack.store import ingestion
from hpctrack.stream.collector import decode
from tests.journals import A, Journal, one, stored


def test_a_row_that_a_constraint_refuses_is_set_aside_alone(connection, ingest, run):
    good_id, bad_id = run(), run()
    good, bad = Journal(good_id), Journal(bad_id)
    connection.execute("ALTER TABLE metrics ADD COLUMN x double precision CHECK (x < 100)")
    batch = []
    for i in range(40):
        batch.append(good.rows({"step": i, "x": float(i)}))
        batch.append(
            bad.rows({"step": i, "x": 1000.0 if i in (7, 23) else float(i)}, {"step": i + 100, "x": 1.0})
        )
    outcome = ingest.store(batch)
    assert len(stored(connection, good_id)) == 40
    assert len(stored(connection, bad_id)) == 76
    assert outcome.watermarks == {(good_id, A): 4000, (bad_id, A): 4000}
    found = connection.execute(
        "SELECT run_id, journal_id, start_offset, end_offset, sqlstate, payload FROM rejected ORDER BY id"
    ).fetchall()
    assert [row[:5] for row in found] == [
        (bad_id, A, 700, 800, "23514"), (bad_id, A, 2300, 2400, "23514"),
    ]  # fmt: skip
    again = decode.decode(bytes(found[0][5])).blocks[0]
    assert (again.rows, again.matrix[0, 0]) == (2, 1000.0)
    assert one(connection, "SELECT rejected FROM streams WHERE run_id = %s", bad_id) == (4,)
    assert one(connection, "SELECT lost FROM run_latest WHERE run_id = %s", bad_id) == (4,)
    # From now on that run is stored apart; both go on.
    outcome = ingest.store([bad.rows({"step": 41, "x": 1.0}), good.rows({"step": 41, "x": 1.0})])
    assert outcome.watermarks == {(good_id, A): 4100, (bad_id, A): 4100}


def test_a_run_that_is_always_refused_takes_turns(connection, ingest, run):
    good_id, bad_id = run(), run()
    good, bad = Journal(good_id), Journal(bad_id)
    connection.execute("ALTER TABLE metrics ADD COLUMN x double precision CHECK (x < 100)")
    ingest.store([bad.rows({"step": 0, "x": 1000.0})])
    poison = [bad.rows({"step": i, "x": 1000.0}) for i in range(1, 100)]
    outcome = ingest.store([*poison, good.rows({"step": 0, "x": 1.0})])
    assert outcome.watermarks[good_id, A] == 100
    assert 100 < outcome.watermarks[bad_id, A] < 9900
    while outcome.watermarks[bad_id, A] < 10_000:
        outcome = ingest.store(poison)
    assert one(connection, "SELECT count(*) FROM rejected") == (100,)


def test_what_a_users_trigger_raises_is_about_the_data(connection, ingest, run):
    run_id = run()
    connection.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.step = 3 THEN RAISE EXCEPTION 'not three'; END IF; RETURN NEW; END $$;"
        " CREATE TRIGGER no BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION no()"
    )
    log = Journal(run_id)
    ingest.store([log.rows({"step": i, "x": 1.0}) for i in range(6)])
    assert [step for step, _ in stored(connection, run_id)] == [0, 1, 2, 4, 5]
    assert one(connection, "SELECT sqlstate, reason FROM rejected") == ("P0001", "not three")


def test_what_can_not_be_decoded_is_set_aside(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    pieces = [log.rows({"step": i, "x": 1.0}) for i in range(3)]
    pieces[1] = pieces[1]._replace(contents=model.Contents([]), body=b"\xff", fault="can't be decoded: x")
    assert ingest.store(pieces).watermarks == {(run_id, A): 300}
    assert one(connection, "SELECT reason, payload FROM rejected") == ("can't be decoded: x", b"\xff")
    assert len(stored(connection, run_id)) == 2


def test_a_deleted_run_keeps_no_other_from_being_stored(connection, ingest, run):
    run_id, gone_id = run(), run()
    log, gone = Journal(run_id), Journal(gone_id)
    ingest.store([gone.rows({"step": 0, "x": 1.0})])
    connection.execute("DELETE FROM runs WHERE id = %s", [gone_id])
    outcome = ingest.store([gone.rows({"step": 1, "x": 1.0}), log.rows({"step": 1, "x": 1.0})])
    assert outcome.gone == {gone_id}
    assert outcome.watermarks == {(run_id, A): 100, (gone_id, A): 200}
    assert one(connection, "SELECT run_id, journal_id FROM rejected") == (None, A)
    assert len(stored(connection, run_id)) == 1


def test_trouble_of_the_server_refuses_nothing(database, connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    piece = log.rows({"step": 0, "x": 1.0})
    connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(errors.StoreError):
        ingest.store([piece])
    connection.execute("SET default_transaction_read_only = off")
    with store.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        with pytest.raises(errors.StoreUnavailable):
            ingest.store([piece])
        again = ingestion.Ingestion(other, lambda _c, _m: frozenset())
        assert again.store([piece]).watermarks == {(run_id, A): 100}
        assert one(other, "SELECT count(*) FROM rejected") == (0,)
