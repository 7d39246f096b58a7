"""Statistics of runs: whatever happens to their rows, what lists show is what a scan of them finds."""

from __future__ import annotations

import json
import math
import random

import pytest

from hpctrack.store import database as store
from hpctrack.store.ingest import ingestion, pending, summaries
from hpctrack.store.metrics import statistics, superseded
from hpctrack.store.metrics.statistics import End, Extreme, Statistics
from tests.support.journals import A, B, Journal, bits, one

_FIELDS = "name, count, nans, first, first_step, last, last_step, min, min_step, max, max_step"


def shown(connection, run_id):
    """What ``metric_summary`` says, by metric."""
    rows = connection.execute(
        f"SELECT {_FIELDS} FROM metric_summary WHERE run_id = %s ORDER BY name", [run_id]
    ).fetchall()
    assert len({name for name, *_ in rows}) == len(rows)
    return {name: tuple(map(bits, cells)) for name, *cells in rows}


def scanned(connection, run_id):
    """The same, from the rows that stand, one by one."""
    standing = superseded.standing(connection, [run_id]).as_string(connection)
    keys = connection.execute(
        f"SELECT m.step, m.progress FROM metrics m WHERE run_id = {run_id} AND {standing}"
    )
    stand = set(keys.fetchall())
    values = {}
    rows = connection.execute(
        "SELECT name, step, progress, value FROM metric_values WHERE run_id = %s AND value IS NOT NULL"
        " ORDER BY step, progress", [run_id],
    ).fetchall()  # fmt: skip
    for name, step, progress, value in rows:
        if (step, progress) in stand:
            values.setdefault(name, []).append((step, value))
    found = {}
    for name, given in sorted(values.items()):
        numbers = [(step, value) for step, value in given if not math.isnan(value)]
        low = min(numbers, key=lambda pair: (pair[1], pair[0]), default=(None, None))
        high = min(numbers, key=lambda pair: (-pair[1], pair[0]), default=(None, None))
        first, last = given[0], given[-1]
        cells = (len(given), len(given) - len(numbers), *first[::-1], *last[::-1], *low[::-1], *high[::-1])
        found[name] = tuple(map(bits, cells))
    return found


def write(connection, ingest):
    """What the collector's thread does every few seconds, but for runs that go on."""
    summaries.add(connection, ingest.pending.take())


@pytest.fixture
def end(connection):
    """End a run, so long ago that nothing of it is waited for."""

    def end(run_id):
        connection.execute(
            "UPDATE runs SET time_ended = now() - interval '1 hour' WHERE id = %s",
            [run_id],
        )

    return end


_CELLS = (
    0.5, 1.5, -2.0, math.nan, math.inf, -math.inf, 3, (1 << 53) + 1, 1 << 70, True, "text", 1e-300, -0.0,
)  # fmt: skip


_NAMES = ["a", "b", "n", "ok", "m", "late/x"]


def _row(draw):
    row = {name: draw.choice(_CELLS) for name in draw.sample(_NAMES, draw.randrange(1, 4))}
    if draw.random() < 0.8:
        row["step"] = draw.randrange(-2, 60)
    if draw.random() < 0.2:
        row["progress"] = draw.choice([0.25, 0.5])
    return row


def _renew(connection, runs):
    for run in runs:
        summaries.renew(connection, run.run_id)


