"""The plan: what relays say of a job's script."""

from __future__ import annotations

from hpctrack.reconcile import relayed
from hpctrack.reconcile.attempts import UNKNOWN
from hpctrack.reconcile.plan import FORGOTTEN, GRACE, Survey
from tests.support.facts import QUEUE, S, after, at, decide, relay, row, run, squeue
from tests.support.relay_says import said


def test_hello_may_come_before_squeue():
    stored, moves = decide(run(), relay("hello", node="n7"), survey=Survey())
    assert (stored.status, stored.time_started, moves) == (S.RUNNING, at(6), [(0, S.RUNNING, "relay")])
    assert stored.attempts[0].batch_host == "n7"
    stored, moves = decide(stored, squeue("CONFIGURING", start=4))
    assert (stored.status, moves) == (S.RUNNING, [])
    stored, moves = decide(stored, squeue("RUNNING"))
    assert (stored.time_started, moves) == (at(5), []), "Slurm's clock goes before the node's"


def test_a_sign_of_life_ends_the_wait():
    stored = after(run(), (row("PREEMPTED"),))
    assert stored.missing_since == at(1000)
    stored, _ = decide(stored, relay("hello", attempt=1, when=1100), now=1101, survey=Survey())
    assert (stored.missing_since, stored.status) == (None, S.RUNNING)


def test_fin_is_the_end_of_the_script_only():
    stored, moves = decide(run(), relay("hello"), relay("fin", exit_code=0, when=40), survey=Survey())
    assert (stored.status, stored.time_ended, stored.exit_code) == (S.COMPLETING, None, 0)
    assert moves == [(0, S.RUNNING, "relay"), (0, S.COMPLETING, "relay")]
    stored, moves = decide(stored, row("OUT_OF_MEMORY", slurm_exit_code=0, slurm_exit_signal=125))
    attempt = stored.attempts[0]
    assert (stored.status, stored.exit_code, attempt.exit_code) == (S.OUT_OF_MEMORY, 0, 0)
    assert (attempt.slurm_exit_code, attempt.slurm_exit_signal, attempt.time_ended) == (0, 125, at(50))


def test_a_late_hello_changes_nothing():
    stored = after(run(), (row("COMPLETED"),))
    late, moves = decide(stored, relay("hello"), survey=Survey())
    assert (late.status, late.time_ended, late.time_started, moves) == (S.COMPLETED, at(50), at(5), [])


def test_a_late_fin_fills_in_the_exit():
    stored = after(run(), (row("FAILED", slurm_exit_code=3),))
    late, moves = decide(stored, relay("fin", exit_code=3, stderr_tail="oops"), survey=Survey())
    assert (late.status, late.exit_code, late.time_ended, moves) == (S.FAILED, 3, at(50), [])
    assert late.attempts[0].stderr_tail == "oops"


def test_hello_of_a_newer_attempt_reopens():
    stored = after(run(), (row("COMPLETED"),), (relay("fin", exit_code=0),))
    stored, moves = decide(stored, relay("hello", attempt=1, when=900), survey=Survey())
    assert (stored.status, stored.time_ended, stored.attempt, stored.exit_code) == (S.RUNNING, None, 1, None)
    assert moves == [(1, S.RUNNING, "relay")]


def test_squeue_reopens_a_run_whose_job_was_requeued_after_its_end():
    stored = after(run(), (row("COMPLETED"),))
    stored, _ = decide(stored, squeue("PENDING", attempt=1, time_submitted=at(900)))
    assert (stored.status, stored.time_ended) == (S.PENDING, None)


def test_without_accounts_the_script_decides_in_the_end():
    for code, signal, status in [(0, None, S.COMPLETED), (3, None, S.FAILED), (None, 9, S.FAILED)]:
        fin = relay("fin", exit_code=code, exit_signal=signal, when=40)
        stored, _ = decide(run(), relay("hello"), fin, survey=Survey())
        stored = after(stored, ())
        assert stored.time_ended is None
        stored, _ = decide(stored, now=1000 + GRACE.total_seconds())
        assert (stored.time_ended, stored.reason) == (None, UNKNOWN), "slurmdbd may have been away until now"
        stored, moves = decide(stored, now=1060 + GRACE.total_seconds())
        assert (stored.status, stored.time_ended, moves) == (status, at(40), [(0, status, "relay")])
        assert stored.recheck_after == at(1060) + GRACE + FORGOTTEN
        for word in (status, S.TIMEOUT):
            late, _ = decide(stored, row(word.value, end=41), now=1060 + 660)
            assert (late.status, late.time_ended, late.reason) == (word, at(41), None), "slurmctld told late"


def test_while_accounting_does_not_answer_nothing_is_decided():
    stored, _ = decide(run(), relay("hello"), relay("fin", exit_code=0), survey=Survey())
    assert after(stored, ()).missing_since == at(1000)
    stored, _ = decide(after(stored, ()), now=99_999, survey=QUEUE)
    assert stored.time_ended is None


def test_odd_bodies_are_left_out():
    for body in ({}, {"time": "x", "exit_code": "0", "node": 5}, {"time": 1e300, "exit_code": 1 << 40}):
        for kind in ("hello", "start", "fin"):
            fact = relayed.fact_of(said(1, kind, **body), at(7))
            assert fact
            assert (fact.time, fact.exit_code, fact.batch_host, fact.job_id) == (at(7), None, None, None)
    assert relayed.fact_of(said(1, "args"), at(7)) is None
    text = relayed.fact_of(said(1, "fin", stderr_tail="a\x00\udcff" + "b" * 9999), at(7))
    assert text
    assert text.stderr_tail == "b" * 4096
    env = relayed.environment_of(said(1, "start", env={"A": "\x00", "B": 1, "C": "c"}))
    assert env == {"A": "\ufffd", "C": "c"}
