"""The plan: a job's life without trouble, what is no evidence, and words that Slurm may say."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hpctrack.model import Attempt
from hpctrack.reconcile.attempts import NOT_LISTED, UNKNOWN
from hpctrack.reconcile.plan import FORGOTTEN, GRACE, RECHECK, Survey, plan
from tests.support.facts import ALL, QUEUE, S, after, at, decide, relay, row, run, squeue


def test_a_life():
    stored, moves = decide(run(), squeue("PENDING", reason="Priority"))
    assert (stored.status, stored.reason, stored.attempts, moves) == (S.PENDING, "Priority", (), [])
    stored, moves = decide(stored, squeue("CONFIGURING", start=4))
    assert (stored.status, stored.node_list, moves) == (S.CONFIGURING, "n1", [(0, S.CONFIGURING, "squeue")])
    stored, moves = decide(stored, squeue("RUNNING"))
    assert (stored.status, stored.time_started, moves) == (S.RUNNING, at(5), [(0, S.RUNNING, "squeue")])
    stored, moves = decide(stored, squeue("COMPLETING"))
    assert moves == [(0, S.COMPLETING, "squeue")]
    stored, moves = decide(stored, row("COMPLETED"))
    assert (stored.status, stored.time_ended, moves) == (S.COMPLETED, at(50), [(0, S.COMPLETED, "sacct")])
    assert stored.attempts[0].slurm_exit_code == 0
    assert (stored.reason, stored.missing_since) == (None, None)


def test_a_job_that_ended_before_the_first_poll():
    stored, moves = decide(run(), row("FAILED", slurm_exit_code=3))
    assert (stored.status, stored.time_started, stored.time_ended) == (S.FAILED, at(5), at(50))
    assert moves == [(0, S.RUNNING, "sacct"), (0, S.FAILED, "sacct")]
    assert stored.exit_code is None, "the script's own exit is not Slurm's to tell"
    assert stored.attempts[0].slurm_exit_code == 3


def test_transitions_have_the_times_of_the_source():
    [change] = plan([row("FAILED", raw="FAILED")], [run()], at(1000), survey=ALL)
    assert [(t.time, t.raw) for t in change.transitions] == [(at(5), None), (at(50), "FAILED")]


def test_what_a_job_is_comes_from_squeue():
    limit = timedelta(hours=1)
    stored, _ = decide(run(), squeue("RUNNING", partition="gpu", account="lab", qos="high", time_limit=limit))
    told = (stored.partition, stored.account, stored.qos, stored.time_limit, stored.job_name)
    assert told == ("gpu", "lab", "high", limit, "train")
    later = squeue("RUNNING", partition=None, account=None, qos=None, time_limit=None, job_name=None)
    assert decide(stored, later)[0].partition == "gpu", "nothing becomes unknown again"


def test_accounting_does_not_rename():
    stored, _ = decide(run(job_name='"x"'), row("COMPLETED", job_name="`x`"))
    assert stored.job_name == '"x"'


@pytest.mark.parametrize(
    ("stored", "told", "then"),
    [
        ("a-***", "a-s3cret", "a-***"),
        ("***", "s3cret", "***"),
        ("***a***", "xxaxx", "***a***"),
        ("a-***", "other", "other"),
        ("***a***a***", "xa", "xa"),
        (None, "train", "train"),
    ],
)
def test_a_name_that_was_stored_without_its_secret_is_not_told_again(stored, told, then):
    after, _ = decide(run(job_name=stored), squeue("RUNNING", job_name=told))
    assert after.job_name == then


# ---- 1. Absence and failed queries are no evidence -------------------------------------------------------


@pytest.mark.parametrize("status", [S.PENDING, S.RUNNING, S.COMPLETING])
def test_a_failed_query_changes_nothing(status):
    assert plan([], [run(status=status)], at(10_000), survey=Survey()) == []


def test_absence_is_noted_and_ends_nothing():
    stored = run(status=S.RUNNING, attempts=(Attempt(0, S.RUNNING, time_started=at(5)),))
    for hours in range(100):
        stored, moves = decide(stored, now=1000 + hours * 3600)
        assert (stored.status, stored.time_ended, moves) == (S.RUNNING, None, [])
    assert (stored.missing_since, stored.reason) == (at(1000), UNKNOWN)


def test_what_accounting_knows_is_not_unknown():
    """A squeue that hides others' jobs, or an end that accounting never learnt."""
    stored = after(run(), (squeue("RUNNING"),), ())
    for hours in range(3):
        stored, _ = decide(stored, row("RUNNING", end=None), now=2000 + hours * 3600)
        assert (stored.status, stored.reason) == (S.RUNNING, NOT_LISTED)
    told, _ = decide(run(), relay("hello"), relay("fin", exit_code=0))
    for now in (1000, 2000, 2060):
        told, _ = decide(told, row("RUNNING", end=None), now=now)
    assert (told.status, told.reason) == (S.COMPLETED, NOT_LISTED)


