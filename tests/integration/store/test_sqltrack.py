"""The published client of SQLTrack, unmodified, on our tables, as a user under row-level security."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys

import psycopg
import pytest
import sqltrack

from hpctrack.run.states import Ends, RunStatus
from tests.support.roles import PASSWORD

_COLUMNS = (
    "BEGIN; ALTER TABLE metrics ADD COLUMN loss float, ADD COLUMN top1 float, ADD COLUMN note text; END;"
)


def run_sqltrack(roles, name: str, *arguments: str, cwd=None) -> subprocess.CompletedProcess[str]:
    """Run SQLTrack's command line as a role."""
    dsn = {**roles.of(name).dsn, "schema": "hpctrack"}
    names = {f"SQLTRACK_DSN_{key.upper()}": value for key, value in dsn.items()}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def columns(roles, tmp_path):
    """The metrics' columns as users of SQLTrack declare them, with its own command."""
    file = tmp_path / "v001.sql"
    file.write_text(_COLUMNS)
    done = run_sqltrack(roles, "owner", "-m", "sqltrack", "setup", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["Schema: hpctrack", "(OK) base.sql", "(NEW) v001.sql"]
    return file


@pytest.fixture
def clients(roles, columns, tmp_path, monkeypatch):
    """SQLTrack's client by role."""
    monkeypatch.chdir(tmp_path)
    return lambda name: sqltrack.Client(**{**roles.of(name).dsn, "password": PASSWORD}, schema="hpctrack")


def test_setup_files_are_in_one_ledger(roles, columns):
    again = run_sqltrack(roles, "owner", "-m", "sqltrack", "setup", str(columns))
    assert again.stdout.splitlines()[1:] == ["(OK) base.sql", "(OK) v001.sql"]
    code, out, _ = roles.run("owner", "setup", str(columns))
    assert (code, out.splitlines()[-1]) == (0, "  file v001.sql: applied before")
    base = os.path.join(os.path.dirname(sqltrack.__file__), "sql", "base.sql")
    code, out, _ = roles.run("owner", "setup", base)
    assert (code, out.splitlines()[-1]) == (0, "  file base.sql: applied before")


def test_an_experiment_its_tags_comment_and_links(roles, clients):
    first = sqltrack.Experiment(clients("alice"), name="first", comment="c")
    second = sqltrack.Experiment(clients("alice"), name="second")
    assert sqltrack.Experiment(clients("alice"), name="first").id == first.id
    assert sqltrack.Experiment(clients("alice"), experiment_id=first.id).id == first.id
    first.set_tags("a", "b")
    first.add_tags("c")
    first.remove_tags("a")
    first.set_name("renamed")
    for kind in ("like", "unlike", "like"):
        first.add_link(kind, second.id)
    first.remove_link("unlike", second.id)
    rows = roles.query("reader", "SELECT name, comment, tags FROM experiments ORDER BY id")
    assert rows == [("renamed", "c", {"b": True, "c": True}), ("second", None, None)]
    linked = [(first.id, "like", second.id)]
    assert roles.query("reader", "SELECT * FROM experiment_relationships") == linked
    assert roles.query("reader", "SELECT * FROM experiment_links") == linked


def test_a_run_from_its_start_to_its_end(roles, clients):
    experiment = sqltrack.Experiment(clients("alice"), name="e")
    run = experiment.get_run(comment="c", tags=["a"], args={"lr": 0.1, "old": 1}, env={"A": "1"})
    other = experiment.get_run()
    with run.track():
        assert roles.query(
            "alice", "SELECT status::text, time_started IS NULL FROM runs WHERE id = %s", run.id
        ) == [("RUNNING", False)]
        for step in range(3):
            run.add_metrics(step=step, progress=step / 3, loss=1 / (step + 1))
        run.add_metrics(step=2, progress=2 / 3, top1=float("nan"), note="again")
        run.add_tags("b", "z")
        run.remove_tags("z")
        run.add_args({"lr": 0.1, "layers": 4})
        run.add_env({"B": "2"})
        run.add_link("like", other.id)
        run.add_link("unlike", other.id)
        run.remove_link("unlike", other.id)
    [row] = roles.query(
        "alice", "SELECT status::text, comment, tags, args, env, user_name, time_ended >= time_started,"
        " time_updated IS NOT NULL FROM run_overview WHERE id = %s", run.id,
    )  # fmt: skip
    assert row == (
        "COMPLETED", "c", {"a": True, "b": True}, {"lr": 0.1, "layers": 4}, {"A": "1", "B": "2"},
        roles.role("alice"), True, True,
    )  # fmt: skip
    rows = roles.query("reader", "SELECT step, loss, top1::text, note FROM metrics ORDER BY step")
    assert rows == [(0, 1.0, None, None), (1, 0.5, None, None), (2, 1 / 3, "NaN", "again")]
    assert roles.query("reader", "SELECT * FROM run_relationships") == [(run.id, "like", other.id)]


def test_hpctrack_shows_such_runs_like_any_other(roles, clients):
    experiment = sqltrack.Experiment(clients("alice"), name="e")
    run = experiment.get_run(args={"lr": 0.1})
    with run.track():
        run.add_metrics(step=1, loss=0.5, top1=0.75, note="first")
        run.add_metrics(step=2, progress=0.5, loss=math.nan)
        [(step, last)] = roles.query("reader", "SELECT last_step, last FROM jobs WHERE state = 'RUNNING'")
        assert (step, last) == (2, {"loss": {"float": "nan"}, "top1": 0.75, "note": "first"})
        run.add_metrics(step=3, loss=0.25)
    code, out, err = roles.run("bob", "status", "--allusers", "--json")
    assert (code, err) == (0, "")
    [told] = json.loads(out)["runs"]
    assert (told["experiment"], told["state"], told["user"]) == ("e", "COMPLETED", roles.role("alice"))
    assert told["kind"] == "client"
    for condition, count in (("kind = client", 1), ("kind != client", 0)):
        assert (
            len(json.loads(roles.run("bob", "status", "-a", "--json", "--where", condition)[1])["runs"])
            == count
        )
    assert (told["last"]["loss"], told["rows"]) == (0.25, 3)
    code, out, err = roles.run("alice", "show", f"r{run.id}")
    assert (code, err) == (0, "")
    assert "Metrics: 3 rows" in out
    assert re.search(r"^  loss .* 0\.25 ", out, re.MULTILINE)


@pytest.mark.parametrize(("raised", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "CANCELLED")])
def test_how_a_tracked_block_ends(roles, clients, raised, status):
    run = sqltrack.Experiment(clients("alice"), name="e").get_run()
    with pytest.raises(raised), run.track():
        raise raised
    rows = roles.query("alice", "SELECT status::text, time_ended IS NOT NULL FROM runs")
    assert rows == [(status, True)]
    run.start()
    assert roles.query("alice", "SELECT status::text, time_ended FROM runs") == [("RUNNING", None)]


