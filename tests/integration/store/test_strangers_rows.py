"""Rows that claim somebody else's job, and rows that nobody can mean: all goes on for all others."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import urllib.request
import uuid
from datetime import datetime, timezone

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg.types.json import Jsonb

from hpctrack import reconcile
from hpctrack.run.states import RunStatus
from hpctrack.store import database as store
from hpctrack.store.ingest import ingestion
from hpctrack.store.read import completions
from hpctrack.store.write import reconciled as stored
from hpctrack.store.write import registration
from hpctrack.stream.wire import journal
from tests.support.collectors import Collector
from tests.support.journals import Journal
from tests.support.sender import Sender, message, rows
from tests.support.slurm_says import T0, line, row

ARRAY = 20


@pytest.fixture
def submit(roles):
    """Register a submission as a user may who calls register_submission() by hand; returns runs by task."""

    def register(name, tasks=(-1,), user="", **run):
        submission = {"uuid": str(uuid.uuid4()), "cluster": "mini", "time": T0.isoformat(), "user_name": user}
        said = Jsonb({"experiment": "e", "job_name": "train", **run})
        secret = os.urandom(32)
        parameters = (Jsonb({k: v for k, v in submission.items() if v}), secret, said, list(tasks))
        return dict(roles.query(name, "SELECT * FROM register_submission(%s, %s, %s, %s)", *parameters))

    return register


@pytest.fixture
def one_pass(roles, slurm):
    def run():
        with store.connect(roles.of("collector")) as connection:
            report = reconcile.run_once(connection, slurm.backend(timeout=20), "mini")
        assert report.error is None
        return report

    return run


def states(roles, user) -> dict:
    query = "SELECT array_task_id, status::text FROM runs WHERE user_name = %s AND array_job_id = %s"
    return dict(roles.query("owner", query, roles.role(user), ARRAY))


#: How a stranger's row claims a task of bob's array.
CLAIMS = {
    "as a task of hers": lambda submit, _: submit("alice", [3], job_id=ARRAY),
    "as many tasks": lambda submit, _: submit("alice", range(9), job_id=ARRAY),
    "in the name of somebody without a login": lambda submit, _: submit("alice", [3], "bobs", job_id=ARRAY),
    "as a task under another number": lambda submit, alice: [
        alice("UPDATE runs SET array_job_id = 20, array_task_id = 3 WHERE id = %s", run)
        for run in submit("alice", [7], job_id=99).values()
    ],
    "as the tasks' own jobs": lambda submit, alice: [
        alice("UPDATE runs SET slurm_job_id = 103, array_job_id = 20, array_task_id = 3 WHERE id = %s", run)
        for run in submit("alice", [-1], job_id=103).values()
    ],
    "as two rows of one task": lambda submit, alice: [
        alice("UPDATE runs SET array_job_id = 20, array_task_id = 3 WHERE id = %s", run)
        for run in submit("alice", [5, 6], job_id=98).values()
    ],
}


@pytest.mark.parametrize("known", [(0, 1, 2), (3,)])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_tasks_of_somebodys_array_that_a_stranger_claims(roles, slurm, submit, one_pass, claim, first, known):
    def alice(command, *parameters):
        return roles.query("alice", command, *parameters)

    if first:
        claim(submit, alice)
    submit("bob", known, "bobs", job_id=ARRAY)
    if not first:
        claim(submit, alice)
    lines = [line(100 + task, JobArrayID=f"{ARRAY}_{task}", UserName="bobs") for task in range(5)]
    slurm.says("squeue", *lines, line(ARRAY, "PENDING", JobArrayID=f"{ARRAY}_[5-6]", UserName="bobs"))
    one_pass()
    expected = {**dict.fromkeys(range(5), "RUNNING"), 5: "PENDING", 6: "PENDING"}
    assert states(roles, "bob") == expected
    one_pass()
    assert states(roles, "bob") == expected
    slurm.says("squeue")
    slurm.says("sacct", *(row(f"{ARRAY}_{task}", JobIDRaw=str(100 + task), User="bobs") for task in range(7)))
    one_pass()
    assert states(roles, "bob") == dict.fromkeys(range(7), "COMPLETED")


#: What sacct takes.
_SINCE = re.compile(r"uts\d+")
_JOB = re.compile(r"[1-9]\d{0,9}(_\d{1,7})?")


@pytest.mark.parametrize("when", ["9999-12-31T23:59:59Z", "0001-01-01Z", "1970-01-01Z", "2100-01-01Z"])
def test_no_time_or_job_id_changes_what_is_asked_about_others(roles, slurm, submit, one_pass, when):
    """Also where all others have left the queue, or none has."""
    good = submit("bob", user="bobs", job_id=12)[-1]
    ids = (-1, 0, 2**63 - 1, -(2**63), 2**32 - 1)
    for number, job in itertools.product(range(2), ids):
        for run in submit("alice", [number], user="dave", job_id=1).values():
            column = ("slurm_job_id", "array_job_id")[number]
            roles.query("alice", f"UPDATE runs SET {column} = %s WHERE id = %s", job, run)
    for run in submit("alice", job_id=13).values():
        with contextlib.suppress(psycopg.errors.CheckViolation):  # nothing is made in the future
            roles.query("alice", "UPDATE runs SET time_created = %s WHERE id = %s", when, run)
        roles.query(
            "owner", "UPDATE submissions SET time = %s WHERE user_name = %s", when, roles.role("alice")
        )
    for task in (-1, 2**31 - 1, 5_000_000):
        for run in submit("alice", [5], job_id=ARRAY).values():
            roles.query("alice", "UPDATE runs SET array_task_id = %s WHERE id = %s", task, run)
    now = datetime.now(timezone.utc).timestamp()

    def asked():
        for _, argv, _ in slurm.calls("sacct"):
            since, jobs = argv[argv.index("-S") + 1], argv[argv.index("-j") + 1].split(",")
            assert _SINCE.fullmatch(since)
            assert all(map(_JOB.fullmatch, jobs)), jobs
            assert int(since[3:]) < now
            yield int(since[3:]), jobs

    slurm.says("squeue", line(12, UserName="bobs"))
    one_pass()
    list(asked())
    slurm.says("squeue")
    slurm.says("sacct", row(12, User="bobs"))
    one_pass()
    [since] = [since for since, jobs in asked() if "12" in jobs]
    assert T0.timestamp() - 3600 < since < T0.timestamp()
    assert roles.query("bob", "SELECT status::text FROM runs WHERE id = %s", good) == [("COMPLETED",)]


def test_nothing_is_made_in_the_future(roles, submit):
    """Neither by the word of who submits, nor in SQL: it would stand on top of all lists for ever."""
    record = roles.record("alice")
    record.submission["time"] = "2999-01-01T00:00:00Z"
    run = registration.register(roles.connect("alice"), record)[-1]
    known = "SELECT time_created <= now(), time <= now() FROM runs JOIN submissions ON uuid = submission"
    assert roles.query("alice", known) == [(True, True)]
    for statement in (
        f"UPDATE runs SET time_created = '2999-01-01Z' WHERE id = {run}",
        "UPDATE experiments SET time_created = now() + interval '2 days'",
        "INSERT INTO experiments (name, time_created) VALUES ('later', '9999-01-01Z')",
        "INSERT INTO runs (experiment_id, time_created) SELECT id, '9999-01-01Z' FROM experiments",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match="is in the future"):
            roles.query("alice", statement)
    assert roles.query("alice", "UPDATE runs SET time_created = '1999-01-01Z' WHERE id = %s", run) == 1


def test_a_state_that_is_refused_keeps_no_other_from_its_own(roles, slurm, submit, one_pass, caplog):
    """A site's own rule, or a value that PostgreSQL does not take back as it gave it."""
    runs = [submit("bob", user="bobs", job_id=job)[-1] for job in range(30, 36)]
    roles.query("owner", "ALTER TABLE transitions ADD CHECK (run_id % 3 > 0 OR status = 'PENDING')")
    slurm.says("squeue", *(line(job, UserName="bobs") for job in range(30, 36)))
    report = one_pass()
    states = dict(roles.query("owner", "SELECT id, status::text FROM runs"))
    assert states == {run: "PENDING" if run % 3 == 0 else "RUNNING" for run in runs}
    assert set(report.changed) == {run for run in runs if run % 3}
    assert {f"r{run} can't be corrected" in caplog.text for run in runs if run % 3 == 0} == {True}