def _pieces(draw, runs):
    """What processes of several attempts log, as it arrives."""
    journals = [
        Journal(run_id, f"{number:016x}", attempt)
        for run_id in runs
        for number, attempt in enumerate(draw.choice([(0,), (0, 0), (0, 1), (0, 1, 2)]))
    ]
    pieces = [
        draw.choice(journals).rows(*(_row(draw) for _ in range(draw.randrange(1, 9)))) for _ in range(30)
    ]
    draw.shuffle(pieces)
    return pieces


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("auto", [True, False])
def test_what_batches_bring_is_what_a_scan_finds(connection, ingest, plain, run, seed, auto):
    draw = random.Random(seed)
    writer = ingest if auto else plain
    if seed % 3 == 0:
        added = "ADD COLUMN n bigint, ADD COLUMN ok boolean, ADD COLUMN m numeric"
        connection.execute(f"ALTER TABLE metrics {added}")
    runs = [run() for _ in range(3)]
    pieces = _pieces(draw, runs)
    while pieces:
        pieces = pieces[4:] + writer.store(pieces[:4]).ahead
        if draw.random() < 0.3:
            write(connection, writer)
        _renew(connection, [run for run in summaries.find_stale(connection) if draw.random() < 0.2])
    write(connection, writer)
    _renew(connection, summaries.find_stale(connection))
    for run_id in runs:
        assert shown(connection, run_id) == scanned(connection, run_id)
        known = "SELECT unsummed, stale FROM run_latest WHERE run_id = %s"
        assert one(connection, known, run_id) == (0, False)


