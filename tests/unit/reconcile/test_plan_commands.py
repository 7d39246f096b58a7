"""The plan: `hpctrack run`, inside a job and outside."""

from __future__ import annotations

import pytest

from hpctrack.reconcile import relayed
from hpctrack.reconcile.plan import Survey
from tests.support.facts import S, at, decide, relay, row, run, squeue


def command(**fields):
    return run(kind="command", time_submitted=at(100), **fields)


ENDS = [
    ({"exit_code": 0}, S.COMPLETED),
    ({"exit_code": 1}, S.FAILED),
    ({"exit_signal": 2}, S.CANCELLED),
    ({"exit_signal": 15}, S.CANCELLED),
    ({"exit_code": 130}, S.CANCELLED),
    ({"exit_signal": 9}, S.FAILED),
    ({"exit_signal": 9, "out_of_memory": True}, S.OUT_OF_MEMORY),
    ({"exit_code": None}, S.FAILED),
]


@pytest.mark.parametrize(("body", "status"), ENDS)
@pytest.mark.parametrize("cluster", [None, "mini"])
def test_a_command_ends_when_it_says_so(body, status, cluster):
    stored = command(cluster=cluster)
    stored, moves = decide(stored, relay("hello", when=101), relay("fin", when=140, **body), survey=Survey())
    assert (stored.status, stored.time_ended, stored.time_started) == (status, at(140), at(101))
    assert moves == [(0, S.RUNNING, "relay"), (0, status, "relay")]


def test_an_end_that_nobody_saw_says_so():
    stored, _ = decide(command(), relay("hello", when=101), relay("fin", when=140), survey=Survey())
    assert (stored.status, stored.exit_code, stored.exit_signal) == (S.FAILED, None, None)
    assert stored.reason == relayed.UNSEEN


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "CANCELLED by 5", "PREEMPTED", "COMPLETED"])
def test_its_job_never_overwrites_a_command_that_finished(state):
    stored, _ = decide(
        command(), relay("hello", when=101), relay("fin", exit_code=0, when=140), survey=Survey()
    )
    for now in (1000, 2000, 90_000):
        assert decide(stored, row(state, start=50, end=500), now=now) == (stored, [])


@pytest.mark.parametrize(("state", "status"), [("TIMEOUT", S.TIMEOUT), ("COMPLETED", S.CANCELLED)])
def test_a_command_that_its_job_took_with_it(state, status):
    stored, _ = decide(command(), relay("hello", when=101), survey=Survey())
    killed = row(state, start=50, end=500)
    stored, _ = decide(stored, killed)
    assert stored.time_ended is None, "its own end may still be on the way"
    stored, moves = decide(stored, killed, now=2000)
    assert (stored.status, stored.time_ended, stored.reason) == (status, at(500), f"its job ended: {state}")
    assert moves == [(0, status, "sacct")]
    late = relay("fin", exit_code=0, when=140)
    stored, moves = decide(stored, late, survey=Survey())
    assert (stored.status, stored.time_ended, stored.reason) == (S.COMPLETED, at(140), None)
    assert moves == [(0, S.COMPLETED, "relay")]
    assert decide(stored, late, survey=Survey()) == (stored, [])


def test_a_command_goes_on_while_its_job_does():
    stored, _ = decide(command(), relay("hello", when=101), survey=Survey())
    stored, moves = decide(stored, squeue("RUNNING", start=50))
    assert (stored.status, stored.missing_since, moves) == (S.RUNNING, None, [])


def test_only_the_execution_around_it_concerns_a_command():
    stored, _ = decide(command(), relay("hello", when=101), survey=Survey())
    earlier = row("PREEMPTED", start=-9000, end=-5000, time_submitted=at(-9500))
    stored, _ = decide(stored, earlier, now=2000)
    stored, _ = decide(stored, earlier, now=9000)
    assert (stored.status, stored.time_ended) == (S.RUNNING, None)