def test_links_that_others_made_to_a_run_are_shown_up_to_a_bound(roles):
    mine, theirs = roles.submit("bob", "bobs"), roles.submit("alice", "alices")
    runs = "INSERT INTO run_relationships SELECT %s, 'spam' || n, %s FROM generate_series(1, 5000) n"
    roles.query("alice", runs, theirs, mine)
    roles.query("alice", runs.replace("run_", "experiment_"), 2, 1)
    roles.query("bob", "INSERT INTO run_relationships VALUES (%s, 'like', %s)", mine, theirs)
    roles.query("bob", "INSERT INTO experiment_relationships VALUES (1, 'like', 2)")
    for words in (("show", f"r{mine}"), ("experiment", "show", "bobs")):
        code, out, _ = roles.run("bob", *words, "--json")
        links = json.loads(out)["links"]
        assert (code, len(links)) == (0, 101)
        assert sum("like" in str(link) for link in links) == 1


# --- whatever a user may write into each column -------------------------------------------------------------

_DEEP = "[" * 900 + "]" * 900
_TIMES = (
    "infinity",
    "-infinity",
    "0001-01-01Z",
    "9999-12-31 23:59:59.999999Z",
    "4713-01-01 BC",
    "1970-01-01Z",
)
_TEXTS = (
    "", "x" * 100_000, "\x1b[2J\x1b]0;owned\x07", "a\nb\tc", "-1", "a,b", "%s{0}", "\u202ea\U000e0041",
    "=1+1", "None", "infinity", "r1", "*",
)  # fmt: skip
_JSON = (
    "null", "[]", '"x"', "1", "true", "{}", '{"a": {"b": [1, {"c": null}]}}', '{"": ""}', '{"n": 1e400}',
    '{"n": "NaN"}', '{"n": {"float": "nan"}}', '{"n": {"int": "zz"}}', '{"\\u001b[2J": "\\u001b[2J"}', _DEEP,
    json.dumps({"n": [0] * 20_000}), json.dumps({str(n): n for n in range(5000)}),
    '{"n": ' + "9" * 5000 + "}",
)  # fmt: skip
#: By PostgreSQL's type; what a table refuses is none of our business.
HOSTILE = {
    "boolean": ("true", "false", None),
    "bigint": ("-9223372036854775808", "-1", "0", "4294967296", "9223372036854775807", None),
    "integer": ("-2147483648", "-1", "65535", "2147483647", None),
    "double precision": ("NaN", "Infinity", "-Infinity", "1e308", "-1e308", "-0.0", "5e-324", None),
    "timestamp with time zone": (*_TIMES, None),
    "interval": ("-1 day", "0", "1000 years", "178000000 years", "1 mon -1 day", None),
    "text": (*_TEXTS, None),
    "jsonb": (*_JSON, None),
    "uuid": ("00000000-0000-0000-0000-000000000000", None),
    "USER-DEFINED": (*(status.value for status in RunStatus), None),
}
#: Tables in which users have rows of their own, and which those are.
TABLES = {
    "runs": "id = %(run)s",
    "attempts": "run_id = %(run)s",
    "run_latest": "run_id = %(run)s",
    "metrics": "run_id = %(run)s",
    "experiments": "id = %(experiment)s",
    "run_relationships": "from_id = %(run)s",
    "experiment_relationships": "from_id = %(experiment)s",
}


