"""How long a run has run: neither its wait for another start counts, nor what it was suspended."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hpctrack.reconcile.plan import GRACE
from tests.support.facts import S, after, at, decide, relay, row, run, squeue


def ran(stored, now):
    """As `RunRow.elapsed` reckons."""
    end = stored.time_ended or stored.time_stopped or at(now)
    return (end - stored.time_started - stored.suspended).total_seconds()


def test_a_requeued_run_that_waits_stands_still():
    again = {"attempt": 1, "time_submitted": at(51), "reason": "BeginTime"}
    stored = after(run(), (squeue("RUNNING"),), (squeue("PENDING", **again),))
    assert ran(stored, 5000) == 46, "it was submitted again when it had ended"
    stored = after(stored, (squeue("PENDING", **again), row("PREEMPTED")))
    assert (stored.status, ran(stored, 5000)) == (S.PENDING, 45)
    for state in ("REQUEUE_HOLD", "SPECIAL_EXIT"):
        assert ran(after(stored, (squeue(state, **again),)), 5000) == 45
    stored = after(stored, (squeue("RUNNING", 1, start=100, time_submitted=at(51)),))
    assert (stored.time_stopped, ran(stored, 150)) == (None, 50)


def test_a_preempted_run_stands_still_while_it_may_start_again():
    stored, _ = decide(run(), squeue("RUNNING"))
    stored, _ = decide(stored, row("PREEMPTED"))
    assert (stored.status, stored.time_ended, ran(stored, 5000)) == (S.PREEMPTED, None, 45)
    stored, _ = decide(stored, row("PREEMPTED"), now=1000 + GRACE.total_seconds())
    assert (stored.time_ended, stored.time_stopped, ran(stored, 5000)) == (at(50), None, 45)


def test_a_suspended_run_stands_still():
    stored, _ = decide(run(), squeue("RUNNING", time=at(10)), now=10)
    stored, _ = decide(stored, squeue("SUSPENDED", time=at(30)), now=30)
    assert ran(stored, 5000) == 25
    again, _ = decide(stored, squeue("SUSPENDED", time=at(60)), now=60)
    assert again == stored
    stored, _ = decide(stored, squeue("RUNNING", time=at(90)), now=90)
    assert (ran(stored, 90), ran(stored, 100)) == (25, 35)
    stored, _ = decide(stored, squeue("SUSPENDED", time=at(110)), now=110)
    stored, _ = decide(stored, squeue("RUNNING", time=at(120)), now=120)
    assert ran(stored, 120) == 45
    told = row("COMPLETED", end=130, resources={"elapsed_s": 53})
    assert ran(decide(stored, told)[0], 5000) == 53, "accounting knows better"


def test_a_suspension_between_two_looks_is_in_what_squeue_says():
    stored, _ = decide(run(), squeue("RUNNING", time=at(10), time_used=at(5) - at(0)), now=10)
    assert (
        decide(stored, squeue("RUNNING", time=at(31), time_used=timedelta(seconds=24)), now=31)[0] == stored
    )
    stored, _ = decide(stored, squeue("RUNNING", time=at(60), time_used=timedelta(seconds=15)), now=60)
    assert (stored.suspended, ran(stored, 60)) == (timedelta(seconds=40), 15)
    stored, _ = decide(stored, squeue("SUSPENDED", time=at(90), time_used=timedelta(seconds=20)), now=90)
    assert ran(stored, 5000) == 20, "it was suspended after 20 s, whenever that was seen"
    unseen = squeue("SUSPENDED", time=at(200), time_used=timedelta(seconds=50))
    assert ran(decide(stored, unseen, now=200)[0], 5000) == 50, "it ran meanwhile"
    stored, _ = decide(stored, squeue("RUNNING", time=at(100), time_used=timedelta(seconds=25)), now=100)
    assert ran(stored, 100) == 25


def test_what_is_suspended_when_it_ends():
    stored = after(run(), (squeue("SUSPENDED", time=at(30)),))
    ended = squeue("CANCELLED", time_ended=at(70), time=at(75))
    assert ran(decide(stored, ended)[0], 5000) == 25, "where Slurm keeps no accounts"


def test_another_execution_was_not_suspended():
    stored = after(run(), (squeue("SUSPENDED", time=at(30)),))
    stored = after(stored, (squeue("RUNNING", 1, start=100, time_submitted=at(51)),))
    assert (stored.suspended, ran(stored, 150)) == (timedelta(), 50)


def test_a_start_that_was_taken_back_is_none():
    stored = after(run(), (squeue("RUNNING"),), (squeue("PENDING", time_submitted=at(7)),))
    assert (stored.time_started, stored.time_stopped) == (None, None)


def test_a_script_that_has_ended():
    stored, _ = decide(run(), relay("hello"), relay("fin", when=40, exit_code=0))
    assert (stored.status, stored.time_ended, ran(stored, 5000)) == (S.COMPLETING, None, 34)


@pytest.mark.parametrize("elapsed", ["x", -1, 10**30, float("nan"), None, True])
def test_what_people_write_into_their_attempts_harms_nothing(elapsed):
    told = row("COMPLETED", resources={"elapsed_s": elapsed})
    assert decide(run(), told)[0].suspended in (timedelta(), timedelta(seconds=44))