def test_rows_that_only_add_are_not_read_again(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    for step in range(20):
        ingest.store([log.rows({"step": step, "loss": float(step)})])
        ingest.store([log.rows({"step": step, "acc": step / 20})])
        write(connection, ingest)
    assert summaries.find_stale(connection) == []
    assert shown(connection, run_id) == scanned(connection, run_id)
    assert one(connection, "SELECT scans, unsummed FROM run_latest") == (0, 0)


@pytest.mark.parametrize(
    "again",
    [{"step": 3, "loss": 7.0}, {"step": 3, "loss": "text"}, {"step": 3, "extra/x": 1.0}],
    ids=["a column", "out of its column", "without a column"],
)
def test_a_value_that_is_replaced_is_seen(connection, plain, run, again):
    connection.execute("ALTER TABLE metrics ADD COLUMN loss float")
    run_id, log = (run_id := run()), Journal(run_id)
    plain.store([log.rows(*({"step": step, "loss": float(step), "extra/x": -1.0} for step in range(5)))])
    plain.store([log.rows(again)])
    write(connection, plain)
    assert [stale.run_id for stale in summaries.find_stale(connection)] == [run_id]
    assert shown(connection, run_id) != scanned(connection, run_id)
    assert summaries.renew(connection, run_id)
    assert not summaries.renew(connection, run_id)
    assert shown(connection, run_id) == scanned(connection, run_id)


def test_superseded_values_count_no_more(connection, ingest, run):
    run_id = run()
    first, second = Journal(run_id, A), Journal(run_id, B, 1)
    ingest.store([first.rows(*({"step": step, "loss": 100.0 - step} for step in range(100)))])
    ingest.store([second.rows(*({"step": step, "loss": 200.0 - step} for step in range(20, 30)))])
    write(connection, ingest)
    assert summaries.renew(connection, run_id)
    found = shown(connection, run_id)
    assert found == scanned(connection, run_id)
    assert found["loss"][0] == (int, 30) and found["loss"][6] == bits(81.0)
    # What the first attempt says now is late, and given up.
    ingest.store([first.rows({"step": 100, "loss": 0.0})])
    write(connection, ingest)
    assert summaries.renew(connection, run_id)
    assert shown(connection, run_id) == found


def test_runs_that_are_over_are_settled(connection, ingest, run, end):
    run_id, log = (run_id := run()), Journal(run_id)
    ingest.store([log.rows(*({"step": step, "loss": float(step)} for step in range(9)))])
    end(run_id)
    assert summaries.settle(connection) == 0  # nobody has told yet what the rows brought
    write(connection, ingest)
    assert summaries.find_stale(connection) == []
    assert summaries.settle(connection) == 1
    assert summaries.settle(connection) == 0
    settled = "SELECT (SELECT count(*) FROM run_metrics), stats, settled FROM run_latest"
    assert one(connection, settled) == (1, {}, True)
    assert shown(connection, run_id) == scanned(connection, run_id)
    # A row that comes late, and one that replaces.
    for row in ({"step": 50, "loss": -1.0}, {"step": 50, "loss": -2.0}):
        ingest.store([log.rows(row)])
        write(connection, ingest)
        assert [stale.over for stale in summaries.find_stale(connection)] == [True]
        assert summaries.settle(connection) == 0
        assert summaries.renew(connection, run_id)
        assert shown(connection, run_id) == scanned(connection, run_id)
        assert summaries.settle(connection) == 1
        assert shown(connection, run_id) == scanned(connection, run_id)


def test_what_a_collector_took_along_is_read_again(connection, ingest, run, end):
    run_id, log = (run_id := run()), Journal(run_id)
    ingest.store([log.rows(*({"step": step, "loss": float(step)} for step in range(9)))])
    ingest.pending.take()  # it ended before it wrote that
    ingest.store([log.rows({"step": 10, "loss": 10.0})])
    write(connection, ingest)
    assert one(connection, "SELECT unsummed FROM run_latest") == (9,)
    assert summaries.find_stale(connection) == []  # another may still have it
    end(run_id)
    assert [stale.run_id for stale in summaries.find_stale(connection)] == [run_id]
    assert summaries.renew(connection, run_id)
    assert shown(connection, run_id) == scanned(connection, run_id)


def test_two_collectors_write_in_any_order(connection, database, ingest, run):
    run_id = run()
    with store.connect(database, autocommit=True) as other_connection:
        other = ingestion.Ingestion(other_connection, lambda *_: frozenset())
        first, second = Journal(run_id, A), Journal(run_id, B)
        for step in range(6):
            ingest.store([first.rows({"step": step, "loss": 10.0 - step})])
            other.store([second.rows({"step": step, "acc": step + 0.5, "loss/2": 1.0})])
        late = ingest.pending.take()
        write(other_connection, other)
        summaries.add(connection, late)
    assert shown(connection, run_id) == scanned(connection, run_id)
    assert one(connection, "SELECT unsummed, stale FROM run_latest") == (0, False)


def test_what_came_before_a_scan_is_not_counted_twice(connection, ingest, run):
    run_id, log = (run_id := run()), Journal(run_id)
    ingest.store([log.rows({"step": 1, "loss": 1.0})])
    ingest.store([log.rows({"step": 1, "loss": 2.0})])
    assert summaries.renew(connection, run_id)
    ingest.store([log.rows({"step": 2, "loss": 3.0})])
    write(connection, ingest)
    assert shown(connection, run_id) == scanned(connection, run_id)
    assert one(connection, "SELECT unsummed, scans FROM run_latest") == (0, 1)


def test_a_run_has_statistics_of_its_first_names_only(connection, plain, run):
    run_id, log = (run_id := run()), Journal(run_id)
    plain.store([log.rows({"step": 1, **{f"m{i}": 1.0 for i in range(statistics.MOST + 50)}})])
    write(connection, plain)
    assert len(shown(connection, run_id)) == statistics.MOST


def test_rows_of_which_too_many_wait_are_read_again(connection, ingest, run, end, monkeypatch):
    monkeypatch.setattr(pending, "_TOO_MANY", 10)
    run_id, log = (run_id := run()), Journal(run_id)
    for begin in range(0, 40, 10):
        ingest.store([log.rows(*({"step": begin + step, "loss": 1.0} for step in range(10)))])
    write(connection, ingest)
    assert one(connection, "SELECT unsummed FROM run_latest") == (30,)
    end(run_id)
    assert [stale.run_id for stale in summaries.find_stale(connection)] == [run_id]


def test_statistics_are_written_and_read_exactly():
    given = Statistics(
        5, 2, Extreme(-math.inf, -(1 << 63)), Extreme(1e300, (1 << 63) - 1),
        End(0, 0.0, math.nan), End(9, math.inf, 0.1 + 0.2),
    )  # fmt: skip
    again = Statistics.from_json(json.loads(given.to_json()))
    assert str(again) == str(given)
    none = Statistics(1, 1, None, None, End(0, 0.0, math.nan), End(0, 0.0, math.nan))
    assert str(Statistics.from_json(json.loads(none.to_json()))) == str(none)
