"""Statistics of metrics in lists: conditions, orders, columns, CSV, JSON, completion; of live runs, too."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from psycopg import sql

from hpctrack.api.client import Client
from hpctrack.run import conditions
from hpctrack.store.read import completions, lists
from hpctrack.store.read.filters import RunFilter, Sort
from tests.integration.cli.verbs.test_lists import explain, scanned

#: Of a metric, as a run's row of run_metrics has them.
_COLUMNS = ("count", "nans", "min", "max", "first", "last")


@pytest.fixture
def measured(connection, run, insert):
    """Insert a run with statistics by metric: count, nans, min, max, first and last; returns its id."""

    def make(live=False, latest=None, **metrics):
        stats = {
            name: [size, nans, low, 1, high, 2, first, 0, 0, last, 3, 0]
            for name, (size, nans, low, high, first, last) in metrics.items()
        }
        told = {"last": dict.fromkeys(metrics, 1), "settled": not live, "stats": stats if live else {}}
        run_id = run("RUNNING" if live else "COMPLETED", latest={**told, **(latest or {})})
        for name, values in () if live else metrics.items():
            connection.execute("INSERT INTO metric_names (name) VALUES (%s) ON CONFLICT DO NOTHING", [name])
            (name_id,) = connection.execute("SELECT id FROM metric_names WHERE name = %s", [name]).fetchone()
            cells = dict(zip(_COLUMNS, values, strict=True))
            insert("run_metrics", run_id=run_id, name_id=name_id, **cells)
        return run_id

    return make


@pytest.fixture
def six(measured):
    """Insert six runs, a to f; returns their letters by id."""
    nan = {"float": "nan"}
    made = [
        measured(loss=(10, 0, 0.25, 4.0, 4.0, 0.5), acc=(5, 0, 0.1, 0.95, 0.1, 0.9)),
        measured(loss=(10, 9, 0.75, 0.75, math.nan, math.nan)),
        measured(loss=(3, 3, None, None, math.nan, math.nan)),
        measured(live=True, loss=(7, 1, 0.125, 2, 2, nan), acc=(1, 0, 0.99, 0.99, 0.99, 0.99)),
        measured(live=True),
        measured(loss=(2, 0, -math.inf, math.inf, 1.0, 2.0)),
    ]
    return dict(zip(made, "abcdef", strict=True))


CONDITIONS = {
    "min.loss < 0.3": "adf",
    "min.loss <= 0.25 and max.acc > 0.9": "ad",
    "not min.loss < 0.3": "b",
    "min.loss = -inf": "f",
    "max.loss = inf": "f",
    "max.loss > 1 or max.acc > 1": "adf",
    "max.loss != 4": "bdf",
    "max.loss in (4, 2)": "ad",
    "min.loss": "abdf",
    "not min.loss": "ce",
    "min.loss is null and count.loss > 0": "c",
    "first.loss > 1": "ad",
    "first.loss != 1": "ad",
    "last.loss = nan": "bcd",
    "last.loss > 0": "af",
    "count.loss >= 7": "abd",
    "nans.loss = 3": "c",
    "nans.loss > 0 and state = running": "d",
    "min.missing < 1": "",
    "min.loss < 1 and metrics.acc = 1": "ad",
}


def test_conditions(connection, six):
    def listed(text):
        which = RunFilter(where=conditions.parse(text))
        runs = lists.list_runs(connection, which)
        assert sum(lists.count_runs(connection, which).values()) == len(runs)
        return "".join(sorted(six[run.id] for run in runs))

    found = {text: listed(text) for text in CONDITIONS}
    assert found == {text: "".join(sorted(letters)) for text, letters in CONDITIONS.items()}


ORDERS = {
    "min.loss": "fdabec",
    "-min.loss": "badfec",
    "-max.loss": "fadbec",
    "max.loss": "bdafec",
    "first.loss": "fdaecb",
    "-last.loss": "faedcb",
    "-count.loss": "badcfe",
    "nans.loss": "fadcbe",
}


@pytest.mark.parametrize("most", [10_000, 3])
@pytest.mark.parametrize(("order", "letters"), ORDERS.items())
def test_pages_in_their_order_join_up(connection, six, monkeypatch, order, letters, most):
    monkeypatch.setattr(lists, "WINDOW", most)
    found, after = "", None
    while True:
        page = lists.fetch_page(connection, RunFilter(), 2, after, Sort.parse(order))
        found += "".join(six[line.id] for line in page.lines)
        assert page.total == 6 or not page.counted
        if not page.more:
            break
        after = page.lines[-1].id
    assert found == letters
    for limit in (None, 2, 3, 6):
        runs = lists.list_runs(connection, RunFilter(), limit=limit, sort=Sort.parse(order))
        assert "".join(six[run.id] for run in runs) == letters[:limit]


def test_runs_that_share_a_value_stand_in_their_own_order(connection, measured, monkeypatch):
    monkeypatch.setattr(lists, "WINDOW", 4)
    values = [0.5] * 3 + [0.75] * 6
    made = [measured(live=value > 0.6, loss=(1, 0, value, value, value, value)) for value in values]
    rising = [*made[2::-1], *made[:2:-1]]
    falling = [*made[:2:-1], *made[2::-1]]
    for order, expected in (("min.loss", rising), ("-max.loss", falling)):
        ids, after = [], None
        for _ in range(5):
            page = lists.fetch_page(connection, RunFilter(), 2, after, Sort.parse(order))
            ids += [line.id for line in page.lines]
            after = ids[-1]
        assert ids == expected


def test_a_page_that_the_first_runs_fill_counts_only_these(connection, measured, monkeypatch):
    monkeypatch.setattr(lists, "WINDOW", 5)
    for index in range(9):
        measured(loss=(1, 0, index, index, index, index))
    page = lists.fetch_page(connection, RunFilter(), 3, None, Sort.parse("min.loss"))
    assert ([line.id for line in page.lines], page.total, page.counted) == ([1, 2, 3], 5, False)
    few = RunFilter(where=conditions.parse("min.loss < 4"))
    page = lists.fetch_page(connection, few, 3, None, Sort.parse("min.loss"))
    assert ([line.id for line in page.lines], page.total, page.counted) == ([1, 2, 3], 4, True)
    behind = RunFilter(where=conditions.parse("run > 7"))
    page = lists.fetch_page(connection, behind, 3, None, Sort.parse("min.loss"))
    assert ([line.id for line in page.lines], page.counted) == ([8, 9], True)


def test_tables_csv_and_json_show_them(cli, six):
    code, out, err = cli("status", "-o", "run,min.loss,nans.loss,max.acc", "--sort", "min.loss", "--csv")
    assert (code, err) == (0, "")
    assert list(csv.reader(io.StringIO(out))) == [
        ["run", "min.loss", "nans.loss", "max.acc"],
        ["r6", "-inf", "0", ""], ["r4", "0.125", "1", "0.99"], ["r1", "0.25", "0", "0.95"],
        ["r2", "0.75", "9", ""], ["r5", "", "", ""], ["r3", "", "3", ""],
    ]  # fmt: skip
    assert cli("status", "-o", "run,min.loss", "--csv", "--all")[1].splitlines()[1] == "r1,0.25"
    _, out, _ = cli("status", "-o", "run,last.loss,count.loss", "r1")
    assert out.splitlines()[1].split() == ["r1", "0.5", "10"]
    told = json.loads(cli("status", "--where", "max.acc > 0.9 and first.loss > 3", "--json")[1])
    (found,) = told["runs"]
    assert found["summaries"] == {
        "acc": {"min": 0.1, "max": 0.95, "first": 0.1, "last": 0.9, "count": 5, "nans": 0},
        "loss": {"min": 0.25, "max": 4.0, "first": 4.0, "last": 0.5, "count": 10, "nans": 0},
    }
    assert json.loads(cli("status", "r1", "--json")[1])["runs"][0]["summaries"] == {}


def test_the_interface_takes_them(settings, six):
    with Client(settings=settings) as client:
        found = client.runs(where="min.loss < 0.5", sort="-min.loss")
        assert [run.id for run in found] == [1, 4, 6]


def test_an_unknown_metric_is_answered_with_the_nearest(cli, six):
    _, _, err = cli("status", "--where", "min.los < 1")
    assert err == "hpctrack: of the newest 1,000 runs none has a metric 'los': did you mean 'loss'?\n"
    _, _, err = cli("status", "--sort", "max.acc", "-o", "run,min.ac")
    assert "none has a metric 'ac'" in err
    assert cli("status", "--where", "min.loss like 'a%'")[0] == 2
    assert cli("status", "--where", "min.loss < small")[2].startswith("hpctrack: 'small' is no number")


def test_names_are_completed(database, six, run):
    run(args={"lr": 1, "a b": 2})
    with completions.source(database) as source:
        assert [word.text for word in source.scoped("min.lo")] == ["min.loss"]
        assert [word.text for word in source.scoped("metrics.")] == ["metrics.acc", "metrics.loss"]
        assert [word.text for word in source.scoped("args.")] == ["args.lr"]


@pytest.mark.parametrize("name", ["'; DROP TABLE runs; --", "%s", "%(p0)s", "{metric}", "a\\", "summary_0"])
def test_a_name_is_never_run(connection, measured, name):
    made = measured(**{name: (1, 0, 1, 1, 1, 1)}), measured(live=True, **{name: (1, 0, 2, 2, 2, 2)})
    which = RunFilter(where=conditions.parse(f'min."{name}" > 0 and min.loss is null'))
    page = lists.fetch_page(connection, which, 5, None, Sort.parse(f'-max."{name}"'))
    assert [line.id for line in page.lines] == list(made[::-1])


# --- plans --------------------------------------------------------------------------------------------------


@pytest.fixture
def many(connection):
    connection.execute("INSERT INTO experiments (name) VALUES ('e')")
    connection.execute(
        "INSERT INTO runs (experiment_id, slurm_job_id, user_name, status, time_ended)"
        " SELECT 1, i, 'u' || i % 50, 'COMPLETED', now() FROM generate_series(1, 40000) i"
    )
    connection.execute("INSERT INTO run_latest (run_id, settled) SELECT id, true FROM runs")
    connection.execute("INSERT INTO metric_names (name) VALUES ('acc'), ('loss')")
    connection.execute(
        "INSERT INTO run_metrics (run_id, name_id, count, nans, min, max)"
        " SELECT r.id, n.id, 1, 0, r.id / 40000.0, r.id / 40000.0 FROM runs r, metric_names n"
    )
    connection.execute("VACUUM ANALYZE")


@pytest.mark.parametrize("order", ["min.loss", "-max.loss"])
def test_an_order_with_an_index_reads_no_more_than_it_counts(connection, many, monkeypatch, order):
    monkeypatch.setattr(lists, "WINDOW", 100)
    look = lists.Look(RunFilter(), Sort.parse(order), None, False, (), 51)
    assert reads(connection, look, leading=True) == {"runs": 100, "run_metrics": 200, "metrics": 0}


@pytest.mark.parametrize(("condition", "complete"), [("min.loss < 4", True), ("rows = 0", False)])
def test_the_first_runs_are_all_where_a_condition_bounds_them(connection, measured, condition, complete):
    measured(loss=(1, 0, 3, 3, 3, 3))
    look = lists.Look(
        RunFilter(where=conditions.parse(condition)), Sort.parse("min.loss"), None, False, (), 51
    )
    seen = lists._look(connection, look, leading=True)
    assert (seen.ids, seen.filled, seen.complete) == ([1], False, complete)


def test_a_condition_that_few_meet_finds_them_by_the_index(connection, many):
    where = conditions.parse("min.loss < 0.001 and max.loss > 0")
    look = lists.Look(RunFilter(where=where), Sort.parse("first.loss"), None, False, (), 51)
    told = reads(connection, look)
    assert told["run_metrics"] <= 50
    assert told["metrics"] == 0


def reads(connection, look, **how):
    """Return how many rows of each table a page reads."""
    query, parameters = lists.page_query(look, **how)
    explained = sql.SQL("EXPLAIN (ANALYZE, TIMING off, FORMAT JSON) ") + query
    nodes = explain(connection, explained, parameters)
    return {table: scanned(nodes, table) for table in ("runs", "run_metrics", "metrics")}
