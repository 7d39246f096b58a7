"""Rows without a step, values without progress, and rows that a later attempt superseded."""

from __future__ import annotations

import itertools
import random

import pytest

from hpctrack.store.metrics import curves, metric_rows, metric_tables
from tests.support.journals import A, B, Journal, one, stored


def _values(connection, run_id, name):
    """The values of a metric, in the order of their steps."""
    return [row[name] for _, row in sorted(stored(connection, run_id).items()) if name in row]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("batches", [1, 3])
def test_a_row_without_a_step_costs_no_other(connection, ingest, run, order, batches):
    run_id = run()
    script, shell = Journal(run_id, A), Journal(run_id, B)
    pieces = [
        script.rows({"step": 0, "loss": 0.0}, {"step": 1, "loss": 1.0}),
        script.rows({"step": 2, "loss": 2.0}, {"step": 3, "loss": 3.0}),
        shell.rows({"loss": 400.0}),
    ]
    arriving = [pieces[index] for index in order]
    if batches == 1:
        ingest.store(arriving)
    else:
        # What comes before its turn is sent again.
        for _, piece in itertools.product(range(2), arriving):
            ingest.store([piece])
    assert sorted(_values(connection, run_id, "loss")) == [0.0, 1.0, 2.0, 3.0, 400.0]
    brought = connection.execute("SELECT step, loss FROM metrics WHERE numbered IS NULL ORDER BY step")
    assert brought.fetchall() == [(step, float(step)) for step in range(4)]


def test_rows_without_a_step_come_in_the_order_of_time(connection, ingest, run):
    run_id = run()
    first, second = Journal(run_id, A), Journal(run_id, B)
    ingest.store(
        [
            first.rows({"time": 10.0, "x": 1.0}, {"time": 30.0, "x": 3.0}, {"x": 3.5}),
            second.rows({"time": 20.0, "x": 2.0}, {"time": 40.0, "x": 4.0}, {"step": 7, "x": 0.0}),
        ]
    )
    rows = connection.execute("SELECT step, x FROM metrics ORDER BY step").fetchall()
    assert rows == [(7, 0.0), (8, 1.0), (9, 2.0), (10, 3.0), (11, 3.5), (12, 4.0)]
    assert one(connection, "SELECT next_step, numbered FROM run_latest") == (13, True)


def test_rows_without_a_step_give_way_again_and_again(connection, ingest, run):
    run_id = run()
    shell, script = Journal(run_id, A), Journal(run_id, B)
    ingest.store([shell.rows(*({"found": float(i)} for i in range(5)))])
    for step in range(40):
        ingest.store([script.rows({"step": step, "loss": float(step)}), shell.rows({"found": 5.0 + step})])
    assert sorted(_values(connection, run_id, "found")) == [float(i) for i in range(45)]
    assert _values(connection, run_id, "loss") == [float(i) for i in range(40)]
    assert not connection.execute(
        "SELECT FROM metrics WHERE (numbered IS NULL) <> (loss IS NOT NULL)"
    ).rowcount


def test_a_value_with_and_one_without_progress_are_one_row(connection, ingest, run):
    run_id = run()
    for progress in ({"progress": 0.5}, {}):
        other = {} if progress else {"progress": 0.5}
        log = Journal(run_id, A if progress else B)
        ingest.store([log.rows({"step": 1, "loss": 1.0, **progress}, {"step": 1, "acc": 2.0, **other})])
        ingest.store([log.rows({"step": 2, "loss": 1.0, **progress})])
        ingest.store([log.rows({"step": 2, "acc": 2.0, **other})])
    assert stored(connection, run_id) == {(step, 0.5): {"loss": 1.0, "acc": 2.0} for step in (1, 2)}


def test_rows_of_a_step_with_several_progresses_stay_apart(connection, ingest, run):
    run_id, log = (run_id := run()), Journal(run_id)
    within = [{"step": 1, "progress": tenth / 10, "loss": float(tenth)} for tenth in range(1, 5)]
    ingest.store([log.rows({"step": 1, "begun": 1.0}, *within, {"step": 1, "acc": 0.9})])
    ingest.store([log.rows({"step": 1, "valid": 0.8}, {"step": 1, "progress": 0.2, "lr": 3.0})])
    assert stored(connection, run_id) == {
        (1, 0.1): {"begun": 1.0, "loss": 1.0},
        (1, 0.2): {"loss": 2.0, "lr": 3.0},
        (1, 0.3): {"loss": 3.0},
        (1, 0.4): {"loss": 4.0, "acc": 0.9, "valid": 0.8},
    }


_SOURCES = [(A, 0, "loss"), (B, 0, "acc"), ("c" * 16, 1, "loss"), ("d" * 16, 1, "lr")]
_PROGRESS = {step: step / 50 for step in range(1, 50)}


def _drawn(draw, name, attempt):
    """What a process logs: some steps, of which some with their progress, and rows without any."""
    for step in range(draw.randrange(20), 30 + draw.randrange(20)):
        with_progress = draw.random() < 0.5 and step in _PROGRESS
        yield {"step": step, name: float(step + attempt)} | (
            {"progress": _PROGRESS[step]} if with_progress else {}
        )
        if draw.random() < 0.2:
            yield {"free": draw.random()}