def test_what_accounting_was_not_asked_is_not_unknown():
    stored = after(run(), (squeue("RUNNING"),))
    for now in (1000, 9000):
        stored, _ = decide(stored, now=now, survey=QUEUE)
    assert (stored.missing_since, stored.reason) == (at(1000), None)
    assert decide(stored, now=9000)[0].reason == UNKNOWN


def test_no_time_limit_is_taken_over():
    hour = timedelta(hours=1)
    stored = after(run(time_limit=hour), (squeue("RUNNING", time_limit=hour),))
    assert after(stored, (squeue("RUNNING"),)).time_limit == hour, "it does not say"
    assert after(stored, (squeue("RUNNING", unlimited=True),)).time_limit is None
    assert after(stored, (row("COMPLETED", unlimited=True),)).time_limit is None


def test_a_name_that_was_changed_shortly_before_the_end():
    stored = after(run(job_name="train"), (squeue("RUNNING"),), (row("COMPLETED", job_name="renamed"),))
    assert stored.job_name == "renamed"
    odd = {'a"b': "a`b", "tr\\ain": "train", "a\nb": "a b", "n" * 300: "n" * 255, "é": "\ufffd"}
    for name, told in odd.items():
        assert decide(run(job_name=name), row("COMPLETED", job_name=told))[0].job_name == name


def test_a_job_that_is_listed_again_is_not_missing():
    stored = after(run(), (squeue("RUNNING"),), (), (squeue("RUNNING"),))
    assert (stored.missing_since, stored.reason, stored.status) == (None, None, S.RUNNING)


def test_accounting_may_lag():
    """Gone from squeue, and sacct still says RUNNING: not the end; then sacct has the end: it is."""
    stored = after(run(), (squeue("RUNNING"),), (row("RUNNING", end=None),))
    assert (stored.status, stored.time_ended) == (S.RUNNING, None)
    assert after(stored, (row("TIMEOUT"),)).status is S.TIMEOUT


# ---- 6. Words --------------------------------------------------------------------------------------------


def test_an_unknown_word_is_kept_and_ends_nothing():
    stored = after(run(), (squeue("RUNNING"),))
    stored, moves = decide(stored, squeue("HIBERNATING"))
    assert (stored.status, stored.slurm_state, moves) == (S.RUNNING, "HIBERNATING", [(0, None, "squeue")])
    assert decide(stored, squeue("HIBERNATING")) == (stored, []), "once"
    assert decide(run(), row("HIBERNATED"))[0].time_ended is None


def test_suspended_and_back():
    stored = after(run(), (squeue("RUNNING"),))
    for state in ("SUSPENDED", "RUNNING", "STOPPED", "SIGNALING", "RESIZING", "RUNNING"):
        stored, moves = decide(stored, squeue(state))
        assert moves == [(0, S[state], "squeue")]
    assert len(stored.attempts) == 1


def test_revoked_is_no_end():
    stored, _ = decide(run(), row("REVOKED"))
    assert stored.time_ended is None


# ---- Accounting corrects itself --------------------------------------------------------------------------


def test_the_exit_code_of_a_job_that_cancels_itself_follows_late():
    first = row("CANCELLED by 1000", slurm_exit_signal=0)
    stored, _ = decide(run(), first)
    assert (stored.status, stored.time_ended) == (S.CANCELLED, at(50))
    assert stored.recheck_after == at(1000) + RECHECK
    stored, moves = decide(stored, row("CANCELLED by 1000", slurm_exit_signal=15), now=1030)
    assert (stored.attempts[0].slurm_exit_signal, stored.time_ended, moves) == (15, at(50), [])
    assert stored.recheck_after == at(1030) + RECHECK, "until it says the same twice"
    stored, moves = decide(stored, row("CANCELLED by 1000", slurm_exit_signal=15), now=1060)
    assert (stored.recheck_after, moves) == (None, [])


