"""Pieces of journals into a real PostgreSQL: columns, exactly once, steps and attempts."""

from __future__ import annotations

import datetime
import itertools
import math
import random
import threading

import pytest

from hpctrack import errors
from hpctrack.store import database as store
from hpctrack.store import values
from hpctrack.store.ingest import ingestion
from hpctrack.store.metrics import columns
from hpctrack.stream.wire.names import JournalKey
from tests.support.journals import A, B, Journal, bits, metric_columns, one, stored


def test_rows_arrive_with_columns_of_their_own(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    outcome = ingest.store(
        [log.rows({"step": 0, "loss": 0.5, "time": 1.7e9}, {"step": 1, "loss": 0.25, "acc": 1})]
    )
    assert stored(connection, run_id) == {(0, 0.0): {"loss": 0.5}, (1, 0.0): {"loss": 0.25, "acc": 1.0}}
    assert metric_columns(connection) == ["loss", "acc"]
    assert outcome.watermarks == {(run_id, A): 100}
    assert outcome.counts["rows"] == 2
    assert one(connection, "SELECT time FROM metrics WHERE step = 0") == (
        datetime.datetime.fromtimestamp(1.7e9, datetime.timezone.utc),
    )


@pytest.mark.parametrize("auto", [True, False])
def test_values_come_back_bit_for_bit(connection, ingest, plain, run, auto):
    run_id = run()
    given = [
        0.0, -0.0, 5e-324, 1.7976931348623157e308, 1e22, 1e-7, 0.1, math.inf, -math.inf, math.nan,
        2.5, 1 << 53, (1 << 53) + 1, (1 << 63) - 1, -(1 << 63), 1 << 80,
        True, False, "", "text", "ünï", "with \0 NUL", '{"float": "1"}', "a" * 5000,
    ]  # fmt: skip
    log = Journal(run_id)
    (ingest if auto else plain).store([log.rows(*({"step": i, "v": value} for i, value in enumerate(given)))])
    rows = stored(connection, run_id)
    for i, value in enumerate(given):
        got = rows[i, 0.0]["v"]
        if auto and type(value) is int and abs(value) <= 1 << 53:
            value = float(value)  # noqa: PLW2901 (as a column gives it back)
        assert bits(got) == bits(value)


def test_rows_arrive_where_no_column_can_be_added(connection, ingest, run):
    # PostgreSQL counts dropped columns, too: a table never has more than 1,600.
    for _ in range(2):
        columns_ = ", ".join(f"ADD COLUMN c{i} integer" for i in range(796))
        connection.execute(f"ALTER TABLE metrics {columns_}")
        connection.execute("ALTER TABLE metrics " + ", ".join(f"DROP COLUMN c{i}" for i in range(796)))
    run_id, log = (run_id := run()), Journal(run_id)
    for step in range(2):
        assert not ingest.store([log.rows({"step": step, "loss": 0.5})]).rejected
    assert stored(connection, run_id) == {(step, 0.0): {"loss": 0.5} for step in range(2)}


def test_names_of_every_kind(connection, ingest, run):
    run_id = run()
    names = [
        "train/loss", "with space", "üñï", 'quote"d', "per%cent", "x" * 63, "x" * 64, "y" * 63 + "1",
        "y" * 63 + "2", "z" * 200, "Loss", "loss", "LOSS", "run_id", "attempt", "extra", "ctid", "xmin",
        "tableoid", "select", "", "{}", "%s", "a\\b", "oid",
    ]  # fmt: skip
    log = Journal(run_id)
    logged = {name: float(i) for i, name in enumerate(names)}
    ingest.store([log.rows({"step": 1, **logged})])
    log2 = {name: value + 0.5 for name, value in logged.items()}
    ingest.store([log.rows({"step": 1, **log2})])
    assert stored(connection, run_id) == {(1, 0.0): log2}
    made = set(metric_columns(connection))
    assert made >= {
        "train/loss",
        "with space",
        "üñï",
        'quote"d',
        "per%cent",
        "x" * 63,
        "Loss",
        "select",
        "{}",
        "%s",
    }
    assert not made & {"x" * 64, "loss", "LOSS", "", "run_id", "ctid", "oid", "z" * 200}


def test_columns_are_bounded(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    logged = {f"m{i}": float(i) for i in range(2000)}
    half = dict(itertools.islice(logged.items(), 150))
    ingest.store([log.rows({"step": 0, **half})])
    ingest.store([log.rows({"step": 1, **logged})])
    ingest.store([log.rows({"step": 2, **logged})])
    assert len(metric_columns(connection)) == columns.MAX_AUTOMATIC
    assert stored(connection, run_id) == {(0, 0.0): half, (1, 0.0): logged, (2, 0.0): logged}


def test_a_value_lives_in_one_place_while_it_changes(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    for value in (1.0, "abc", 2.0, True, (1 << 60), 3.0):
        ingest.store([log.rows({"step": 5, "loss": value, "other": 1.0})])
        assert stored(connection, run_id) == {(5, 0.0): {"loss": value, "other": 1.0}}
    ingest.store([log.rows({"step": 5, "loss": 1.0}, {"step": 5, "loss": "abc"}, {"step": 5, "loss": 2.0})])
    assert stored(connection, run_id) == {(5, 0.0): {"loss": 2.0, "other": 1.0}}


def test_training_and_validation_share_a_row_in_one_batch_or_two(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    pieces = [log.rows({"step": i, "train": i + 0.5}) for i in range(3)]
    pieces += [log.rows({"step": i, "valid": i + 0.25, "note": "x"}) for i in range(3)]
    ingest.store(pieces[:4])
    ingest.store(pieces[4:])
    assert stored(connection, run_id) == {
        (i, 0.0): {"train": i + 0.5, "valid": i + 0.25, "note": "x"} for i in range(3)
    }
    assert one(connection, "SELECT rows FROM run_latest") == (6,)


def test_what_was_logged_before_its_column_came_stays_and_moves_when_written(connection, plain, run):
    run_id = run()
    log = Journal(run_id)
    plain.store([log.rows({"step": 0, "loss": 0.5}, {"step": 1, "loss": 0.25})])
    connection.execute("ALTER TABLE metrics ADD COLUMN loss double precision")
    plain.store([log.rows({"step": 1, "loss": 0.125}, {"step": 2, "loss": 0.1})])
    assert stored(connection, run_id) == {
        (0, 0.0): {"loss": 0.5}, (1, 0.0): {"loss": 0.125}, (2, 0.0): {"loss": 0.1},
    }  # fmt: skip
    assert connection.execute("SELECT step, loss FROM metrics ORDER BY step").fetchall() == [
        (0, None), (1, 0.125), (2, 0.1),
    ]  # fmt: skip


def test_declared_columns_take_what_they_give_back(connection, ingest, run):
    connection.execute(
        "ALTER TABLE metrics ADD COLUMN epoch integer, ADD COLUMN phase text, ADD COLUMN done boolean,"
        " ADD COLUMN half real, ADD COLUMN big bigint, ADD COLUMN exact numeric, ADD COLUMN short varchar(3),"
        " ADD COLUMN at timestamptz, ADD COLUMN odd point, ADD COLUMN always double precision DEFAULT 1.5,"
        " ADD COLUMN doubled double precision GENERATED ALWAYS AS (half * 2) STORED"
    )
    run_id = run()
    fits = {
        "epoch": 3, "phase": "warm up", "done": True, "half": 0.5, "big": (1 << 63) - 1, "exact": 0.25,
        "short": "abc", "at": "2026-01-02T03:04:05.000006+00:00",
    }  # fmt: skip
    not_ = {
        "epoch": 3.5, "phase": 1.0, "done": 1, "half": 0.1, "big": 1e300, "exact": "x", "short": "abcd",
        "at": "soon", "odd": 1.0, "doubled": 2.0,
    }  # fmt: skip
    log = Journal(run_id)
    for steps in ((0, 1), (0, 1)):  # fresh, then on top of what is there
        ingest.store(
            [log.rows(*({"step": step, **row} for step, row in zip(steps, (fits, not_), strict=True)))]
        )
        rows = stored(connection, run_id)
        at = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc)
        assert rows[0, 0.0] == {**fits, "at": at, "doubled": 1.0, "always": 1.5}
        elsewhere = one(connection, "SELECT extra FROM metrics WHERE step = 1")[0]
        assert {name: values.decode(value) for name, value in elsewhere.items()} == not_


def test_columns_of_another_collector_are_seen(database, connection, ingest, run):
    run_id, other_id = run(), run()
    log = Journal(run_id)
    ingest.store([log.rows({"step": 0, "a": 1.0})])
    with store.connect(database, autocommit=True) as second:
        other = ingestion.Ingestion(second, lambda _c, _m: frozenset(), auto_columns=True)
        other.store([Journal(other_id).rows({"step": 0, "b": 1.0})])
        second.execute("ALTER TABLE metrics RENAME COLUMN a TO c")
    ingest.store([log.rows({"step": 1, "b": 2.0, "c": 3.0}, {"step": 0, "c": 4.0})])
    assert connection.execute(
        "SELECT step, b, c, extra FROM metrics WHERE run_id = %s ORDER BY step", [run_id]
    ).fetchall() == [
        (0, None, 4.0, None), (1, 2.0, 3.0, None),
    ]  # fmt: skip


def test_a_locked_table_delays_columns_and_nothing_else(database, connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    with store.connect(database) as reader:
        reader.execute("SELECT count(*) FROM metrics")
        ingest.store([log.rows({"step": 0, "loss": 0.5})])
        assert metric_columns(connection) == []
        assert stored(connection, run_id) == {(0, 0.0): {"loss": 0.5}}
    ingest._adder._not_before = 0.0
    ingest.store([log.rows({"step": 1, "loss": 0.25})])
    assert metric_columns(connection) == ["loss"]
    assert stored(connection, run_id) == {(0, 0.0): {"loss": 0.5}, (1, 0.0): {"loss": 0.25}}


def test_the_pause_after_a_failure_grows(connection):
    now = [0.0]
    adder = columns.Adder(lambda: now[0])
    connection.execute("CREATE ROLE nobody_much_" + str(random.randrange(10**9)))
    role = connection.execute("SELECT rolname FROM pg_roles ORDER BY oid DESC LIMIT 1").fetchone()[0]
    try:
        connection.execute(f"GRANT USAGE ON SCHEMA hpctrack TO {role}; SET ROLE {role}")
        pauses = []
        for _ in range(12):
            with pytest.raises(errors.StoreDenied):
                adder.add(connection, ["x"])
            assert not adder.ready
            before = now[0]
            while not adder.ready:
                now[0] += 0.5
            pauses.append(now[0] - before)
        assert pauses == sorted(pauses)
        assert pauses[0] == 1.0
        assert pauses[-1] == 300.0
    finally:
        connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


# --- exactly once ---


def test_only_what_continues_a_journal_is_stored(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    pieces = [log.rows({"step": i, "x": float(i)}) for i in range(5)]
    assert ingest.store([pieces[0]]).watermarks == {(run_id, A): 100}
    outcome = ingest.store([pieces[0], pieces[2], pieces[1], pieces[4], pieces[1]])
    assert outcome.watermarks == {(run_id, A): 300}
    assert outcome.ahead == [pieces[4]]
    assert outcome.counts["duplicates"] == 2
    overlapping = pieces[2]._replace(start=250, end=350)
    assert ingest.store([overlapping]).watermarks == {(run_id, A): 300}
    assert [step for step, _ in stored(connection, run_id)] == [0, 1, 2]
    assert one(connection, "SELECT watermark, rows, duplicates FROM streams") == (300, 3, 3)
    assert ingest.watermarks([JournalKey(run_id, A), JournalKey(run_id, B)]) == {
        (run_id, A): 300,
        (run_id, B): 0,
    }


def test_two_collectors_store_everything_once(database, connection, run):
    run_id = run()
    journals = {name: Journal(run_id, name) for name in (A, B)}
    pieces = {
        name: [log.rows({"step": 10 * i + offset, "x": float(i)}, {"y": 1.0}) for i in range(60)]
        for offset, (name, log) in enumerate(journals.items())
    }
    failures = []

    def collect(seed: int) -> None:
        rng = random.Random(seed)
        try:
            with store.connect(database, autocommit=True) as own:
                mine = ingestion.Ingestion(own, lambda _c, _m: frozenset(), auto_columns=True)
                marks = dict.fromkeys(((run_id, A), (run_id, B)), 0)
                while any(mark < 6000 for mark in marks.values()):
                    batch = []
                    for (_, name), mark in marks.items():
                        batch += pieces[name][max(0, mark // 100 - 1) :][: rng.randint(1, 5)]
                    rng.shuffle(batch)
                    if batch:
                        marks.update(mine.store(batch).watermarks)
        except Exception as error:  # noqa: BLE001 (shown by the assertion)
            failures.append(error)

    threads = [threading.Thread(target=collect, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert one(connection, "SELECT sum(rows), sum(watermark) FROM streams") == (240, 12000)
    rows = stored(connection, run_id)
    assert sum("y" in row for row in rows.values()) == 120
    assert {step: row["x"] for (step, _), row in rows.items() if "x" in row} == {
        10 * i + offset: float(i) for i in range(60) for offset in (0, 1)
    }


def test_many_runs_and_chunks_in_one_batch(connection, ingest, run, monkeypatch):
    monkeypatch.setattr("hpctrack.store.ingest.rows._MAX_CELLS", 50)
    runs = [run() for _ in range(8)]
    logs = [Journal(run_id) for run_id in runs]
    batch = [
        log.rows(
            *({"step": (7 * i) % 20, f"m{log.run_id % 3}": float(i), "all": float(i)} for i in range(20))
        )
        for log in logs
        for _ in range(3)
    ]
    random.Random(1).shuffle(batch)
    ingest.store(batch)
    for run_id in runs:
        expected = {((7 * i) % 20, 0.0): {f"m{run_id % 3}": float(i), "all": float(i)} for i in range(20)}
        assert stored(connection, run_id) == expected
    assert one(connection, "SELECT count(*), sum(rows) FROM run_latest") == (8, 480)


def test_rows_that_somebody_else_wrote_are_merged_into(connection, ingest, run):
    run_id = run()
    connection.execute("ALTER TABLE metrics ADD COLUMN own double precision")
    connection.execute("INSERT INTO metrics (run_id, step, own) VALUES (%s, 4, 1.5)", [run_id])
    ingest.store([Journal(run_id).rows(*({"step": i, "x": float(i)} for i in range(8)))])
    assert stored(connection, run_id) == {
        (i, 0.0): {"x": float(i)} | ({"own": 1.5} if i == 4 else {}) for i in range(8)
    }


# --- steps, attempts, latest ---


def test_rows_without_a_step_are_numbered_and_a_second_attempt_goes_on(connection, ingest, run):
    run_id = run()
    first, second = Journal(run_id), Journal(run_id, B, attempt=1)
    ingest.store([first.rows({"x": 0.0}, {"x": 1.0}, {"step": 10, "x": 2.0}, {"x": 3.0})])
    ingest.store([second.rows({"x": 4.0}), first.rows({"x": 5.0})])
    rows = stored(connection, run_id)
    assert {step: row["x"] for (step, _), row in rows.items()} == {
        11: 0.0, 12: 1.0, 10: 2.0, 13: 3.0, 14: 5.0, 15: 4.0,
    }  # fmt: skip
    assert one(connection, "SELECT next_step FROM run_latest") == (16,)


def test_a_later_attempt_wins_whenever_the_earlier_one_arrives(connection, ingest, run):
    run_id = run()
    first, second = Journal(run_id), Journal(run_id, B, attempt=1)
    early = [first.rows({"step": i, "loss": 1.0, "old": 1.0, "mixed": "a"}) for i in range(3)]
    late = first.rows({"step": 2, "loss": 9.0}, {"step": 3, "loss": 9.0, "old": 3.0})
    ingest.store(early)
    ingest.store([second.rows({"step": 1, "loss": 2.0, "mixed": 1.0}, {"step": 2, "loss": 2.0})])
    assert one(connection, "SELECT sum(replaced) FROM streams WHERE journal_id = %s", B) == (2,)
    ingest.store([second.rows({"step": 3, "loss": 2.0, "mixed": "b"})])
    ingest.store([late])
    rows = stored(connection, run_id)
    assert rows[0, 0.0] == {"loss": 1.0, "old": 1.0, "mixed": "a"}
    assert rows[1, 0.0] == {"loss": 2.0, "old": 1.0, "mixed": 1.0}
    assert rows[2, 0.0] == {"loss": 2.0, "old": 1.0, "mixed": "a"}
    assert rows[3, 0.0] == {"loss": 2.0, "old": 3.0, "mixed": "b"}
    latest = one(connection, "SELECT last, last_step FROM run_latest")
    assert latest == ({"loss": 2.0, "old": 1.0, "mixed": "b"}, 3)
    assert dict(connection.execute("SELECT step, attempt FROM metrics").fetchall()) == {
        0: 0,
        1: 1,
        2: 1,
        3: 1,
    }


def test_both_attempts_in_one_batch(connection, ingest, run):
    run_id = run()
    first, second = Journal(run_id), Journal(run_id, B, attempt=1)
    ingest.store([
        second.rows({"step": 1, "loss": 2.0}), first.rows({"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}),
    ])  # fmt: skip
    assert stored(connection, run_id) == {(1, 0.0): {"loss": 2.0}, (2, 0.0): {"loss": 1.0}}
    assert one(connection, "SELECT sum(replaced) FROM streams") == (1,)


def test_the_latest_values_of_a_run_are_at_hand(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    ingest.store(
        [log.rows({"step": 3, "loss": 0.5, "note": "a", "time": 1.7e9}, {"step": 4, "acc": math.nan})]
    )
    ingest.store([log.rows({"step": 5, "loss": 0.25, "n": 7, "flag": True})])
    last, step, rows, time = one(connection, "SELECT last, last_step, rows, last_time FROM run_latest")
    decoded = {name: values.decode(value) for name, value in last.items()}
    assert math.isnan(decoded.pop("acc"))
    assert decoded == {"loss": 0.25, "note": "a", "n": 7.0, "flag": True}
    assert (step, rows) == (5, 3)
    assert time == datetime.datetime.fromtimestamp(1.7e9, datetime.timezone.utc)


def test_times_and_steps_at_the_edges(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    edge = (1 << 63) - 1
    outcome = ingest.store([
        log.rows({"step": edge, "x": 1.0, "time": 9e12}),
        log.rows({"step": -edge - 1, "x": 2.0, "time": -2e11}),
        log.rows({"step": edge, "x": 3.0}),
        log.rows({"x": 4.0}),
    ])  # fmt: skip
    assert stored(connection, run_id) == {(edge, 0.0): {"x": 3.0}, (-edge - 1, 0.0): {"x": 2.0}}
    assert outcome.counts["rejected"] == 1
    assert one(connection, "SELECT sqlstate, reason FROM rejected") == (
        "22003", "no step is left for a row without one",
    )  # fmt: skip
