"""Messages of the node side into a real PostgreSQL, whatever they say."""

from __future__ import annotations

import math

import pytest

from hpctrack import reconcile
from hpctrack.store.ingest import ingestion
from hpctrack.stream.wire import journal, messages
from tests.support.journals import A, B, Journal, one, stored


def test_usage_is_stored_once(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    sample = {
        "time": 1.7e9, "node": "n1", "cpu_s": 1.5, "memory_bytes": 10, "memory_peak_bytes": 20,
        "read_bytes": None, "write_bytes": 30.0, "processes": 4, "gpu": [{"name": "x", "util": math.nan}],
    }  # fmt: skip
    ingest.store([log.message("usage", sample), log.message("usage", sample)])
    names = "node, cpu_s, memory_bytes, memory_peak_bytes, read_bytes, write_bytes, processes, gpu"
    assert connection.execute(f"SELECT {names} FROM usage").fetchall() == [
        ("n1", 1.5, 10, 20, None, 30, 4, [{"name": "x", "util": "NaN"}])
    ]


def test_arguments_and_tags_are_merged(connection, ingest, run):
    run_id = run()
    connection.execute('UPDATE runs SET args = \'{"a": 1, "b": 1}\', tags = NULL')
    log = Journal(run_id)
    ingest.store([log.message("args", {"b": 2, "c\0": "x\0"}), log.message("args", {"lr": math.inf})])
    ingest.store([log.message("tags", {"good": None}), log.message("tags", {"more": "x"})])
    args, tags = one(connection, "SELECT args, tags FROM runs")
    assert args == {"a": 1, "b": 2, "c\ufffd": "x\ufffd", "lr": "Infinity"}
    assert tags == {"good": None, "more": "x"}


@pytest.mark.parametrize("kind", ["args", "tags"])
def test_however_much_is_said_of_a_run_its_row_changes_once_in_a_batch(connection, ingest, run, kind):
    run_id = run()
    connection.execute("CREATE TABLE changes (run_id bigint)")
    connection.execute(
        "CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO changes VALUES (NEW.id); RETURN NULL; END'"
    )
    connection.execute(
        "CREATE TRIGGER note_change AFTER UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION note_change()"
    )
    log = Journal(run_id)
    ingest.store([log.message(kind, {"name": i, f"k{i}": True}) for i in range(50)])
    said = {"name": 49, **{f"k{i}": True for i in range(50)}}
    assert one(connection, f"SELECT {kind} FROM runs") == (said,)
    assert connection.execute("SELECT run_id FROM changes").fetchall() == [(run_id,)]


def test_what_says_something_about_status_is_observed(ingest, run, observed):
    run_id = run()
    log = Journal(run_id, attempt=2)
    outcome = ingest.store(
        [log.message("hello", {"node": "n"}), log.message("event", {}), log.message("fin", {"x": 1})]
    )
    fin = messages.Fin(lost={}, out_of_memory=False)
    assert observed == [(run_id, 2, messages.Hello(node="n")), (run_id, 2, fin)]
    assert outcome.ended == {run_id}


def test_events_stand_in_the_timeline(connection, ingest, run, monkeypatch):
    monkeypatch.setattr("hpctrack.store.ingest.messages._MAX_EVENTS", 5)
    run_id = run()
    log = Journal(run_id, attempt=1)
    told = [
        {"time": 1.7e9, "name": "signal", "signal": 10, "reach": "process"},
        {"time": 1.7e9, "name": "signal", "signal": 40, "reach": "moon"},
        {"time": 1.7e9, "name": "supervisor lost\0" + "x" * 1000, "reach": []},
        {"time": 1e300, "name": "too late"},
        {"time": 1.7e9},
        {"name": "no time"},
    ]
    outcome = ingest.store([log.message("event", body) for body in told])
    assert (outcome.counts["messages"], outcome.counts["malformed"]) == (3, 3)
    query = (
        "SELECT attempt, status, source, reason, raw, extract(epoch FROM time) FROM transitions ORDER BY id"
    )
    assert connection.execute(query).fetchall() == [
        (1, None, "relay", "sent to the batch script alone", "SIGUSR1", 1_700_000_000),
        (1, None, "relay", None, "signal 40", 1_700_000_000),
        (1, None, "relay", None, "supervisor lost\ufffd" + "x" * 384, 1_700_000_000),
    ]
    ingest.store([log.message("event", {"time": 1.7e9, "name": "again"}) for _ in range(9)])
    assert one(connection, "SELECT count(*) FROM transitions") == (5,)


def test_what_is_missing_behind_a_watermark_of_before_is_counted(connection, ingest, run):
    log = Journal(run())
    row = journal.Row.of(3, 1, None, None, {"x": 1.0})
    ingest.store([log.lines(row, journal.Torn(4)), log.lines(journal.Gap(5, 100)), log.lines(row)])
    assert one(connection, "SELECT torn, rows FROM streams") == (99, 2)
    ingest.store([log.lines(row, row), log.lines(journal.Gap(6, 150)), log.lines(journal.Gap(7, 1))])
    assert one(connection, "SELECT torn, rows FROM streams") == (146, 4)
    assert one(connection, "SELECT lost FROM run_latest") == (146,)


def test_losses_are_counted(connection, ingest, run):
    run_id = run()
    relay, log = Journal(run_id, B), Journal(run_id)
    ingest.store([log.lines(journal.Torn(1), journal.Torn(2), journal.Row.of(3, 1, None, None, {"x": 1.0}))])
    assert one(connection, "SELECT torn, rows FROM streams") == (2, 1)
    silent = "c" * 16
    ingest.store([relay.message("fin", {"lost": {A: 5, silent: 7, "junk": 1, B: -1}})])
    ingest.store([relay.message("fin", {"lost": {A: 4}})])
    assert one(connection, "SELECT lost FROM run_latest") == (14,)
    assert dict(connection.execute("SELECT journal_id, lost FROM streams").fetchall()) == {
        A: 5,
        B: 0,
        silent: 7,
    }


HOSTILE = [
    "", "null", "[]", "1", "{", '"x"', "[" * 100_000, '{"a": ' * 5000, "{" + "9" * 5000 + "}",
]  # fmt: skip
SHAPES = [
    {"time": "x"}, {"time": math.nan, "node": "n"}, {"time": 1e300, "node": "n"}, {"time": 1, "node": []},
    {"time": -5, "node": "n"}, {"time": True, "node": "n"}, {"time": 1, "node": "n", "gpu": "\0\ud800"},
    {"time": 1, "node": "\0" * 3000, "memory_bytes": 1 << 70, "processes": 1 << 40, "cpu_s": "x"},
    {"lost": 3}, {"lost": {"x": {}}}, {"lost": {A: 1 << 62, B: True}},
    {"lost": {f"{i:016x}": 1 for i in range(9000)}},
    {"deep": [[[[[]]]]], "\ud800": "\ud800"},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["hello", "start", "fin"])
def test_hostile_words_about_status_harm_nothing(connection, run, kind):
    run_id = run()
    log = Journal(run_id)
    strange = {"time": 1e300, "node": "a\0b", "stdout": "\ud800", "stderr_tail": "x\0y", "exit_code": 1 << 70}
    bodies = [{name: value} for name, value in strange.items()]
    bodies += [strange, {"env": {"A\0": "b\0", "C": "\ud800"}}, {"env": 3}, {"node": "x" * 100_000}]
    real = ingestion.Ingestion(connection, reconcile.observe)
    outcome = real.store([*(log.message(kind, body) for body in bodies), log.rows({"step": 1, "x": 1.0})])
    assert outcome.watermarks == {(run_id, A): 100 * (len(bodies) + 1)}
    assert stored(connection, run_id) == {(1, 0.0): {"x": 1.0}}


def test_a_mistake_of_ours_costs_only_what_brings_it_to_light(connection, run):
    run_id = run()
    log = Journal(run_id)

    def observe(_connection, messages):
        for message in messages:
            if message.message.attempt == 3:
                raise KeyError("bad")
        return frozenset()

    mistaken = ingestion.Ingestion(connection, observe)
    batch = [log.message("hello", {"attempt": i}) for i in range(6)]
    assert mistaken.store(batch).watermarks == {(run_id, A): 600}
    assert one(connection, "SELECT start_offset, reason FROM rejected") == (300, "KeyError: 'bad'")


@pytest.mark.parametrize("kind", ["usage", "args", "tags", "fin", "hello", "event", "start", "nonsense"])
def test_messages_of_any_shape_are_counted_and_harm_nothing(connection, ingest, run, kind):
    run_id = run()
    log = Journal(run_id)
    batch = [log.message(kind, text) for text in HOSTILE]
    batch += [log.message(kind, shape) for shape in SHAPES]
    batch.append(log.rows({"step": 1, "x": 1.0}))
    outcome = ingest.store(batch)
    assert outcome.watermarks == {(run_id, A): 100 * len(batch)}
    kept = len(batch) - 1 if kind == "nonsense" else 0
    assert one(connection, "SELECT count(*) FROM rejected") == (kept,)
    assert stored(connection, run_id) == {(1, 0.0): {"x": 1.0}}
    assert outcome.counts["malformed"] >= len(HOSTILE)
