"""Runs outside Slurm whose machine is silent: status and show say since when, and nobody gives a verdict."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone

import pytest

NOW = datetime.now(timezone.utc)


@pytest.fixture
def run(insert):
    """Insert a command that began an hour ago and was last heard of so many minutes ago."""
    experiment = insert("experiments", name="e")

    def make(minutes, **values):
        submission = uuid.uuid4()
        insert("submissions", uuid=submission, user_name="u", time=NOW)
        started = NOW - timedelta(hours=1)
        defaults = {"status": "RUNNING", "kind": "command", "time_started": started, "time_seen": started}
        run_id = insert(
            "runs",
            experiment_id=experiment,
            **{"submission": submission, "task": -1, **defaults, **values},
        )
        for journal, ago in (("a", 50), ("b", minutes)):
            heard = NOW - timedelta(minutes=ago)
            insert("streams", run_id=run_id, journal_id=journal, time_last=heard)
        return run_id

    return make


def silent(printed, run_id):
    told = json.loads(printed("show", f"r{run_id}", "--json"))
    (row,) = json.loads(printed("status", f"r{run_id}", "--json"))["runs"]
    assert row["silent_since"] == told["silent_since"]
    assert told["state"] == row["state"] == "RUNNING"
    return told["silent_since"] and datetime.fromisoformat(told["silent_since"])


def test_a_silent_machine_is_told(printed, run, connection):
    run_id = run(10)
    assert silent(printed, run_id) == NOW - timedelta(minutes=10)
    said = "not heard from since " + (NOW - timedelta(minutes=10)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert said in printed("status")
    assert said in printed("show", f"r{run_id}").splitlines()[0]
    assert connection.execute("SELECT status::text, time_ended FROM runs").fetchall() == [("RUNNING", None)]
    assert connection.execute("SELECT count(*) FROM transitions").fetchone() == (0,)


@pytest.mark.parametrize(
    ("minutes", "values"),
    [
        (-600, {}),  # in hours to come: tests take their time
        (10, {"time_seen": NOW + timedelta(hours=10)}),
        (10, {"kind": "batch", "cluster": "mini", "slurm_job_id": 7}),
        (10, {"cluster": "mini", "slurm_job_id": 7}),
    ],
    ids=["lately", "vouched for", "a job", "in a job"],
)
def test_others_are_not(printed, run, minutes, values):
    assert silent(printed, run(minutes, **values)) is None


@pytest.mark.parametrize(("minutes", "told"), [(11, True), (9, False)])
def test_a_client_that_says_nothing_is_told(printed, run, insert, minutes, told):
    """Its program says nothing between two rows of metrics: it is given more time."""
    heard = datetime.now(timezone.utc) - timedelta(minutes=minutes)
    values = {"submission": None, "task": None, "time_seen": None, "kind": "client"}
    run_id = run(50, time_updated=NOW - timedelta(minutes=30), **values)
    insert("run_latest", run_id=run_id, last_time=heard)
    assert silent(printed, run_id) == (heard if told else None)


@pytest.mark.parametrize("status", ["PENDING", "COMPLETED"])
def test_a_client_that_has_not_begun_or_has_ended_is_not_silent(printed, run, status):
    values = {"submission": None, "task": None, "time_seen": None, "kind": "client"}
    run_id = run(50, status=status, time_ended=NOW if status == "COMPLETED" else None, **values)
    assert json.loads(printed("show", f"r{run_id}", "--json"))["silent_since"] is None


def test_what_is_over_is_not_silent(printed, run):
    run_id = run(10, status="COMPLETED", time_ended=NOW)
    assert json.loads(printed("show", f"r{run_id}", "--json"))["silent_since"] is None
