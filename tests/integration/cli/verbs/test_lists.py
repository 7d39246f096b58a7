"""Lists of runs: filters, conditions, orders, pages, folded arrays, on real PostgreSQL."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from psycopg import sql

from hpctrack.run import conditions, fields
from hpctrack.run.states import RunStatus
from hpctrack.store import statements
from hpctrack.store.read import lists, queries
from hpctrack.store.read.filters import RunFilter, Sort

NOW = datetime.now(timezone.utc)


@pytest.fixture
def array(run, insert):
    """Insert a job array: a run for each task, in the states given; returns their ids."""

    def make(job, *statuses, **values):
        name = uuid.uuid4()
        insert("submissions", uuid=name, user_name="alice", time=NOW)
        return [
            run(submission=name, task=task, array_job_id=job, array_task_id=task, status=status, **values)
            for task, status in enumerate(statuses)
        ]

    return make


@pytest.fixture
def listed(connection):
    """List ids of runs, the newest first."""

    def call(condition=None, **which):
        if condition is not None:
            which["where"] = conditions.parse(condition)
        return [row.id for row in lists.list_runs(connection, RunFilter(**which))]

    return call


def test_lists_are_pages_by_rising_age(connection, run):
    made = [run() for _ in range(7)]
    first = lists.list_runs(connection, RunFilter(), limit=3)
    second = lists.list_runs(connection, RunFilter(), limit=3, after=first[-1].id)
    last = lists.list_runs(connection, RunFilter(), limit=3, after=second[-1].id)
    assert [row.id for row in (*first, *second, *last)] == made[::-1]
    assert [row.id for row in lists.iterate_runs(connection, RunFilter())] == made[::-1]


def test_filters(connection, run, listed):
    old = run(status="FAILED", time_created=NOW - timedelta(days=3), tags={"best": True, "seed": "3"})
    bobs = run(user_name="bob", partition="gpu", tags={"best": True, "seed": "4"}, job_name="eval_1")
    other = run(experiment="other", status="PENDING", job_name="evalX1")
    assert listed() == [other, bobs, old]
    assert listed(statuses=(RunStatus.FAILED, RunStatus.PENDING)) == [other, old]
    assert listed(not_statuses=(RunStatus.FAILED, RunStatus.PENDING)) == [bobs]
    assert listed(users=("bob", "carol")) == [bobs]
    assert listed(experiment="other") == [other]
    assert listed(experiment="nothing") == []
    assert listed(partitions=("gpu", "main")) == [bobs]
    assert listed(since=NOW - timedelta(days=1)) == [other, bobs]
    assert listed(until=NOW - timedelta(days=1)) == [old]
    assert listed(ids=(old, bobs), users=("alice",)) == [old]
    assert listed(ids=()) == []
    assert listed(tags=(("best", None),)) == [bobs, old]
    assert listed(tags=(("best", None), ("seed", "3"))) == [old]
    assert listed(name="eval_*") == [bobs]
    assert lists.count_runs(connection, RunFilter(users=("alice",))) == {
        RunStatus.FAILED: 1,
        RunStatus.PENDING: 1,
    }


CONDITIONS = {
    "args.lr < 0.01": "a",
    "args.lr >= 0.01": "bc",
    "not args.lr < 0.01": "bc",
    "args.lr != 0.5": "ab",
    "args.lr in (0.5, 0.001)": "ac",
    "args.lr not in (0.5, 0.001)": "b",
    "args.lr is null": "d",
    "args.lr is not null": "abcx",
    "args.lr": "abcx",
    "not args.lr": "d",
    "args.lr = high": "x",
    "args.lr > 0 or args.lr = high": "abcx",
    "args.opt.name = adam": "ab",
    "args.opt.name != adam": "",
    "args.opt.name like 'a%'": "ab",
    "args.amp = true": "a",
    "args.amp != true": "b",
    "args.amp": "a",
    "not args.amp": "bcdx",
    "tags.seed > 9": "b",
    "tags.seed = 10": "b",
    "tags.seed = '10'": "b",
    "tags.best": "a",
    "metrics.loss < 0.3": "ad",
    "metrics.loss <= 1e-25": "ad",
    "metrics.loss = -inf": "d",
    "metrics.loss > 0.3": "c",
    "metrics.loss > -1e300": "abc",
    "not metrics.loss < 0.3": "bc",
    "metrics.loss != 0.3": "acd",
    "metrics.loss = nan": "x",
    "metrics.loss != nan": "abcd",
    "metrics.loss": "abcdx",
    "metrics.missing > 0": "",
    "state = failed and name = 'train.sh' or run = 1": "ad",
    "elapsed > 1h": "b",
    "limit is null": "acdx",
    "submitted > 1d": "abcx",
    "exit_code = 3": "d",
    "not exit_code = 3": "a",
    "exit_code in (0, 3.0)": "ad",
    "experiment like 'dig%' and user = alice": "abcdx",
    "experiment not like 'dig%'": "",
}


@pytest.fixture
def five(run):
    """Insert five runs, a to d and x; returns their letters by id."""
    tiny, minus = {"float": "1e-25"}, {"float": "-inf"}
    made = [
        run(args={"lr": 0.001, "opt": {"name": "adam"}, "amp": True}, tags={"best": True, "seed": "2"},
            exit_code=0, latest={"last": {"loss": tiny}}),
        run(args={"lr": 0.01, "opt.name": "adam", "amp": False}, tags={"seed": "10"},
            time_started=NOW - timedelta(hours=2), time_limit=timedelta(hours=3),
            latest={"last": {"loss": 0.3}}),
        run(args={"lr": 0.5}, latest={"last": {"loss": {"float": "1e+300"}}}),
        run(args={"lr": None}, status="FAILED", exit_code=3, time_created=NOW - timedelta(days=2),
            latest={"last": {"loss": minus}}),
        run(args={"lr": "high"}, latest={"last": {"loss": {"float": "nan"}}}),
    ]  # fmt: skip
    return dict(zip(made, "abcdx", strict=True))


def test_conditions(five, listed):
    found = {text: "".join(sorted(five[run_id] for run_id in listed(text))) for text in CONDITIONS}
    assert found == CONDITIONS


@pytest.mark.parametrize("name", ["'; DROP TABLE runs; --", "%s", "%(p0)s", "{0}", '"', "a\\"])
def test_what_a_user_writes_is_never_run(run, listed, name):
    wanted = run(args={name: 1}, tags={name: True}, job_name=name)
    run()
    quote = "'" if '"' in name else '"'
    assert listed(f"args.{quote}{name}{quote} = 1") == [wanted] if quote not in name else True
    assert listed(tags=((name, None),)) == [wanted]
    assert listed(users=(name,)) == []
    literal = name.replace("'", "''")
    assert listed(f"name = '{literal}'") == [wanted]


def test_pages_in_any_order_join_up(connection, run):
    values = [0.5, None, 0.1, {"float": "nan"}, 0.1, 7, {"float": "inf"}]
    made = [run(latest={"last": {} if value is None else {"loss": value}}) for value in values]
    expected = {
        False: [made[4], made[2], made[0], made[5], made[6], made[3], made[1]],
        True: [made[6], made[5], made[0], made[4], made[2], made[3], made[1]],
    }
    for descending, wanted in expected.items():
        sort = Sort(fields.parse("metrics.loss"), descending=descending)
        ids, after = [], None
        while True:
            page = lists.fetch_page(connection, RunFilter(), 2, after, sort)
            ids += [line.id for line in page.lines]
            assert page.total == len(made)
            if not page.more:
                break
            after = ids[-1]
        assert ids[:5] == wanted[:5]
        assert sorted(ids) == made


@pytest.mark.parametrize("name", [*fields.ASKED, "args.lr", "tags.a", "metrics.loss"])
def test_every_field_can_be_sorted_and_paged_by(connection, run, name):
    made = {run(args={"lr": index}, tags={"a": str(index)}) for index in range(3)}
    sort = Sort(fields.parse(name), descending=False)
    first = lists.fetch_page(connection, RunFilter(), 2, None, sort)
    last = lists.fetch_page(connection, RunFilter(), 2, first.lines[-1].id, sort)
    assert {line.id for line in (*first.lines, *last.lines)} == made


def test_arrays_are_one_line(connection, run, array):
    before = run()
    tasks = array(
        14, "COMPLETED", "RUNNING", "COMPLETED", "FAILED", "COMPLETED",
        time_started=NOW - timedelta(hours=1), latest={"rows": 5, "lost": 1},
    )  # fmt: skip
    behind = run()
    page = lists.fetch_page(connection, RunFilter(), fold=True)
    assert [line.id for line in page.lines] == [behind, tasks[-1], before]
    line = page.lines[1]
    assert (line.ids[0], line.job, line.rows, line.lost) == (tasks[0], "14_[0-4]", 25, 5)
    assert line.counts == {RunStatus.COMPLETED: 3, RunStatus.FAILED: 1, RunStatus.RUNNING: 1}
    assert line.time_started == NOW - timedelta(hours=1)
    assert line.time_ended is None
    assert page.counts == {RunStatus.COMPLETED: 3, RunStatus.RUNNING: 3, RunStatus.FAILED: 1}
    assert (page.counted, page.more) == (True, False)


def test_a_folded_array_has_just_the_tasks_that_match(connection, array):
    tasks = array(14, "COMPLETED", "RUNNING", "FAILED", "COMPLETED", time_ended=NOW)
    page = lists.fetch_page(connection, RunFilter(statuses=(RunStatus.COMPLETED,)), fold=True)
    (line,) = page.lines
    assert (line.job, line.time_ended) == ("14_[0,3]", NOW)
    (single,) = lists.fetch_page(connection, RunFilter(statuses=(RunStatus.FAILED,)), fold=True).lines
    assert isinstance(single, queries.RunRow)
    assert single.id == tasks[2]


def test_a_folded_array_of_which_no_task_runs_stands_still(connection, array):
    """Tasks that wait, or were cancelled before they started, do not count."""
    hour = timedelta(hours=1)
    array(14, "COMPLETED", "PENDING", time_started=NOW - 5 * hour, time_ended=NOW - 4 * hour)
    (line,) = lists.fetch_page(connection, RunFilter(), fold=True).lines
    assert (line.time_ended, line.elapsed(NOW)) == (NOW - 4 * hour, hour)
    connection.execute("UPDATE runs SET time_started = NULL, time_ended = NULL WHERE status = 'PENDING'")
    (line,) = lists.fetch_page(connection, RunFilter(), fold=True).lines
    assert (line.time_ended, line.elapsed(NOW)) == (None, hour)
    connection.execute(
        "UPDATE runs SET status = 'CANCELLED', time_ended = %s WHERE status = 'PENDING'", (NOW,)
    )
    (line,) = lists.fetch_page(connection, RunFilter(), fold=True).lines
    assert (line.time_ended, line.elapsed(NOW)) == (NOW, hour)
    connection.execute("UPDATE runs SET status = 'SUSPENDED', time_ended = NULL, time_stopped = time_started"
                       " + interval '2 hours' WHERE status = 'COMPLETED'")  # fmt: skip
    (line,) = lists.fetch_page(connection, RunFilter(), fold=True).lines
    assert line.elapsed(NOW) == 2 * hour
    connection.execute("UPDATE runs SET status = 'RUNNING', time_stopped = NULL WHERE status = 'SUSPENDED'")
    (line,) = lists.fetch_page(connection, RunFilter(), fold=True).lines
    assert line.elapsed(NOW) == 5 * hour


def test_pages_of_folded_arrays_show_each_once(connection, run, array, monkeypatch):
    first_array = array(1, *["RUNNING"] * 6)
    between = run()
    two = array(2, *["PENDING"] * 6)
    last = run()
    # The window holds less than one array, as it would be with an array of tens of thousands.
    monkeypatch.setattr(lists, "WINDOW", 4)
    ids, after = [], None
    while True:
        page = lists.fetch_page(connection, RunFilter(), 1, after, fold=True)
        ids += [line.id for line in page.lines]
        if not page.more:
            break
        after = ids[-1]
    assert ids == [last, two[-1], between, first_array[-1]]
    everything = lists.fetch_page(connection, RunFilter(), 4, fold=True)
    assert [line.id for line in everything.lines] == ids
    assert [len(line.tasks) for line in everything.lines if isinstance(line, lists.ArrayRow)] == [6, 6]


def test_a_page_that_the_newest_runs_fill_is_counted_among_them(connection, run, monkeypatch):
    monkeypatch.setattr(lists, "WINDOW", 5)
    for number in range(9):
        run(status="FAILED" if number == 0 else "RUNNING")
    page = lists.fetch_page(connection, RunFilter(), 3)
    assert (page.total, page.counted) == (5, False)
    assert len(page.lines) == 3
    rare = lists.fetch_page(connection, RunFilter(statuses=(RunStatus.FAILED,)), 3)
    assert (rare.total, rare.counted, [line.id for line in rare.lines]) == (1, True, [1])


def test_special_values_come_back(connection, run):
    run_id = run(
        latest={"last": {"a": {"float": "nan"}, "b": {"int": str(2**70)}, "c": 1.5, "d": {"float": "-inf"}}}
    )
    last = queries.get_run(connection, run_id).last
    assert str(last.pop("a")) == "nan"
    assert last == {"b": 2**70, "c": 1.5, "d": float("-inf")}


@pytest.mark.parametrize("binary", [False, True])
def test_what_python_can_not_hold_is_unknown_or_stays_text(connection, binary):
    query = """SELECT 'infinity'::timestamptz, '200000-01-01'::timestamptz, interval '170000000 years',
               ('{"n": ' || repeat('9', 5000) || '}')::jsonb,
               (repeat('[', 2000) || repeat(']', 2000))::jsonb,
               ('{"n": ' || repeat('[', 2000) || repeat(']', 2000) || '}')::jsonb"""
    row = connection.execute(query, binary=binary).fetchone()
    deep = "[" * 2000 + "]" * 2000
    assert row[:4] == (None, None, None, {"n": "9" * 5000})
    try:
        assert row[4:] == (json.loads(deep), {"n": json.loads(deep)})
    except RecursionError:  # newer Pythons go deeper
        assert row[4:] == (deep, {"": f'{{"n": {deep}}}'})


# --- plans --------------------------------------------------------------------------------------------------


def plan_nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from plan_nodes(child)


def explain(connection, query, params):
    (((tree,),),) = connection.execute(query, params).fetchall()
    return list(plan_nodes(tree["Plan"]))


def explain_page(connection, look, *, newest=False):
    query, params = lists.page_query(look, newest=newest)
    explained = sql.SQL("EXPLAIN (ANALYZE, TIMING off, FORMAT JSON) ") + query
    nodes = explain(connection, explained, params)
    assert "metrics" not in {node.get("Relation Name") for node in nodes}
    return nodes


@pytest.fixture
def many(connection):
    connection.execute("INSERT INTO experiments (name) SELECT 'e' || i FROM generate_series(1, 20) i")
    connection.execute(
        "INSERT INTO runs (experiment_id, slurm_job_id, user_name, status, args, time_created, time_ended)"
        " SELECT 1 + i % 20, i, 'u' || i % 50,"
        " CASE WHEN i % 4000 = 0 THEN 'RUNNING' ELSE 'COMPLETED' END::runstatus,"
        " jsonb_build_object('lr', i % 1000 / 1000.0), now() - interval '1 minute' * (60000 - i), now()"
        " FROM generate_series(1, 60000) i"
    )
    connection.execute(
        "INSERT INTO run_latest (run_id, last) SELECT id, jsonb_build_object('val_loss', id % 777 / 777.0)"
        " FROM runs"
    )
    connection.execute("VACUUM ANALYZE")


def look(condition=None, **which):
    tree = None if condition is None else conditions.parse(condition)
    return lists.Look(RunFilter(where=tree, **which), lists.NEWEST_FIRST, None, True, (), 51)


def scanned(nodes, relation):
    """Return how many rows of a table were read."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes
        if node.get("Relation Name") == relation
    )