def test_until_slurmctld_has_forgotten_a_job_its_end_may_be_told_again():
    """With what it knows by then: the exit code, and who cancelled it no more."""
    stored, _ = decide(run(), row("CANCELLED by 1000", reason="CANCELLED by alice"), now=60)
    assert stored.recheck_after == at(60) + RECHECK
    for now, later in ((90, 130), (130, 210), (210, 370), (370, 410)):
        stored, _ = decide(stored, row("CANCELLED by 1000", reason="CANCELLED by alice"), now=now)
        assert stored.recheck_after == at(later)
    assert at(410) == at(50) + FORGOTTEN
    stored, moves = decide(stored, row("CANCELLED", slurm_exit_signal=15), now=420)
    assert (stored.status, stored.reason, moves) == (S.CANCELLED, "CANCELLED by alice", [])
    assert (stored.attempts[0].slurm_exit_signal, stored.recheck_after) == (15, at(420) + RECHECK)
    assert decide(stored, row("CANCELLED", slurm_exit_signal=15), now=450)[0].recheck_after is None


def test_a_corrected_end_replaces_the_one_before():
    stored, _ = decide(run(), row("FAILED"))
    stored, moves = decide(stored, row("CANCELLED", end=52), now=1030)
    assert (stored.status, stored.time_ended, moves) == (S.CANCELLED, at(52), [(0, S.CANCELLED, "sacct")])
    assert stored.attempts[0].status is S.CANCELLED


def test_an_end_that_was_not_asked_about_again_stays_to_be_looked_up():
    stored, _ = decide(run(), row("FAILED"))
    for survey in (QUEUE, Survey()):
        assert decide(stored, now=5000, survey=survey) == (stored, [])
    assert decide(stored, now=5000)[0].recheck_after is None, "purged meanwhile"


def test_a_success_is_final_at_once():
    assert decide(run(), row("COMPLETED"))[0].recheck_after is None


def test_a_success_that_accounting_knows_half_of_is_looked_up_once_more():
    stored, _ = decide(run(), row("COMPLETED", partition=None))
    assert (stored.time_ended, stored.recheck_after) == (at(50), at(1000) + RECHECK)
    told, moves = decide(stored, row("COMPLETED"), now=1030)
    assert (told.partition, told.recheck_after, moves) == ("main", None, [])
    assert decide(stored, row("COMPLETED", partition=None), now=1030)[0].recheck_after is None


def test_a_run_that_is_looked_up_again_may_be_found_requeued():
    stored, _ = decide(run(), row("FAILED"))
    again, _ = decide(stored, squeue("PENDING", attempt=1, time_submitted=at(60)), row("FAILED"), now=1030)
    assert (again.status, again.time_ended, again.recheck_after) == (S.PENDING, None, None)
    again, _ = decide(stored, row("REQUEUED"), now=1030)
    assert (again.status, again.time_ended, again.recheck_after) == (S.REQUEUED, None, None)


@pytest.mark.parametrize("end", ["COMPLETED", "CANCELLED"])
def test_a_beginning_that_accounting_learns_late_is_waited_for(end):
    """Until slurmctld has forgotten the job; meanwhile slurmdbd calls it "allocation"."""
    half = row(end, partition=None, job_name="allocation")
    stored, _ = decide(run(job_name="train"), half, now=60)
    for now in (81, 102, 123):
        assert stored.recheck_after <= at(now)
        stored, _ = decide(stored, half, now=now)
    told, _ = decide(stored, row(end, partition="gpu", job_name="train"), now=144)
    assert (stored.job_name, told.job_name, told.partition) == ("train", "train", "gpu")
    assert decide(stored, half, now=500)[0].recheck_after is None


@pytest.mark.parametrize("end", ["PREEMPTED", "REQUEUED"])
def test_the_end_of_what_might_have_started_again_is_looked_up_once_more_too(end):
    stored, _ = decide(run(), row(end), now=60)
    stored, _ = decide(stored, row(end), now=60 + GRACE.total_seconds())
    assert (stored.time_ended, stored.recheck_after) == (at(50), at(380))
    told, _ = decide(stored, row(end, slurm_exit_signal=15), now=381)
    assert told.attempts[0].slurm_exit_signal == 15