def _arrive(ingest, draw, run_id, logged):
    """Store it, divided, repeated and in an order as it happens."""
    pieces = []
    for journal, attempt, _ in _SOURCES:
        log, left = Journal(run_id, journal, attempt), logged[journal]
        while left:
            size = draw.randrange(1, 15)
            pieces.append(log.rows(*left[:size]))
            left = left[size:]
    todo = pieces + draw.sample(pieces, len(pieces) // 3)
    draw.shuffle(todo)
    while todo:
        size = draw.randrange(1, 8)
        todo = todo[size:] + ingest.store(todo[:size]).ahead


def _outcome(connection, run_id):
    """What is stored: rows with a step, rows without one, and where attempts resumed."""
    query = "SELECT step FROM metrics WHERE numbered AND run_id = %s"
    numbered = {step for (step,) in connection.execute(query, [run_id])}
    rows = stored(connection, run_id)
    query = "SELECT journal_id, first_step FROM streams WHERE run_id = %s"
    return (
        {key: row for key, row in rows.items() if key[0] not in numbered},
        sorted(row["free"] for key, row in rows.items() if key[0] in numbered),
        dict(connection.execute(query, [run_id]).fetchall()),
    )


@pytest.mark.parametrize("seed", range(20))
def test_order_division_repetition_and_delay_make_no_difference(connection, ingest, run, seed):
    draw = random.Random(seed)
    logged = {journal: list(_drawn(draw, name, attempt)) for journal, attempt, name in _SOURCES}
    # Every step has some value with its progress.
    logged[A] += [{"step": step, "progress": progress, "mark": 1.0} for step, progress in _PROGRESS.items()]
    outcomes = []
    for run_id in (run(), run()):
        _arrive(ingest, draw, run_id, logged)
        outcomes.append(_outcome(connection, run_id))
    assert outcomes[0] == outcomes[1]
    given = sorted(row["free"] for rows in logged.values() for row in rows if "free" in row)
    assert outcomes[0][1] == given
    assert {key[1] for key in outcomes[0][0] if key[0]} == set(_PROGRESS.values())


# --- superseded rows ---


@pytest.fixture
def resumed(ingest, run):
    """A run whose second attempt resumed at step 200 and ended at 270; the first had come to 1,100."""
    run_id = run()
    first, second = Journal(run_id, A, 0), Journal(run_id, B, 1)
    ingest.store([first.rows(*({"step": step, "loss": float(step)} for step in range(0, 1101, 10)))])
    ingest.store([first.rows({"step": 1100, "acc": 0.9}, {"note": "x"})])
    ingest.store([second.rows(*({"step": step, "loss": step + 0.5} for step in range(200, 271, 10)))])
    return run_id


def test_what_a_later_attempt_went_back_before_is_superseded(connection, resumed):
    (loss,) = curves.fetch(connection, resumed, ["loss", "acc", "x"], buckets=1)
    assert (loss.name, loss.count, loss.maximum, loss.last) == ("loss", 28, 270.5, 270.5)
    last = metric_rows.last_values(connection, resumed, ["loss", "acc", "note"], curves.EVERYTHING)
    assert [(value.name, value.value) for value in last] == [("loss", 270.5), ("note", "x")]
    listed = list(metric_rows.iterate(connection, resumed, ["loss"], curves.EVERYTHING))
    assert [row.step for row in listed] == list(range(0, 271, 10))
    assert sum(part.rows for part in metric_tables.read(connection, [resumed], ["loss"])) == 29


def test_every_attempt_can_be_asked_for(connection, resumed):
    everything = curves.Span(every_attempt=True)
    (loss,) = curves.fetch(connection, resumed, ["loss"], 1, everything)
    assert (loss.count, loss.last) == (111, 1100.0)
    parts = metric_tables.read(connection, [resumed], ["loss"], every_attempt=True)
    assert sum(part.rows for part in parts) == 112
    assert one(connection, "SELECT count(*) FROM metrics WHERE run_id = %s", resumed) == (112,)


def test_an_attempt_that_begins_at_step_0_supersedes_all_but_numbers(connection, ingest, run):
    run_id = run()
    first, second = Journal(run_id, A, 0), Journal(run_id, B, 1)
    ingest.store(
        [first.rows({"a": 1.0}, {"step": 0, "b": 1.0}, {"step": 1, "b": 1.0}, {"step": 9, "b": 1.0})]
    )
    ingest.store([second.rows({"step": 0, "c": 1.0})])
    assert len(list(metric_rows.iterate(connection, run_id, ["a", "b", "c"], curves.EVERYTHING))) == 4
    ingest.store([second.rows({"step": 1, "c": 1.0})])
    listed = list(metric_rows.iterate(connection, run_id, ["a", "b", "c"], curves.EVERYTHING))
    assert [(row.step, *row.values) for row in listed] == [
        (0, None, 1.0, 1.0), (1, None, 1.0, 1.0), (10, 1.0, None, None),
    ]  # fmt: skip


def test_many_attempts_of_many_runs(connection, ingest, run):
    runs = []
    for _ in range(12):
        runs.append(run_id := run())
        for attempt, (begin, end) in enumerate(((1, 30), (20, 25), (10, 40), (35, 37))):
            log = Journal(run_id, str(attempt) * 16, attempt)
            ingest.store([log.rows(*({"step": step, "x": float(attempt)} for step in range(begin, end)))])
    expected = [0.0] * 9 + [2.0] * 25 + [3.0] * 2
    for asked in (runs, runs[:1]):
        found = [
            value
            for part in metric_tables.read(connection, asked, ["x"])
            for value in part.metrics["x"].values.tolist()
        ]
        assert found == expected * len(asked)
