"""Goals of experiments: which way metrics are better, said by people, in Python and by scripts."""

from __future__ import annotations

import json

import psycopg
import pytest

from hpctrack import Client, errors
from tests.support.journals import Journal, one


def test_goals_are_said_shown_and_forgotten(cli, printed, run):
    run()
    assert cli("experiment", "goal", "digits") == (0, "digits: no goals\n", "")
    assert (
        cli("experiment", "goal", "digits", "max:val/acc", "min:a:b")[1] == "digits: min:a:b, max:val/acc\n"
    )
    assert cli("experiment", "goal", "digits", "min:val/acc", "--remove", "a:b")[1] == "digits: min:val/acc\n"
    assert json.loads(printed("experiment", "goal", "digits", "--json")) == {
        "experiment": "digits", "goals": {"val/acc": "min"},
    }  # fmt: skip
    assert "goals       min:val/acc\n" in printed("experiment", "show", "digits")
    assert printed("experiment", "list").splitlines()[1].split()[-1] == "min:val/acc"
    (told,) = json.loads(printed("experiment", "list", "--json"))["experiments"]
    assert told["goals"] == {"val/acc": "min"}


@pytest.mark.parametrize("word", ["val/acc", "most:val/acc", "max:", "max", ":x"])
def test_what_is_no_goal(cli, run, word):
    run()
    code, out, err = cli("experiment", "goal", "digits", word)
    assert (code, out) == (2, "")
    assert err == f"hpctrack: {word!r} is no goal: write max:METRIC or min:METRIC\n"


def test_in_python(settings, run):
    run()
    with Client(settings=settings) as client:
        experiment = client.experiment("digits")
        experiment.set_goal("loss", "min")
        experiment.set_goal("acc", "max")
        experiment.remove_goal("loss")
        experiment.remove_goal("nothing")
        assert experiment.goals == client.experiments()[0].goals == {"acc": "max"}
        with pytest.raises(errors.UsageError, match="max or min"):
            experiment.set_goal("acc", "most")
        with pytest.raises(errors.UsageError, match="at most"):
            experiment.set_goal("x" * 100_000, "min")


@pytest.mark.parametrize(
    "value",
    [
        "[]",
        "3",
        "null",
        '{"a": 1}',
        '{"a": "MAX"}',
        '{"a": null}',
        '{"a": ["max"]}',
        '{"a": {"b": "max"}}',
        None,
    ],
)
def test_nothing_else_can_be_stored(connection, run, value):
    run()
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)):
        connection.execute("UPDATE experiments SET goals = %s::jsonb", [value])
    connection.execute("""UPDATE experiments SET goals = '{"a": "max", "b": "min"}'""")


def test_a_scripts_goals_are_its_experiments(connection, ingest, run):
    mine = run(user_name="alice", experiment="digits")
    connection.execute(
        """UPDATE experiments SET user_name = 'alice', goals = '{"loss": "max", "old": "min"}'"""
    )
    log = Journal(mine)
    ingest.store([log.message("goal", {"loss": "min", "x\0": "max", "bad": "most", "": "min"})])
    ingest.store([log.message("goal", {"loss": "min"})])
    assert one(connection, "SELECT goals FROM experiments") == (
        {"loss": "min", "old": "min", "x\ufffd": "max"},
    )
    kinds = connection.execute("SELECT kind FROM events WHERE experiment_id IS NOT NULL").fetchall()
    assert kinds == [("goals",)] * 2


@pytest.mark.parametrize(
    ("experiment", "owner", "why"),
    [
        ("shared", "bob", "experiment 'shared' belongs to bob"),
        ("default", "alice", "name an experiment of your own (-E)"),
    ],
)
def test_goals_that_a_script_may_not_set_are_told_once(connection, ingest, run, experiment, owner, why):
    run_id = run(user_name="alice", experiment=experiment)
    connection.execute("UPDATE experiments SET user_name = %s", [owner])
    log = Journal(run_id)
    for _ in range(3):
        ingest.store([log.message("goal", {"loss": "min"})])
    assert one(connection, "SELECT goals FROM experiments") == ({},)
    told = connection.execute("SELECT source, status, raw FROM transitions").fetchall()
    assert told == [("relay", None, f"goals not taken: loss: {why}")]
