"""Whatever one user does, others' rows are stored, and of theirs exactly what is refused is set aside."""

from __future__ import annotations

import pytest

from hpctrack.store import held, ingestion
from tests.journals import A, Journal, one, stored

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
        ingest._held._pauses = dict.fromkeys(ingest._held._pauses, held._Pause(0.0, 1.0))
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
