"""Whatever one user does, others' rows are stored, and of theirs exactly what is refused is set aside."""

from __future__ import annotations

import itertools

import pytest

from hpctrack.store import locked
from hpctrack.store.ingest import ingestion
from tests.support.journals import A, Journal, one, stored

_REFUSE = """
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF {what} THEN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END IF; RETURN NEW;
END $$;
CREATE {kind} TRIGGER no {when} INSERT OR UPDATE ON metrics {deferred} FOR EACH ROW EXECUTE FUNCTION no()
"""
_AT_ONCE = {"kind": "", "when": "BEFORE", "deferred": ""}
_LATE = {"kind": "CONSTRAINT", "when": "AFTER", "deferred": "DEFERRABLE INITIALLY DEFERRED"}
#: Refused by a trigger, at once or late, with codes of the server's own; by a constraint.
RULES = {
    **{code: _REFUSE.format(what="NEW.step % 10 = 7", code=code, **_AT_ONCE)
       for code in ("53100", "25006", "55P03")},
    "late": _REFUSE.format(what="NEW.step % 10 = 7", code="53200", **_LATE),
    "check": "ALTER TABLE metrics ADD CHECK (step % 10 <> 7)",
}  # fmt: skip


@pytest.fixture
def patient(connection):
    """Ingestion by a clock that stands still: nobody's time is ever spent."""
    return ingestion.Ingestion(connection, lambda *_: frozenset(), clock=lambda: 0.0)


def deliver(ingest, pieces) -> dict:
    """Send pieces again and again, as relays do, until nothing more is taken; returns the watermarks."""
    marks, before = {}, None
    while before != marks:
        before = dict(marks)
        ingest._memory.put_off._pauses = dict.fromkeys(
            ingest._memory.put_off._pauses, locked._Pause(0.0, 1.0)
        )
        waiting = [p for p in pieces if p.start >= marks.get((p.run_id, p.journal), 0)]
        marks |= ingest.store(waiting).watermarks if waiting else {}
    return marks


def is_refused(step: int) -> bool:
    return step % 10 == 7


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_flood_of_refused_rows_of_one_user_is_nobody_elses_trouble(connection, patient, run, rule):
    """The others' journals begin with a refused row; each is alone with what the flood left behind."""
    connection.execute(rule)
    flood = [Journal(run(), owner="mallory") for _ in range(3)]
    bad = [log.rows(*({"step": 10 * n + 7, "x": 1.0} for n in range(80))) for log in flood]
    deliver(patient, bad)
    for owner in ("alice", "bob"):
        log = Journal(run(), owner=owner)
        pieces = [log.rows({"step": 7, "x": 0.5}), log.rows(*({"step": n, "x": 0.5} for n in range(30)))]
        deliver(patient, pieces)
        assert {step for step, _ in stored(connection, log.run_id)} == {
            n for n in range(30) if not is_refused(n)
        }
        assert one(connection, "SELECT rejected FROM streams WHERE run_id = %s", log.run_id) == (4,)
    for log in flood:
        assert one(connection, "SELECT rejected, rows FROM streams WHERE run_id = %s", log.run_id) == (80, 0)
        assert one(connection, "SELECT count(*) FROM rejected WHERE run_id = %s", log.run_id) == (80,)


def test_what_refuses_several_users_lets_their_good_rows_in(connection, patient, run):
    """Nothing is set aside any more; but a run of which PostgreSQL takes a line shows that it takes some."""
    connection.execute(RULES["check"])
    logs = [Journal(run(), owner=f"user{n}") for n in range(4)]
    for begin in range(0, 700, 350):
        deliver(
            patient,
            [log.rows(*({"step": n, "x": 1.0} for n in range(begin + 7, begin + 350, 10))) for log in logs],
        )
    (aside,) = one(connection, "SELECT count(*) FROM rejected")
    assert aside < 4 * 70, "nobody's rows were put off"
    log = Journal(run(), owner="bob")
    waiting = [log.rows({"step": 10 * n + 7, "x": 1.0}) for n in range(20)]
    waiting.append(log.rows(*({"step": n, "x": 1.0} for n in range(10))))
    marks = deliver(patient, waiting)
    assert marks[log.run_id, A] == log.end
    assert len(stored(connection, log.run_id)) == 9
    assert one(connection, "SELECT rejected FROM streams WHERE run_id = %s", log.run_id) == (21,)


