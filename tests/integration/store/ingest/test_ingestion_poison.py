"""What PostgreSQL refuses is set aside alone; what is wrong with the server refuses nothing."""

from __future__ import annotations

import itertools
import json
import struct

import pytest

from hpctrack import errors, model
from hpctrack.store import database as store
from hpctrack.store import locked
from hpctrack.store.ingest import ingestion
from hpctrack.store.ingest import memory as store_memory
from hpctrack.stream.collector import arrays
from hpctrack.stream.wire import bodies, journal
from tests.support.journals import A, Journal, one, stored


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
    assert len(stored(connection, bad_id)) == 78
    assert outcome.watermarks == {(good_id, A): 4000, (bad_id, A): 4000}
    rows = connection.execute(
        "SELECT run_id, journal_id, start_offset, end_offset, sqlstate, payload FROM rejected ORDER BY id"
    ).fetchall()
    assert [row[:5] for row in rows] == [
        (bad_id, A, 700, 800, "23514"), (bad_id, A, 2300, 2400, "23514"),
    ]  # fmt: skip
    again = arrays.decode(bytes(rows[0][5])).blocks[0]
    assert (again.rows, again.steps[0], again.matrix[0, 0]) == (1, 7, 1000.0)
    assert one(connection, "SELECT rejected FROM streams WHERE run_id = %s", bad_id) == (2,)
    assert one(connection, "SELECT lost FROM run_latest WHERE run_id = %s", bad_id) == (2,)
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


#: What a function may raise by hand: codes of all classes, the server's own among them.
RAISED = (
    "20000 42P01 0A000 42501 ZZ001 40001 40P01 55P03 57014 57P01 57P03 53100 53200 53300 08006 08P01 XX000"
    " XX001 25006 25P02 58030 28000 28P01 3D000 3F000 2F000 22P02 23505 23503 P0001 P0004 01000 02000 HV000"
    " F0000 26000 34000 55000 54000 72000"
).split()
_REFUSE = """
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.step = 3 THEN RAISE EXCEPTION 'not three' USING ERRCODE = TG_ARGV[0]; END IF; RETURN NEW;
END $$;
CREATE {kind} TRIGGER no {when} ON metrics {deferred} FOR EACH ROW EXECUTE FUNCTION no('{code}')
"""


def test_whatever_a_trigger_raises_is_its_rows_trouble(connection, ingest, run):
    for code in RAISED:
        other_id, run_id = run(), run()
        connection.execute(_REFUSE.format(kind="", when="BEFORE INSERT OR UPDATE", deferred="", code=code))
        other, log = Journal(other_id), Journal(run_id)
        others = other.rows(*({"step": i + 10, "x": 1.0} for i in range(20)))
        mine = log.rows(*({"step": i, "x": i + 0.5, "who": "me"} for i in range(6)))
        watermarks = ingest.store([others, mine]).watermarks
        if (
            run_id,
            A,
        ) not in watermarks:  # others' rows come first
            watermarks |= ingest.store([mine]).watermarks
        assert watermarks == {(other_id, A): 100, (run_id, A): 100}
        assert len(stored(connection, other_id)) == 20
        good = {(i, 0.0): {"x": i + 0.5, "who": "me"} for i in range(6) if i != 3}
        assert stored(connection, run_id) == good
        query = "SELECT sqlstate, reason, payload FROM rejected WHERE run_id = %s"
        [(sqlstate, reason, payload)] = connection.execute(query, [run_id])
        assert (sqlstate, reason) == (code, "not three")
        connection.execute("DROP TRIGGER no ON metrics; DROP FUNCTION no")
        again = Journal(run())
        ingest.store([again.lines()._replace(contents=arrays.decode(bytes(payload)))])
        assert stored(connection, again.run_id) == {(3, 0.0): {"x": 3.5, "who": "me"}}
        assert one(connection, "SELECT rejected, rows FROM streams WHERE run_id = %s", run_id) == (1, 5)


_OTHERS = """
CREATE TABLE others (step bigint PRIMARY KEY); INSERT INTO others SELECT generate_series(0, 99);
DELETE FROM others WHERE step = 3; ALTER TABLE metrics ADD FOREIGN KEY (step) REFERENCES others
"""
_LATE = {"kind": "CONSTRAINT", "when": "AFTER INSERT OR UPDATE", "deferred": "INITIALLY DEFERRED"}


