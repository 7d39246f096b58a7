"""hpctrack prune: what has been over for long goes, whole, and nothing else."""

from __future__ import annotations

import json
import os
import time
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from hpctrack import Client, Experiment
from hpctrack.stream.wire import records

NOW = datetime.now(timezone.utc)
DAY = 86400.0


@pytest.fixture
def submit(connection, insert, database):
    """Make a submission with two runs that ended so many days ago (None: it goes on), and its record."""
    experiments = {}

    def make(days, experiment="e", registered=True):
        if experiment not in experiments:
            experiments[experiment] = insert("experiments", name=experiment)
        name = uuid.uuid4()
        insert("submissions", uuid=name, user_name="u", time=NOW - timedelta(days=400))
        connection.execute("INSERT INTO run_keys VALUES (%s, %s)", [name, b"\0"])
        ended = None if days is None else NOW - timedelta(days=days)
        for task in (0, 1):
            run = insert(
                "runs", experiment_id=experiments[experiment], status="COMPLETED", submission=name,
                task=task, user_name="u", time_ended=ended,
            )  # fmt: skip
            insert("metrics", run_id=run, step=1)
            insert("attempts", run_id=run, attempt=0)
            insert("transitions", run_id=run, attempt=0, status="COMPLETED", time=NOW, source="sacct")
            insert("streams", run_id=run, journal_id="0" * 16, rows=5)
        job = int(name) % 10**6
        record = records.Record(str(name), "00", time.time() - 400 * DAY, "c", job, "0-1", {}, {})
        path = records.write(database.spool, record)
        if registered:
            records.set_registered(path)
        return name, path

    return make


def left(connection, table):
    return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


CHILDREN = ("runs", "metrics", "attempts", "transitions", "streams")


def test_what_is_old_goes_with_all_that_belongs_to_it(cli, submit, connection):
    old, recent, lives = submit(100), submit(10), submit(None)
    code, out, err = cli("prune", "--older-than", "90d", "--yes")
    assert (code, err) == (0, "")
    assert "e: 2 runs (r1-2) with 2 rows of metrics" in out
    assert out.endswith("deleted 2 runs and 1 submission record in the spool\n")
    assert [left(connection, table) for table in CHILDREN] == [4] * 5
    names = {row[0] for row in connection.execute("SELECT uuid FROM submissions").fetchall()}
    assert names == {recent[0], lives[0]}
    assert left(connection, "run_keys") == 2
    assert left(connection, "experiments") == 1
    assert [os.path.exists(path) for _, path in (old, recent, lives)] == [False, True, True]


def test_a_dry_run_says_so_and_deletes_nothing(cli, submit, connection):
    _, path = submit(100)
    code, out, _ = cli("prune", "--older-than", "90d", "--dry-run", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["dry_run"], told["deleted"], told["records"]) == (True, 2, 1)
    [experiment] = told["experiments"]
    assert (experiment["experiment"], experiment["ids"], experiment["rows"]) == ("e", [1, 2], 2)
    assert left(connection, "runs") == 2
    assert os.path.exists(path)


def test_a_dry_run_counts_what_the_act_then_does(cli, submit, connection, database):
    submit(100), submit(100, "other"), submit(10), submit(100, registered=False)
    with Client(settings=database) as client:
        tracked = Experiment(client, name="by hand").get_run()
        with tracked.track():
            for step in range(20):
                tracked.add_metrics(step=step, loss=0.5)
    connection.execute("UPDATE runs SET time_ended = now() - interval '100 days' WHERE id = %s", [tracked.id])
    told = [json.loads(cli("prune", "--older-than", "90d", "--json", flag)[1]) for flag in ("-n", "-y")]
    assert [answer.pop("dry_run") for answer in told] == [True, False]
    assert told[0] == told[1]
    assert (told[1]["deleted"], told[1]["records"]) == (7, 2)
    assert {answer["experiment"]: answer["rows"] for answer in told[1]["experiments"]}["by hand"] == 20


def test_nobody_is_asked_without_a_terminal(cli, submit, connection):
    submit(100)
    code, _, err = cli("prune", "--older-than", "90d")
    assert code == 2
    assert "say --yes" in err
    assert left(connection, "runs") == 2


def test_only_one_experiment(cli, submit, connection):
    submit(100, "a"), submit(100, "b")
    code, _, _ = cli("prune", "--older-than", "90d", "-E", "a", "--yes")
    assert code == 0
    rows = connection.execute(
        "SELECT e.name, count(*) FROM runs r JOIN experiments e ON e.id = r.experiment_id GROUP BY 1"
    )
    assert rows.fetchall() == [("b", 2)]


def test_a_submission_that_waits_to_be_registered_stays(cli, submit):
    _, path = submit(100, registered=False)
    cli("prune", "--older-than", "90d", "--yes")
    assert os.path.exists(path)


def test_a_submission_that_postgresql_does_not_know_stays(cli, submit, connection):
    """It may have been restored from a back-up that is older."""
    _, path = submit(100)
    connection.execute("TRUNCATE submissions, runs CASCADE")
    cli("prune", "--older-than", "90d", "--yes")
    assert os.path.exists(path)


def test_a_time_is_needed_and_has_to_be_one(cli):
    assert cli("prune")[0] == 2
    code, _, err = cli("prune", "--older-than", "soon")
    assert (code, err.count("\n")) == (2, 1)