def columns(roles, table):
    query = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s"
    return roles.query("alice", query + " AND table_schema = 'hpctrack' ORDER BY ordinal_position", table)


def spoil(roles, submit, table):
    """Write everything into every column of a table, each into a row of its own; returns the runs."""
    spoilt = []
    alice = roles.connect("alice")
    numbers = itertools.count(100)
    for column, kind in columns(roles, table):
        for value in HOSTILE[kind]:
            number = next(numbers)
            run = submit("alice", user=roles.role("alice"), job_id=number, experiment=f"{table}-{number}")[-1]
            names = {"run": run, "value": value}
            [(names["experiment"],)] = alice.execute("SELECT experiment_id FROM runs WHERE id = %s", [run])
            for statement in _FILL:
                alice.execute(statement, names)
            try:
                alice.execute(f"UPDATE {table} SET {column} = %(value)s WHERE {TABLES[table]}", names)
            except psycopg.Error as error:
                assert error.sqlstate[:2] in ("22", "23", "54", "42"), error  # not a fault of the server's
            else:
                spoilt.append((run, number))
    return spoilt


_FILL = (
    "INSERT INTO attempts (run_id, attempt, status, time_started) VALUES (%(run)s, 0, 'RUNNING', now())",
    "INSERT INTO run_latest (run_id, rows, last, last_step) VALUES (%(run)s, 2, '{\"n\": 1}', 1)",
    "INSERT INTO metrics (run_id, step, extra) VALUES (%(run)s, 0, '{\"n\": 0}'), (%(run)s, 1, '{\"n\": 1}')",
    "INSERT INTO run_relationships VALUES (%(run)s, 'like', %(run)s)",
    "INSERT INTO experiment_relationships VALUES (%(experiment)s, 'like', %(experiment)s)",
)
_LISTS = (
    ("status", "-a", "--json", "-l", "100000"), ("status", "-a", "-l", "100000"),
    ("status", "-a", "--array", "-l", "100000"),
    ("status", "--sort", "elapsed"), ("status", "--sort", "-metrics.n"), ("status", "--sort", "tags.n"),
    ("status", "--where", "metrics.n < 1 and args.n < 1"), ("status", "--where", "tags.n > 1 or tags.n < 0"),
    ("status", "--csv", "--all"), ("status", "-a", "--count"), ("status", "--since", "1d"),
    ("status", "--format", "run,job,elapsed,limit,cpus,maxmem,cpueff,memeff,timeeff,tags,args,latest,rows"),
    ("experiment", "list"), ("experiment", "list", "--json"), ("prune", "--older-than", "1d", "--dry-run"),
)  # fmt: skip
_VIEWS = ("run_overview", "jobs", "attempt_overview", "attempt_resources", "metric_values", "metric_summary")