@pytest.mark.parametrize(
    ("definition", "code"),
    [
        ("ALTER TABLE metrics ADD CHECK (step <> 3)", "23514"),
        ("ALTER TABLE metrics ADD y integer GENERATED ALWAYS AS (1 / (step - 3)) STORED", "22012"),
        ("CREATE UNIQUE INDEX ON metrics ((1 / (step - 3)), run_id, step, progress)", "22012"),
        (_OTHERS, "23503"),
        (_OTHERS + " DEFERRABLE INITIALLY DEFERRED", "23503"),
        (_REFUSE.format(**_LATE, code="ZZ001"), "ZZ001"),
    ],
)
def test_whatever_a_setup_file_refuses_is_its_rows_trouble(connection, ingest, run, definition, code):
    other_id, run_id = run(), run()
    connection.execute(definition)
    other, log = Journal(other_id), Journal(run_id)
    mine = log.rows(*({"step": i, "x": i + 0.5} for i in range(6)))
    for _ in range(2):
        ingest.store([other.rows({"step": 10 + other.end // 100, "x": 1.0}), mine])
    assert len(stored(connection, other_id)) == 2
    assert {step for step, _ in stored(connection, run_id)} == {0, 1, 2, 4, 5}
    assert one(connection, "SELECT count(*), min(sqlstate) FROM rejected") == (1, code)


def test_a_row_that_no_step_is_left_for_takes_no_other_along(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    ingest.store([log.rows({"step": (1 << 63) - 1, "x": 1.0})])
    ingest.store([log.rows(*({"step": i, "x": 1.0} for i in range(20)), {"x": 2.0}, {"step": 30, "x": 1.0})])
    assert len(stored(connection, run_id)) == 22
    assert one(connection, "SELECT rejected FROM streams WHERE run_id = %s", run_id) == (1,)


@pytest.mark.parametrize("kind", ["usage", "event", "args", "tags", "fin"])
def test_a_message_that_is_refused_takes_no_other_along(connection, ingest, run, kind):
    other_id, run_id = run(), run()
    connection.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF to_jsonb(NEW)::text ~ 'poison|: 666[,}]'"
        " THEN RAISE EXCEPTION 'no' USING ERRCODE = '53100'; END IF;"
        " RETURN NEW; END $$"
    )
    for table in ("usage", "transitions", "runs", "streams"):
        connection.execute(
            f"CREATE TRIGGER no BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION no()"
        )
    body = {"time": 1.7e9, "node": "n", "name": "x", "processes": 1}
    bad = {
        "usage": {**body, "processes": 666}, "event": {**body, "name": "poison"}, "args": {"poison": 1},
        "tags": {"poison": 1}, "fin": {"lost": {"b" * 16: 666}},
    }[kind]  # fmt: skip
    other, log = Journal(other_id), Journal(run_id)
    lines = [journal.Row.of(0, step, None, None, {"x": 0.5}) for step in range(4)]
    messages = [journal.Message(0, "args", '{"good": 1}'), journal.Message(0, kind, json.dumps(bad))]
    ingest.store([other.rows({"step": 1, "x": 1.0}), log.lines(*lines[:2], *messages, *lines[2:])])
    assert len(stored(connection, other_id)) == 1
    assert len(stored(connection, run_id)) == 4
    assert one(connection, "SELECT args FROM runs WHERE id = %s", run_id) == ({"good": 1},)
    [(payload,)] = connection.execute("SELECT payload FROM rejected WHERE sqlstate = '53100'")
    assert arrays.decode(bytes(payload)).blocks == [model.NodeMessage(kind, json.dumps(bad))]


def test_what_refuses_everything_sets_little_aside(connection, ingest, run):
    # A constraint or trigger that is mistaken about everybody: nothing is the rows' fault.
    logs = [Journal(run()) for _ in range(30)]
    ingest.store([log.rows({"step": 0, "x": 1.0}) for log in logs])
    connection.execute("ALTER TABLE metrics ADD CONSTRAINT no CHECK (step = 0) NOT VALID")
    pieces = [log.rows({"step": i, "x": 1.0}) for i in range(1, 41) for log in logs]
    marks = {}

    def store_the_rest():
        outcome = ingest.store([piece for piece in pieces if piece.start >= marks.get((piece.run_id, A), 0)])
        marks.update(outcome.watermarks)
        return outcome

    for _ in range(40):
        outcome = store_the_rest()
    assert outcome.refusing is None or "until it takes something" in outcome.refusing
    (aside,) = one(connection, "SELECT count(*) FROM rejected")
    assert 0 < aside < 250
    connection.execute("ALTER TABLE metrics DROP CONSTRAINT no")
    late = Journal(run())
    ingest.store([late.rows({"step": 5, "x": 1.0})])
    assert len(stored(connection, late.run_id)) == 1
    ingest._memory.put_off._pauses = dict.fromkeys(ingest._memory.put_off._pauses, locked._Pause(0.0, 1.0))
    while any(marks.get((log.run_id, A), 0) < log.end for log in logs):
        store_the_rest()
    total = sum(len(stored(connection, log.run_id)) for log in logs)
    assert total + aside == 30 * 41


def test_what_ends_the_connection_is_found_and_waits(database, run):
    with store.connect(database, autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.step = 3 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;"
            " RETURN NEW; END $$;"
            " CREATE TRIGGER no BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION no()"
        )
        logs = [Journal(run()) for _ in range(9)]
        pieces = [log.rows({"step": 3 if log is logs[4] else 1, "x": 1.0}) for log in logs]
        memory, done, tries = store_memory.Memory(), {}, 0
        while len(done) < 8:
            tries += 1
            assert tries < 30
            with store.connect(database, autocommit=True) as connection:
                ingest = ingestion.Ingestion(connection, lambda _c, _m: frozenset(), memory=memory)
                try:
                    done |= ingest.store([p for p in pieces if (p.run_id, A) not in done]).watermarks
                except errors.StoreUnavailable:
                    continue
        assert (logs[4].run_id, A) not in done
        assert one(admin, "SELECT count(*) FROM metrics") == (8,)
        assert one(admin, "SELECT count(*) FROM rejected") == (0,)


def test_lines_of_one_piece_are_set_aside_together(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    ingest.store([log.lines(*[journal.Message(0, "tomorrow", "{}")] * 500) for _ in range(5)])
    assert one(connection, "SELECT rejected FROM streams WHERE run_id = %s", run_id) == (2500,)
    assert one(connection, "SELECT lost FROM run_latest WHERE run_id = %s", run_id) == (2500,)
    (aside,) = one(connection, "SELECT count(*) FROM rejected")
    assert aside == 5


def test_what_only_a_newer_hpctrack_knows_is_kept_and_counted(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    body = struct.pack("<BI", 9, 3) + b"new" + bodies.pack([journal.Message(0, "later", "[1]")])[0]
    body += bodies.pack([journal.Row.of(0, 1, None, None, {"x": 1.0})])[0]
    piece = log.lines()._replace(contents=arrays.decode(body), body=body)
    assert ingest.store([piece]).watermarks == {(run_id, A): 100}
    assert len(stored(connection, run_id)) == 1
    reason, payload = one(connection, "SELECT reason, payload FROM rejected")
    assert arrays.decode(bytes(payload)).blocks == [
        model.UnknownBlock(9, b"new"), model.NodeMessage("later", "[1]"),
    ]  # fmt: skip
    assert "block of kind 9" in reason and "message of kind later" in reason
    assert one(connection, "SELECT rejected FROM streams WHERE run_id = %s", run_id) == (2,)


def test_what_is_set_aside_is_bounded_for_each_run_and_for_deleted_ones(connection, ingest, run, monkeypatch):
    monkeypatch.setattr("hpctrack.store.ingest.batch._MAX_REJECTED", 4)
    run_id, gone_id, other_id = run(), run(), run()
    log, gone, other = Journal(run_id), Journal(gone_id), Journal(other_id)
    unknown = journal.Message(0, "later", "")
    connection.execute("DELETE FROM runs WHERE id = %s", [gone_id])
    for _ in range(3):
        ingest.store([log.lines(unknown) for _ in range(3)])
        ingest.store([gone.lines(unknown) for _ in range(3)])
    ingest.store([other.lines(unknown)])
    rows = connection.execute("SELECT run_id, count(*) FROM rejected GROUP BY run_id").fetchall()
    assert dict(rows) == {run_id: 4, None: 4, other_id: 1}
    assert one(connection, "SELECT rejected FROM streams WHERE run_id = %s", run_id) == (9,)


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


def test_a_user_who_poisons_every_datagram_leaves_others_half_of_the_time(connection, run):
    ticks = itertools.count()  # each look at the clock is a second later
    ingest = ingestion.Ingestion(connection, lambda *_: frozenset(), clock=lambda: float(next(ticks)))
    connection.execute("ALTER TABLE metrics ADD COLUMN x double precision CHECK (x < 1000)")
    good, bads = Journal(run()), [Journal(run()) for _ in range(40)]
    waiting = [bad.rows(*({"step": i, "x": 2000.0 * (i % 2)} for i in range(40))) for bad in bads]
    ingest.store([good.rows({"step": 0, "x": 1.0}), *waiting])
    divided = []
    for step in range(1, 40):
        outcome = ingest.store([good.rows({"step": step, "x": 1.0}), *waiting])
        assert outcome.watermarks[good.run_id, A] == good.end
        divided.append(outcome.counts["rejected"] > 0)
    assert len(stored(connection, good.run_id)) == 40
    # What was spent on the poison is waited for before more is.
    assert sum(divided) < 30
    marks = {}
    while len([1 for bad in bads if marks.get((bad.run_id, A)) == bad.end]) < len(bads):
        marks |= ingest.store(
            [piece for piece in waiting if marks.get((piece.run_id, A)) != piece.end]
        ).watermarks
    assert {len(stored(connection, bad.run_id)) for bad in bads} == {20}