def test_a_script_whose_arguments_are_found_out(roles, columns, tmp_path):
    path = tmp_path / "train.py"
    path.write_text(
        '"""Usage: train.py [--lr=LR]"""\n'
        "import sqltrack\n"
        "run = sqltrack.Experiment(sqltrack.Client(), name='e').get_run()\n"
        "with run.track(args='auto', env='auto'): run.add_metrics(loss=1.5)\n"
    )
    done = run_sqltrack(roles, "alice", str(path), "--lr=0.5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = roles.query("alice", "SELECT status::text, args, env->>'SQLTRACK_DSN_SCHEMA' FROM runs")
    assert rows == [("COMPLETED", {"lr": 0.5}, "hpctrack")]
    assert roles.query("reader", "SELECT step, progress, loss FROM metrics") == [(0, 0.0, 1.5)]


def test_others_runs_stay_as_they_are(roles, clients):
    run = sqltrack.Experiment(clients("alice"), name="e").get_run(comment="hers")
    sqltrack.run_set_comment(clients("bob"), run.id, "his")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sqltrack.run_add_metrics(clients("bob"), run.id, step=1, loss=1.0)
    assert roles.query("owner", "SELECT comment, (SELECT count(*) FROM metrics) FROM runs") == [("hers", 0)]


def test_what_ends_a_run_is_what_the_table_of_states_says(roles, clients):
    run = sqltrack.Experiment(clients("alice"), name="e").get_run()
    for status in RunStatus:
        run.set_status("SUSPENDED")
        run.set_status(status.value)
        [(ended,)] = roles.query("alice", "SELECT time_ended IS NOT NULL FROM runs")
        assert ended == (status.ends is Ends.RUN), status


def test_the_states_are_those_of_the_table_and_no_more(roles):
    names = roles.query("alice", "SELECT unnest(enum_range(NULL::runstatus))::text")
    assert {name for (name,) in names} == {status.value for status in RunStatus}