def test_nobody_makes_a_long_streak_alone(connection, patient, run):
    connection.execute(RULES["check"])
    log = Journal(run(), owner="mallory")
    deliver(patient, [log.rows(*({"step": 10 * n + 7, "x": 1.0} for n in range(1000)))])
    assert not patient._memory.streak.is_long(["rows"])


def test_a_users_many_suspects_leave_another_its_turn(connection, patient, run):
    connection.execute("ALTER TABLE metrics ADD CHECK (step % 2 = 0)")
    logs = [Journal(run(), owner="mallory") for _ in range(6)]
    pieces = [log.rows(*({"step": 2 * n + 1, "x": 1.0} for n in range(32))) for log in logs]
    log = Journal(run(), owner="alice")
    pieces.append(log.rows({"step": 0, "x": 1.0}, {"step": 1, "x": 1.0}))
    marks = {}
    for _ in range(3):
        marks |= patient.store([p for p in pieces if (p.run_id, A) not in marks]).watermarks
    assert marks[log.run_id, A] == log.end
    assert len(marks) < len(pieces)


def test_what_is_only_tried_keeps_its_turn(connection, run):
    """Three whose rows are refused, while time is being made up for in every other batch."""
    ingest = ingestion.Ingestion(connection, lambda *_: frozenset(), clock=lambda: 0.0)
    connection.execute("ALTER TABLE metrics ADD CHECK (step % 2 = 0)")
    good = Journal(run(), owner="bob")
    logs = [Journal(run(), owner=name) for name in ("alice", "carol", "mallory")]
    pieces = [log.rows(*({"step": n, "x": 1.0} for n in range(64))) for log in logs for _ in range(3)]
    served = {log.run_id: 0 for log in logs}
    for n in range(9):
        ingest._memory.paid = 0.0 if n % 2 == 0 else 1e9
        outcome = ingest.store([good.rows({"step": 2 * n, "x": 1.0}), *pieces])
        pieces = [p for p in pieces if p.start >= outcome.watermarks.get((p.run_id, A), 0)]
        served |= {run_id: mark for (run_id, _), mark in outcome.watermarks.items() if run_id in served}
    assert all(served.values()), served


def test_who_is_refused_now_and_then_pays_for_others_batches(connection, run):
    """A user sends good rows of all runs, and bad ones of another run each time: others' are not in vain."""
    ticks = itertools.count()  # each look at the clock is a second later
    ingest = ingestion.Ingestion(connection, lambda *_: frozenset(), clock=lambda: float(next(ticks)))
    connection.execute("ALTER TABLE metrics ADD CHECK (step % 10 <> 7)")
    good = Journal(run(), owner="alice")
    bads = [Journal(run(), owner="mallory") for _ in range(4)]
    in_vain, waiting = [], []
    for n in range(20):
        ours = good.rows({"step": 10 * n, "x": 1.0})
        waiting += [bad.rows({"step": 10 * n + 7 * (i == n % 4), "x": 1.0}) for i, bad in enumerate(bads)]
        marks = ingest.store([ours, *waiting]).watermarks
        assert marks[good.run_id, A] == good.end
        waiting = [p for p in waiting if p.start >= marks.get((p.run_id, A), 0)]
        in_vain.append(ingest._rolled_back > 0)
    assert sum(in_vain) <= 12  # of 20
    marks = deliver(ingest, waiting)
    assert [len(stored(connection, bad.run_id)) for bad in bads] == [15] * 4
    assert one(connection, "SELECT count(*) FROM rejected") == (20,)


def test_a_flood_of_refused_lines_fills_no_log(connection, patient, run, caplog):
    connection.execute("ALTER TABLE metrics ADD CHECK (step % 2 = 0)")
    for owner in ("mallory", "alice"):
        for log in [Journal(run(), owner=owner) for _ in range(3)]:
            deliver(patient, [log.rows({"step": 1, "x": 1.0}) for _ in range(10)])
    assert [r.getMessage().count("1 line set aside") for r in caplog.records] == [1, 1]
