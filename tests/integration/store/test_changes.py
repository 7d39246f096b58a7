"""Tags, notes, links, experiments and deletion, on real PostgreSQL; on a site for one's own runs only."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from hpctrack.cli import annotation
from hpctrack.store import database as store

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)


@pytest.fixture
def run(insert, connection):
    """Insert a run that is over; what is not said is as usual."""

    def make(experiment="digits", **values):
        row = connection.execute("SELECT id FROM experiments WHERE name = %s", [experiment]).fetchone()
        number = row[0] if row else insert("experiments", name=experiment)
        defaults = {"status": "COMPLETED", "time_created": NOW, "time_ended": NOW, "job_name": "train.sh"}
        return insert("runs", experiment_id=number, **{**defaults, **values})

    return make


@pytest.fixture
def array(insert, run):
    """Insert a job array of three tasks, with metrics and everything."""
    submission = uuid.uuid4()
    insert("submissions", uuid=submission, user_name="alice", time=NOW)
    made = [
        run(submission=submission, task=task, array_job_id=14, array_task_id=task, job_name="sweep")
        for task in range(3)
    ]
    for run_id in made:
        insert("metrics", run_id=run_id, step=1)
        insert("run_latest", run_id=run_id, rows=1)
        insert("transitions", run_id=run_id, status="COMPLETED", source="sacct")
    return made


def column(connection, name, ids):
    rows = connection.execute(f"SELECT {name} FROM runs WHERE id = ANY (%s) ORDER BY id", [ids]).fetchall()
    return [row[0] for row in rows]


# --- tags, notes, links ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "tags", "runs", "expected"),
    [
        (["14", "baseline"], [], ["14"], ["baseline"]),
        (["r7", "14_3", "a", "r8", "b"], [], ["r7", "14_3"], ["a", "r8", "b"]),
        (["train", "a", "b"], [], ["train"], ["a", "b"]),
        (["r7", "2024=x"], [], ["r7"], ["2024=x"]),
        (["r7", "r8"], ["2024"], ["r7", "r8"], ["2024"]),
        (["r7", "train"], ["r9", "a"], ["r7", "train"], ["r9", "a"]),
    ],
)
def test_runs_are_told_from_tags(words, tags, runs, expected):
    refs, found = annotation.split(tuple(words), tuple(tags))
    assert ([ref.text for ref in refs], found) == (runs, expected)


def test_what_is_written_by_hand_has_no_secrets_of_the_environment(cli, connection, run, monkeypatch):
    secret = "q7Xv-9zKw2mB"
    monkeypatch.setenv("MY_TOKEN", secret)
    first, second = run(), run()
    assert cli("tag", f"r{first}", f"a-{secret}", f"b={secret}")[0] == 0
    assert cli("note", f"r{first}", f"see {secret}")[0] == 0
    assert cli("link", f"r{first}", f"k-{secret}", f"r{second}")[0] == 0
    assert cli("experiment", "rename", "digits", f"x-{secret}")[0] == 0
    assert column(connection, "tags", [first]) == [{"a-***": True, "b": "***"}]
    assert column(connection, "comment", [first]) == ["see ***"]
    assert connection.execute("SELECT kind FROM run_relationships").fetchall() == [("k-***",)]
    assert connection.execute("SELECT name FROM experiments").fetchall() == [("x-***",)]
    assert cli("untag", f"r{first}", f"a-{secret}")[0] == 0
    assert cli("link", "--remove", f"r{first}", f"k-{secret}", f"r{second}")[0] == 0
    assert column(connection, "tags", [first]) == [{"b": "***"}]
    assert connection.execute("SELECT kind FROM run_relationships").fetchall() == []


def test_tags_come_and_go(cli, connection, array, run):
    other = run(tags={"old": None, "good": True})
    assert cli("tag", "14", f"r{other}", "good", "sweep=lr") == (
        0,
        "4 runs (r1-4): tagged good, sweep=lr\n",
        "",
    )
    assert column(connection, "tags", array) == [{"good": True, "sweep": "lr"}] * 3
    assert column(connection, "tags", [other]) == [{"old": None, "good": True, "sweep": "lr"}]
    code, out, _ = cli("untag", f"r{other}", "old", "sweep=anything", "unknown")
    assert (code, out) == (0, f"r{other}: not tagged old, sweep, unknown any more\n")
    assert column(connection, "tags", [other]) == [{"good": True}]
    assert column(connection, "tags", array[:1]) == [{"good": True, "sweep": "lr"}]


def test_a_tag_may_look_like_an_id(cli, connection, run):
    run_id = run()
    assert cli("tag", f"r{run_id}", "-T", "2024", "--tag", "r1=x")[0] == 0
    assert column(connection, "tags", [run_id]) == [{"2024": True, "r1": "x"}]


def test_a_note_is_set_and_removed(cli, connection, run, array):
    run_id = run(comment="old")
    assert cli("note", f"r{run_id}", " diverges: see\nissue ") == (0, f"r{run_id}: noted\n", "")
    assert column(connection, "comment", [run_id]) == ["diverges: see\nissue"]
    assert cli("note", f"r{run_id}", "") == (0, f"r{run_id}: note removed\n", "")
    assert column(connection, "comment", [run_id]) == [None]
    cli("note", "sweep", "all")
    assert column(connection, "comment", array) == ["all"] * 3


def test_runs_are_linked_once_and_unlinked(cli, connection, run):
    first, second = run(slurm_job_id=7), run(slurm_job_id=8)
    for _ in range(2):
        assert cli("link", "8", "evaluates", "7") == (0, f"r{second} evaluates r{first}\n", "")
    rows = connection.execute("SELECT from_id, kind, to_id FROM run_relationships").fetchall()
    assert rows == [(second, "evaluates", first)]
    assert f"r{second} evaluates r{first}" in cli("show", "7")[1]
    assert f"evaluates r{first}" in cli("show", "8")[1]
    assert cli("link", "8", "evaluates", "7", "--remove")[0] == 0
    code, _, err = cli("link", "8", "evaluates", "7", "--remove")
    assert code == 2
    assert f"no link r{second} evaluates r{first}" in err


# --- experiments -------------------------------------------------------------------------------------------


def test_experiments_are_listed_with_the_newest_last(cli, run, insert):
    run("late", time_created=NOW + timedelta(days=1))
    for status in ("FAILED", "COMPLETED", "COMPLETED"):
        run("early", status=status)
    insert("experiments", name="none yet", time_created=NOW - timedelta(days=9), tags={"a": True})
    code, out, _ = cli("experiment", "list")
    lines = out.splitlines()
    assert code == 0
    assert [line.split("  ")[0] for line in lines[1:]] == ["none yet", "early", "late"]
    assert "2 COMPLETED, 1 FAILED" in lines[2]
    (_, early, _) = json.loads(cli("experiment", "list", "--json")[1])["experiments"]
    assert (early["name"], early["runs"], early["counts"]) == ("early", 3, {"COMPLETED": 2, "FAILED": 1})


def test_no_experiments(cli):
    assert cli("experiment", "list") == (0, "No experiments yet: hpctrack sbatch -E NAME makes one.\n", "")


def test_an_experiment_is_shown(cli, run, insert, connection):
    made = [run("sweep") for _ in range(12)]
    insert("run_latest", run_id=made[0], rows=3)
    other = insert("experiments", name="pilot")
    connection.execute("INSERT INTO experiment_links VALUES (1, 'follows', %s)", [other])
    code, out, _ = cli("experiment", "show", "sweep")
    assert code == 0
    for said in ("12: 12 COMPLETED", "3 rows", "sweep follows pilot", f"r{made[-1]}", "the newest 10 of 12"):
        assert said in out
    assert f"r{made[0]} " not in out
    told = json.loads(cli("experiment", "show", "sweep", "--json")[1])
    assert (told["runs"], told["links"], len(told["newest_runs"])) == (12, ["sweep follows pilot"], 10)
    assert told["rows"] == 3


def test_an_experiment_is_renamed(cli, run, connection):
    run("old")
    run("taken")
    assert cli("experiment", "rename", "old", "new name") == (0, "old is new name now\n", "")
    assert cli("experiment", "show", "new name")[0] == 0
    code, _, err = cli("experiment", "rename", "new name", "taken")
    assert (code, err) == (2, "hpctrack: there is an experiment 'taken' already\n")
    assert cli("experiment", "rename", "taken", " ")[0] == 2


def test_an_experiment_is_deleted_with_its_runs(cli, run, connection):
    kept = run("kept")
    for _ in range(3):
        run("gone")
    code, out, _ = cli("experiment", "delete", "gone", "--yes")
    assert (code, out.splitlines()[-1]) == (0, "deleted gone with 3 runs")
    assert connection.execute("SELECT name FROM experiments").fetchall() == [("kept",)]
    assert connection.execute("SELECT id FROM runs").fetchall() == [(kept,)]


# --- deletion ----------------------------------------------------------------------------------------------


def left(connection, table):
    return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_runs_are_deleted_with_all_that_belongs_to_them(cli, connection, array, run):
    other = run(slurm_job_id=9)
    code, out, err = cli("delete", "14_1", "9", "--yes")
    assert (code, err) == (0, "")
    assert out == "digits: 2 runs (r2,4) with 1 row of metrics\ndeleted 2 runs\n"
    assert column(connection, "id", [*array, other]) == [array[0], array[2]]
    assert left(connection, "submissions") == 1
    assert json.loads(cli("delete", "14", "--yes", "--json")[1]) == {"deleted": 2}
    for table in ("runs", "submissions", "metrics", "run_latest", "transitions"):
        assert left(connection, table) == 0


def test_many_runs_are_deleted(cli, connection, run):
    run("many")
    connection.execute(
        "INSERT INTO runs (experiment_id, status, time_ended)"
        " SELECT 1, 'FAILED', now() FROM generate_series(1, 450)"
    )
    assert cli("experiment", "delete", "many", "-y")[1].endswith("deleted many with 451 runs\n")
    assert left(connection, "runs") == 0


@pytest.mark.parametrize("live", [{"submission": True}, {"status": "RUNNING"}])
def test_live_runs_are_not_deleted_unless_forced(cli, connection, run, insert, live):
    over = run()
    if "submission" in live:
        live = {"submission": uuid.uuid4(), "task": -1}
        insert("submissions", uuid=live["submission"], user_name="alice", time=NOW)
    run_id = run(**live, time_ended=None)
    for arguments in (["delete", f"r{over}", f"r{run_id}"], ["experiment", "delete", "digits"]):
        code, _, err = cli(*arguments, "--yes")
        assert code == 2
        assert f"not over yet: r{run_id}; hpctrack cancel ends jobs" in err
    assert left(connection, "runs") == 2
    code, out, _ = cli("delete", f"r{over}", f"r{run_id}", "--yes", "--force")
    assert (code, out.splitlines()[0]) == (0, "digits: 2 runs (r1-2) with 0 rows of metrics, 1 not over")
    assert left(connection, "runs") == 0


def test_nobody_is_asked_without_a_terminal(cli, connection, run):
    run_id = run()
    for arguments in (["delete", f"r{run_id}"], ["experiment", "delete", "digits"]):
        code, _, err = cli(*arguments)
        assert (code, err) == (2, "hpctrack: nobody to ask: say --yes\n")
    assert left(connection, "runs") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["tag", "r99", "x"], 3, "no run r99"),
        (["tag", "r1"], 2, "no tag is given"),
        (["tag", "r1", "=x"], 2, "a tag has a name"),
        (["tag"], 2, "Missing argument"),
        (["untag", "nothing", "x"], 3, "no run's name begins with 'nothing'"),
        (["note", "r1"], 2, "Missing argument 'TEXT'"),
        (["note", "r1", "two", "words"], 2, "unexpected extra argument"),
        (["link", "r1", " ", "r1"], 2, "KIND says what the link means"),
        (["link", "r1", "x", "r2"], 3, "no run r2"),
        (["delete"], 2, "Missing argument 'RUN...'"),
        (["delete", "5"], 3, "no tracked run of job 5"),
        (["experiment", "show", "x"], 3, "no experiment 'x': there are: digits (hpctrack experiment list)"),
        (["experiment", "rename", "x", "y"], 3, "no experiment 'x'"),
        (["experiment", "delete", "x", "-y"], 3, "no experiment 'x'"),
        (["experiment", "vanish"], 2, "No such command 'vanish'"),
    ],
)
def test_failures_are_one_line(cli, run, arguments, code, said):
    run()
    exit_code, out, err = cli(*arguments)
    assert (exit_code, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["tag", "r1", "x"], ["untag", "r1", "x"], ["note", "r1", "x"], ["link", "r1", "x", "r1"],
        ["delete", "r1", "-y"], ["cancel", "r1"], ["rerun", "r1"], ["experiment", "list"],
        ["experiment", "show", "x"], ["experiment", "rename", "x", "y"], ["experiment", "delete", "x", "-y"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_without_postgresql_each_verb_says_so(cli, monkeypatch, arguments):
    monkeypatch.setenv("HPCTRACK_DSN_PORT", "1")
    code, out, err = cli(*arguments)
    assert (code, out) == (69, "")
    assert err.startswith("hpctrack: PostgreSQL can't be reached")
    assert err.count("\n") == 1


# --- on a site ---------------------------------------------------------------------------------------------


def test_users_change_only_what_is_theirs(roles):
    roles.query("alice", "INSERT INTO experiments (name) VALUES ('hers')")
    for name in ("alice", "bob"):
        roles.query(
            name,
            "INSERT INTO runs (experiment_id, status, time_ended, job_name) VALUES (1, 'FAILED', now(), %s)",
            name,
        )
    alice, bob = roles.role("alice"), roles.role("bob")
    assert roles.run("alice", "tag", "r1", "x")[0] == 0
    assert roles.run("alice", "note", "r1", "x")[0] == 0
    assert roles.run("alice", "link", "r1", "beats", "r2")[0] == 0
    for arguments in (
        ["tag", "r1", "r2", "y"], ["untag", "r2", "y"], ["note", "r2", "y"], ["link", "r2", "beats", "r1"],
        ["delete", "r1", "r2", "-y"], ["experiment", "delete", "hers", "-y"],
    ):  # fmt: skip
        code, _, err = roles.run("alice", *arguments)
        assert (code, err) == (77, f"hpctrack: r2 belongs to {bob}: only they may change it\n"), arguments
    for arguments in (["rename", "hers", "mine"], ["delete", "hers", "-y"]):
        code, _, err = roles.run("bob", "experiment", *arguments)
        assert (code, err) == (
            77, f"hpctrack: experiment 'hers' belongs to {alice}: only they may change it\n",
        )  # fmt: skip
    code, _, err = roles.run("reader", "tag", "r1", "x")
    assert code == 77
    rows = roles.query("reader", "SELECT tags, comment FROM run_overview ORDER BY id")
    assert rows == [({"x": True}, "x"), (None, None)]
    assert roles.run("bob", "delete", "bob", "-y")[0] == 0
    assert roles.run("alice", "experiment", "delete", "hers", "-y")[0] == 0
    assert roles.query("reader", "SELECT count(*) FROM run_overview") == [(0,)]


def test_a_run_that_another_session_holds_is_one_line(cli, database, run):
    run_id = run()
    with store.connect(database) as session:
        session.execute("DELETE FROM runs WHERE id = %s", [run_id])
        code, out, err = cli("tag", f"r{run_id}", "best")
        session.rollback()
    assert (code, out, err.count("\n")) == (75, "", 1)
    assert "another session holds what this needs" in err