def piece_of(roles, run):
    [(submission, task, user)] = roles.query(
        "owner", "SELECT submission, task, user_name FROM runs WHERE id = %s", run
    )
    log = Journal(run, owner=user)
    lines = [journal.Row.of(0, step, None, None, {"n": 0.5}) for step in (None, 5, 6)]
    lines += [journal.Message(0, kind, '{"time": 1.7e9, "node": "n", "a": 1}') for kind in ("usage", "args")]
    return log.lines(*lines)._replace(submission=submission, task=task)


def take_in(roles, good, spoilt):
    """Store a batch with rows of all runs: bob's are all in at once, and of the others what can be."""
    pieces = [piece_of(roles, run) for run in (*spoilt, good)]
    with store.connect(roles.of("collector"), autocommit=True) as connection:
        ingest = ingestion.Ingestion(connection, reconcile.observe)
        outcome = ingest.store(pieces)
        assert outcome.watermarks[good, "a" * 16] == pieces[-1].end
    known = "SELECT rows, rejected FROM streams WHERE run_id = %s"
    assert roles.query("bob", known, good) == [(3, 0)]


def test_figures_for_prometheus_are_there_whatever_runs_are_called(roles, submit):
    """Of a collector that stores rows of runs whose every text is hostile."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    spoil(roles, submit, "runs")
    spoil(roles, submit, "experiments")
    record = roles.record("alice", 'x"\n# HELP a} 1\n\x1b[2J')
    run = registration.register(roles.connect("alice"), record)[-1]
    collector = Collector(roles.of("collector")._replace(collector_bind="127.0.0.1", metrics_port=port))
    try:
        sender = Sender(collector.address(), uuid.UUID(record.uuid), bytes.fromhex(record.secret))
        hostile = {"a} 1\n# TYPE b": 1, "x\u202e": "\x1b[2J"}
        sender.ship(b"journal1", [rows(0, **hostile), message('no"} 1\n', time=1)])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    finally:
        collector.end(signal.SIGKILL)
    assert {family.name.startswith(("hpctrack_", "process_", "python_")) for family in families} == {True}
    samples = {sample.name: sample.value for family in families for sample in family.samples}
    assert samples["hpctrack_stored_rows_total"] == 3
    assert roles.query("alice", "SELECT rows FROM run_latest WHERE run_id = %s", run) == [(3,)]


def _look_at_lists(roles, good: int) -> None:
    """Bob's and the owner's lists are as ever, with the good run among them."""
    for view in _VIEWS:
        roles.query("bob", f"SELECT * FROM {view}")
    for look in _LISTS:
        code, _, err = roles.run("bob", *look)
        assert (code, err) == (0, ""), (look, err)
    for name in ("bob", "owner"):
        code, out, err = roles.run(name, "status", "--json", "-l", "100000")
        assert (code, err) == (0, "")
        [listed] = [run for run in json.loads(out)["runs"] if run["id"] == good]
        assert listed["state"] == "RUNNING"


def _look_at_each(roles, good: int, spoilt: list[int], looks_each: int, folder) -> None:
    """No verb breaks over a spoilt run."""
    named = [f"r{run}" for run in (good, *spoilt)]
    looks = itertools.cycle((("show",), ("show", "--json"), ("metrics",), ("compare", f"r{good}")))
    told = [(*next(looks), name) for name in named for _ in range(looks_each)]
    for look in (*told, ("compare", *named[:40])):
        code, _, err = roles.run("owner", *look)
        assert "bug" not in err, (look, err)
        assert code in (0, 3, 65), (look, err)
    code, _, err = roles.run("owner", "export", *named, "-o", str(folder / "all.csv"))
    assert code == 0, err
    with completions.source(roles.of("owner")) as source:
        assert source.tags(named, "") is not None
        assert source.metrics(named, "") is not None


@pytest.mark.parametrize("table", TABLES)
def test_no_value_in_any_column_of_ones_own_harms_others(roles, slurm, submit, one_pass, tmp_path, table):
    good = submit("bob", user=roles.role("bob"), job_id=7, experiment="good")[-1]
    roles.query("bob", "INSERT INTO metrics (run_id, step, extra) VALUES (%s, 0, '{\"n\": 1}')", good)
    named = """UPDATE runs SET tags = '{"n": 1}', args = '{"n": 1}' WHERE id = %s"""
    roles.query("bob", named, good)
    spoilt = spoil(roles, submit, table)
    jobs = [line(job, UserName=roles.role("alice")) for _, job in spoilt]
    slurm.says("squeue", line(7, UserName=roles.role("bob")), *jobs)
    one_pass()
    assert roles.query("bob", "SELECT status::text FROM runs WHERE id = %s", good) == [("RUNNING",)]
    take_in(roles, good, [run for run, _ in spoilt])
    _look_at_lists(roles, good)
    _look_at_each(roles, good, [run for run, _ in spoilt], 2 if table == "runs" else 3, tmp_path)
    slurm.says("squeue")
    slurm.says(
        "sacct", row(7, User=roles.role("bob")), *(row(job, User=roles.role("alice")) for _, job in spoilt)
    )
    one_pass()
    assert roles.query("bob", "SELECT status::text FROM runs WHERE id = %s", good) == [("COMPLETED",)]


def test_rows_that_one_login_invents_hold_up_nobodys_pass(roles, submit):
    bobs = set(submit("bob", job_id=7).values())
    alices = set(submit("alice", range(60), job_id=ARRAY).values())
    with store.connect(roles.of("collector")) as connection:
        seen: set[int] = set()
        for _ in range(200):
            some = {run.run_id for run in stored.load_open(connection, "mini", most=20)}
            assert len(some & alices) == 20
            assert some - alices == bobs
            seen |= some
        assert seen >= alices, "each of them has its turn"
        assert {run.run_id for run in stored.load_open(connection, "mini")} == alices | bobs
        assert {run.run_id for run in stored.load_open(connection, "mini", only=bobs, most=1)} == bobs


LARGE = {
    "attempts": (
        "resources = jsonb_build_object('a', repeat('x', 100000))",
        """resources = ('{"a":' || repeat('[', 900) || repeat(']', 900) || '}')::jsonb""",
        *(f"{name} = repeat('x', 100000)" for name in ("reason", "node_list", "batch_host", "stderr_tail")),
    ),
    "transitions": ("reason = repeat('x', 100000)", "raw = repeat('x', 100000)"),
}


def test_attempts_and_timelines_hold_nothing_large(roles):
    """The reconciler reads all attempts of open runs in each pass."""
    run = roles.submit("alice")
    roles.query("alice", "INSERT INTO attempts (run_id, attempt) VALUES (%s, 0)", run)
    for table, values in LARGE.items():
        for value in values:
            with pytest.raises(psycopg.errors.CheckViolation, match="fitting_"):
                roles.query("owner", f"UPDATE {table} SET {value} WHERE run_id = {run}")


def test_jobs_that_one_login_invents_cost_few_questions(roles, slurm, submit, one_pass):
    submit("alice", job_id=5)
    roles.query(
        "owner",
        "WITH s AS (INSERT INTO submissions (uuid, user_name, cluster, time)"
        " SELECT gen_random_uuid(), user_name, 'mini', time FROM submissions, generate_series(1, 6000)"
        " RETURNING uuid, user_name)"
        " INSERT INTO runs (experiment_id, submission, task, cluster, user_name, slurm_job_id, kind)"
        " SELECT 1, uuid, -1, 'mini', user_name, 1000 + row_number() OVER (), 'batch' FROM s",
    )
    (bobs,) = submit("bob", user="bobs", job_id=7).values()
    slurm.says("sacct", row(7, User="bobs"))
    one_pass()
    assert roles.query("owner", "SELECT status::text FROM runs WHERE id = %s", bobs) == [("COMPLETED",)]
    assert len(slurm.calls("sacct")) == 11


def test_known_tasks_draw_no_ids(roles, submit):
    mine = submit("bob", range(50), job_id=ARRAY)
    with store.connect(roles.of("collector")) as connection:
        assert stored.add_tasks(connection, [(mine[0], task) for task in range(51)]) == [
            max(mine.values()) + 1
        ]
    assert roles.query("owner", "SELECT last_value FROM runs_id_seq") == [(max(mine.values()) + 1,)]