def test_a_default_page_reads_no_more_runs_than_it_counts(connection, many):
    nodes = explain_page(connection, look(), newest=True)
    assert scanned(nodes, "runs") <= lists.WINDOW + 10
    assert scanned(nodes, "run_latest") == 0


def test_a_condition_that_few_meet_reads_each_table_once(connection, many):
    nodes = explain_page(connection, look("args.lr < 0.002 and metrics.val_loss < 0.003"))
    # And their arguments, which stand in a table of their own for PostgreSQL (run_facts).
    assert scanned(nodes, "runs") <= 2 * 60_000
    assert scanned(nodes, "run_latest") <= 60_000
    filters = " ".join(str(node.get("Filter")) for node in nodes)
    assert "metric_number" not in filters.partition("val_loss")[0]


def test_a_condition_is_tried_on_the_newest_runs_first(connection, many):
    # Several workers read tables of this size faster as a whole; those of a million runs they don't.
    connection.execute("SET max_parallel_workers_per_gather = 0")
    nodes = explain_page(connection, look("args.lr < 0.5 and metrics.val_loss < 0.003"), newest=True)
    # And once more by their index, to see whether there are others.
    assert scanned(nodes, "runs") <= 40_010 + 60_000
    assert scanned(nodes, "run_latest") <= 20_010


def test_indexes_serve_what_is_asked_most(connection, many):
    for which in (
        {"statuses": (RunStatus.RUNNING,)},
        {"users": ("u3",)},
        {"experiment": "e3"},
        {"since": NOW - timedelta(minutes=100)},
        {"ids": (3, 4)},
    ):
        assert scanned(explain_page(connection, look(**which)), "runs") < 6000, which


def test_a_job_is_found_by_an_index(connection, many):
    nodes = explain(connection, b"EXPLAIN (FORMAT JSON) " + statements.statement("find_job"), {"job_id": 77})
    scans = [node for node in nodes if node.get("Relation Name") == "runs"]
    assert scans
    assert all(node["Node Type"] != "Seq Scan" for node in scans)
