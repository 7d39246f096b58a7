"""The plan: each trap of Slurm's as an example, and what must hold for any job in any order of facts."""

import itertools
import random
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrack import matching, relayed
from hpctrack.model import Attempt, JobFacts, RelayMessage, RunStatus, StoredRun
from hpctrack.plan import GRACE, TAKEN_OUT, UNKNOWN, Survey, plan
from hpctrack.slurm import states
from hpctrack.slurm.states import Ends, Stage

S = RunStatus
T0 = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
ALL = Survey(queue=True, accounts=range(1000))
QUEUE = Survey(queue=True)


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def run(**fields):
    return StoredRun(**{
        "run_id": 1, "kind": "batch", "status": S.PENDING, "slurm_user": "alice", "cluster": "mini",
        "time_submitted": T0, "slurm_job_id": 10, **fields,
    })  # fmt: skip


def task(number, **fields):
    fields = {"run_id": number, "slurm_job_id": None, **fields}
    return run(array_job_id=20, array_task_id=number, **fields)


def fact(source, state, **fields):
    return JobFacts(**{
        "source": source, "cluster": "mini", "job_id": 10, "raw_state": state,
        "status": states.status_of(state), "user_name": "alice", "time_submitted": T0, "time": at(1000),
        **fields,
    })  # fmt: skip


def squeue(state, attempt=0, start=None, node="n1", **fields):
    running = state not in ("PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT", "REQUEUED")
    where = {"time_started": at(start if start is not None else 5), "node_list": node} if running else {}
    return fact("squeue", state, **{"attempt": attempt, "job_name": "train", **where, **fields})


def row(state, start=5, end=50, **fields):
    ended = {} if end is None else {"time_ended": at(end), "exit_code": 0, "exit_signal": 0}
    started = {} if start is None else {"time_started": at(start), "node_list": "n1"}
    return fact("sacct", state, **{**started, **ended, **fields})


def relay(kind, attempt=0, when=6, run_id=1, **body):
    message = RelayMessage(run_id, attempt, kind, {"time": at(when).timestamp(), **body})
    found = relayed.fact_of(message, at(2000))
    assert found
    return found


def decide(stored, *facts, now=1000, survey=ALL, grace=GRACE):
    """Return the run as it is afterwards, and the transitions."""
    changes = plan(facts, [stored], at(now), survey=survey, grace=grace)
    if not changes:
        return stored, []
    [change] = changes
    assert change.before is stored
    return change.run, [(t.attempt, t.status, t.source) for t in change.transitions]


def after(stored, *passes):
    """Return the run after several passes, each a tuple of facts, half a minute apart."""
    for number, facts in enumerate(passes):
        stored, _ = decide(stored, *facts, now=1000 + 30 * number)
    return stored


# ---- A life without trouble ------------------------------------------------------------------------------


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
    stored, moves = decide(run(), row("FAILED", exit_code=3))
    assert (stored.status, stored.time_started, stored.time_ended) == (S.FAILED, at(5), at(50))
    assert moves == [(0, S.RUNNING, "sacct"), (0, S.FAILED, "sacct")]
    assert stored.exit_code is None, "the script's own exit is not Slurm's to tell"
    assert stored.attempts[0].slurm_exit_code == 3


def test_transitions_have_the_times_of_the_source():
    [change] = plan([row("FAILED", raw_state="FAILED")], [run()], at(1000), survey=ALL)
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


def test_a_job_that_is_listed_again_is_not_missing():
    stored = after(run(), (squeue("RUNNING"),), (), (squeue("RUNNING"),))
    assert (stored.missing_since, stored.reason, stored.status) == (None, None, S.RUNNING)


def test_accounting_may_lag():
    """Gone from squeue, and sacct still says RUNNING: not the end; then sacct has the end: it is."""
    stored = after(run(), (squeue("RUNNING"),), (row("RUNNING", end=None),))
    assert (stored.status, stored.time_ended) == (S.RUNNING, None)
    assert after(stored, (row("TIMEOUT"),)).status is S.TIMEOUT


# ---- 3. Requeues -----------------------------------------------------------------------------------------


def test_a_preempted_job_goes_on():
    stored = after(run(), (squeue("RUNNING"),))
    again = {"attempt": 1, "time_submitted": at(60), "reason": "BeginTime"}
    stored, moves = decide(stored, squeue("PENDING", **again), row("PREEMPTED"))
    assert (stored.status, stored.attempt, stored.time_ended) == (S.PENDING, 0, None)
    assert moves == [(0, S.PREEMPTED, "sacct"), (1, S.PENDING, "squeue")]
    stored, moves = decide(stored, squeue("RUNNING", attempt=1, start=90, time_submitted=at(60)))
    assert (stored.status, stored.attempt, stored.time_started) == (S.RUNNING, 1, at(90))
    end = (row("PREEMPTED"), row("COMPLETED", start=90, end=99, time_submitted=at(60)))
    stored, moves = decide(stored, *end)
    assert (stored.status, stored.time_ended, moves) == (S.COMPLETED, at(99), [(1, S.COMPLETED, "sacct")])
    assert [attempt.status for attempt in stored.attempts] == [S.PREEMPTED, S.COMPLETED]


def test_the_end_of_the_newest_row_waits_while_squeue_lists_the_job():
    for state in ("COMPLETING", "RUNNING", "REQUEUED", "PENDING", "HIBERNATING"):
        stored, _ = decide(run(), squeue(state), row("FAILED"))
        assert stored.time_ended is None, state
        assert states.stage_of(stored.status) is not Stage.ENDED


def test_an_end_without_its_time_is_not_told_yet():
    """What slurmdbd knows for a moment after an outage: the start, with the state that the job has by now."""
    stored, moves = decide(run(), row("FAILED", end=None))
    assert (stored.status, stored.time_ended, moves) == (S.PENDING, None, [])
    stored, _ = decide(stored, row("FAILED", exit_code=2))
    assert (stored.status, stored.time_ended) == (S.FAILED, at(50))
    assert stored.attempts[0].slurm_exit_code == 2
    command = run(kind="command", status=S.RUNNING, missing_since=at(0))
    assert decide(command, row("FAILED", end=None))[0].time_ended is None


@pytest.mark.parametrize("state", ["PREEMPTED", "REQUEUED"])
def test_what_may_start_again_is_over_only_after_a_while(state):
    stored, _ = decide(run(), row(state), now=1000)
    assert (stored.status, stored.time_ended) == (S[state], None)
    stored, _ = decide(stored, row(state), now=1000 + GRACE.total_seconds() - 1)
    assert stored.time_ended is None
    stored, moves = decide(stored, row(state), now=1000 + GRACE.total_seconds())
    assert (stored.status, stored.time_ended, moves) == (S[state], at(50), [])


def test_the_wait_begins_anew_when_squeue_lists_the_job():
    stored = after(run(), (row("PREEMPTED"),), (squeue("PENDING", attempt=1, time_submitted=at(60)),))
    assert (stored.status, stored.missing_since) == (S.PENDING, None)


def test_accounting_lacks_the_end_of_the_attempt_before_for_a_while():
    stored = after(
        run(), (squeue("RUNNING"),), (squeue("RUNNING", attempt=1, start=90, time_submitted=at(60)),)
    )
    assert [a.status for a in stored.attempts] == [S.RUNNING, S.RUNNING]
    stored, moves = decide(
        stored, squeue("RUNNING", attempt=1, start=90, time_submitted=at(60)), row("NODE_FAIL")
    )
    assert moves == [(0, S.NODE_FAIL, "sacct")]
    assert (stored.status, stored.attempt) == (S.RUNNING, 1)


def test_while_it_completes_a_requeued_job_is_counted_one_further_by_squeue():
    """Slurm raises the restart count when the requeue begins; submit and nodes are still the old ones."""
    stored = after(run(), (squeue("RUNNING"),))
    stored, moves = decide(stored, squeue("COMPLETING", attempt=1, start=400), row("PREEMPTED"))
    assert (stored.status, stored.attempt, moves) == (S.COMPLETING, 0, [(0, S.COMPLETING, "squeue")])
    assert stored.time_started == at(5), "what squeue says of the start is a forecast by now"


def test_the_end_of_the_second_execution_completes_as_such():
    second = {"attempt": 1, "time_submitted": at(60)}
    stored = after(
        run(), (squeue("RUNNING", start=90, **second),), (squeue("COMPLETING", start=90, **second),)
    )
    assert [(a.attempt, a.status) for a in stored.attempts] == [(1, S.COMPLETING)]


def test_a_restart_counts_although_the_run_still_waits_and_no_attempt_is_known():
    stored, _ = decide(run(), squeue("PENDING"))
    stored, _ = decide(stored, squeue("PENDING", attempt=1, time_submitted=at(60)))
    assert [attempt.attempt for attempt in stored.attempts] == [1]


def test_the_next_submit_time_is_not_taken_for_that_of_the_execution_before():
    stored, _ = decide(run(), relay("hello"), relay("fin", exit_code=0, when=20), survey=Survey())
    stored, _ = decide(stored, squeue("COMPLETING", attempt=1, time_submitted=at(22), start=24))
    rows = row("PREEMPTED", end=21, time_submitted=at(0)), row("COMPLETED", 24, 44, time_submitted=at(22))
    for now in (3600, 7200):
        stored, _ = decide(stored, *rows, now=now)
    assert [attempt.status for attempt in stored.attempts] == [S.PREEMPTED, S.COMPLETED]


def test_failed_first_and_then_requeued_for_its_exit_code():
    stored, _ = decide(run(), row("FAILED"), survey=Survey(accounts=range(9)))
    assert (stored.status, stored.time_ended) == (S.PENDING, None), (
        "an early check can't know that it is over"
    )
    stored, _ = decide(run(), row("FAILED"))
    stored, _ = decide(stored._replace(time_ended=None), row("REQUEUED"))
    assert (stored.status, stored.time_ended) == (S.REQUEUED, None)


def test_that_it_was_requeued_is_not_unlearnt():
    stored, _ = decide(run(), row("REQUEUED"))
    again, moves = decide(stored, row("FAILED"))
    assert (again.status, again.time_ended, moves) == (S.REQUEUED, None, [])


def test_what_squeue_said_late_about_an_attempt_that_ended():
    stored = after(
        run(), (squeue("RUNNING"),), (row("PREEMPTED"), squeue("PENDING", 1, time_submitted=at(60)))
    )
    late = squeue("RUNNING", start=7, node="n9", reason="odd")
    stored, _ = decide(stored, late, survey=QUEUE)
    assert (stored.attempts[0].time_started, stored.attempts[0].node_list) == (at(5), "n1")


def test_an_early_check_may_trust_success():
    stored, _ = decide(run(), row("COMPLETED"), survey=Survey(accounts=range(9)))
    assert (stored.status, stored.time_ended) == (S.COMPLETED, at(50))


def test_a_start_that_was_taken_back_is_no_restart():
    stored = after(run(), (squeue("RUNNING"),))
    stored, moves = decide(stored, squeue("PENDING", time_submitted=at(7), reason="BeginTime"))
    assert (stored.status, stored.attempt, moves) == (S.PENDING, 0, [(0, S.PENDING, "squeue")])
    assert stored.attempts[0].time_started is None
    end = row("COMPLETED", time_submitted=at(7), start=20, end=30)
    stored, moves = decide(stored, end)
    assert (stored.status, stored.time_started, len(stored.attempts)) == (S.COMPLETED, at(20), 1)
    assert moves == [(0, S.RUNNING, "sacct"), (0, S.COMPLETED, "sacct")]


def test_what_was_said_of_a_start_that_was_taken_back_comes_too_late():
    stored = after(run(), (squeue("RUNNING"),), (squeue("RUNNING", time_submitted=at(7), start=20),))
    assert stored.time_started == at(20)
    assert decide(stored, squeue("SUSPENDED"))[0].time_started == at(20)
    assert decide(stored, squeue("SUSPENDED"))[0].status is S.RUNNING


def test_of_two_answers_the_later_counts():
    earlier, later = row("RUNNING", end=None, time=at(900)), row("COMPLETED", time=at(910))
    for facts in ((earlier, later), (later, earlier)):
        assert decide(run(), *facts)[0].status is S.COMPLETED


# ---- 4. Ids are used again -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stranger",
    [
        {"user_name": "bob"},
        {"cluster": "other"},
        {"time_submitted": at(-4000)},
        {"time_submitted": at(9000)},
    ],
)
def test_another_job_with_the_same_id(stranger):
    for found in (squeue("RUNNING", **stranger), row("FAILED", **stranger)):
        stored, moves = decide(run(), found)
        assert (stored.status, moves, stored.missing_since) == (S.PENDING, [], at(1000))


def test_our_clock_and_slurms_may_differ():
    for skew in (-200, 200, 3000):
        assert decide(run(), squeue("RUNNING", time_submitted=at(skew)))[0].status is S.RUNNING


def test_a_requeued_job_was_submitted_later():
    stored, _ = decide(run(), squeue("RUNNING", attempt=3, time_submitted=at(90_000), start=90_001))
    assert (stored.status, stored.attempt) == (S.RUNNING, 3)


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


# ---- 9. Arrays -------------------------------------------------------------------------------------------


def test_one_line_for_many_tasks():
    line = squeue(
        "PENDING", job_id=20, array_job_id=20, array_tasks=(range(1, 6), range(7, 8)), reason="Resources"
    )
    stored = [task(number) for number in range(8)]
    changes = plan([line], stored, at(1000), survey=QUEUE)
    listed = {c.run.array_task_id for c in changes if c.run.reason == "Resources"}
    assert listed == {1, 2, 3, 4, 5, 7}
    assert {c.run.array_task_id for c in changes if c.run.missing_since} == {0, 6}
    assert {c.run.slurm_job_id for c in changes} == {None}, "the array's id is not the task's"


def test_a_task_gets_its_own_id():
    stored, _ = decide(task(3), squeue("RUNNING", job_id=23, array_job_id=20, array_task_id=3))
    assert stored.slurm_job_id == 23


def test_its_own_line_goes_before_the_arrays():
    own = squeue("RUNNING", job_id=23, array_job_id=20, array_task_id=3)
    line = squeue("PENDING", job_id=20, array_job_id=20, array_tasks=(range(10),))
    assert decide(task(3), line, own)[0].status is S.RUNNING


def test_an_array_cancelled_before_it_started():
    line = row(
        "CANCELLED by 1000", start=None, job_id=20, array_job_id=20, array_tasks=(range(4),), reason="who"
    )
    stored, moves = decide(task(2), line)
    assert (stored.status, stored.reason, stored.time_ended) == (S.CANCELLED, "who", at(50))
    assert (stored.time_started, stored.slurm_job_id, moves) == (None, None, [(0, S.CANCELLED, "sacct")])


def test_a_task_taken_out_of_its_array():
    sibling = row("COMPLETED", job_id=24, array_job_id=20, array_task_id=4)
    stored, _ = decide(task(2), sibling)
    assert (stored.status, stored.missing_since, stored.time_ended) == (S.PENDING, at(1000), None)
    stored, moves = decide(stored, sibling, now=2000)
    assert (stored.status, stored.reason, stored.time_ended) == (S.CANCELLED, TAKEN_OUT, at(1000))
    assert moves == [(0, S.CANCELLED, "sacct")]
    stored, moves = decide(stored, relay("hello", run_id=2), now=2001, survey=Survey())
    assert (stored.status, stored.time_ended) == (S.RUNNING, None), "it did start, as its relay says"


def test_a_task_of_an_array_that_slurm_forgot_is_unknown():
    stored, moves = decide(task(2, missing_since=at(0)), now=5000)
    assert (stored.status, stored.reason, stored.time_ended, moves) == (S.PENDING, UNKNOWN, None, [])


def test_tasks_that_we_do_not_know():
    line = squeue("PENDING", job_id=20, array_job_id=20, array_tasks=(range(4),))
    own = squeue("RUNNING", job_id=29, array_job_id=20, array_task_id=9)
    stranger = squeue("RUNNING", job_id=31, array_job_id=30, array_task_id=1)
    stored = [task(1), task(2)]
    assert matching.missing_tasks([line, own, stranger], stored) == [(1, 0), (1, 3), (1, 9)]
    assert matching.missing_tasks([squeue("PENDING", array_job_id=20, user_name="bob")], stored) == []


# ---- Het jobs --------------------------------------------------------------------------------------------


def component(make, *arguments, offset, **fields):
    return make(*arguments, job_id=10 + offset, het_job_id=10, het_offset=offset, **fields)


def test_components_are_kept_with_the_run():
    facts = [component(squeue, "RUNNING", offset=0), component(squeue, "RUNNING", offset=1, node="n2")]
    stored, _ = decide(run(), *facts)
    [kept] = stored.attempts[0].resources["components"]
    assert kept == {"offset": 1, "job_id": 11, "state": "RUNNING", "node_list": "n2"}


def test_a_het_job_lives_while_a_component_does():
    stored, _ = decide(
        run(), component(row, "COMPLETED", offset=0), component(squeue, "COMPLETING", offset=1)
    )
    assert (stored.status, stored.time_ended) == (S.COMPLETED, None)
    stored, _ = decide(stored, component(row, "COMPLETED", offset=0), component(row, "COMPLETED", offset=1))
    assert stored.time_ended == at(50)


# ---- What relays say -------------------------------------------------------------------------------------


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
    stored, moves = decide(stored, row("OUT_OF_MEMORY", exit_code=0, exit_signal=125))
    attempt = stored.attempts[0]
    assert (stored.status, stored.exit_code, attempt.exit_code) == (S.OUT_OF_MEMORY, 0, 0)
    assert (attempt.slurm_exit_code, attempt.slurm_exit_signal, attempt.time_ended) == (0, 125, at(50))


def test_a_late_hello_changes_nothing():
    stored = after(run(), (row("COMPLETED"),))
    late, moves = decide(stored, relay("hello"), survey=Survey())
    assert (late.status, late.time_ended, late.time_started, moves) == (S.COMPLETED, at(50), at(5), [])


def test_a_late_fin_fills_in_the_exit():
    stored = after(run(), (row("FAILED", exit_code=3),))
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
        stored, moves = decide(stored, now=1000 + GRACE.total_seconds())
        assert (stored.status, stored.time_ended, moves) == (status, at(40), [(0, status, "relay")])


def test_while_accounting_does_not_answer_nothing_is_decided():
    stored, _ = decide(run(), relay("hello"), relay("fin", exit_code=0), survey=Survey())
    assert after(stored, ()).missing_since == at(1000)
    stored, _ = decide(after(stored, ()), now=99_999, survey=QUEUE)
    assert stored.time_ended is None


def test_odd_bodies_are_left_out():
    for body in ({}, {"time": "x", "exit_code": "0", "node": 5}, {"time": 1e300, "exit_code": 1 << 40}):
        for kind in ("hello", "start", "fin"):
            message = RelayMessage(1, 0, kind, body)
            found = relayed.fact_of(message, at(7))
            assert found
            assert (found.time, found.exit_code, found.batch_host) == (at(7), None, None)
    assert relayed.fact_of(RelayMessage(1, 0, "usage", {}), at(7)) is None
    text = relayed.fact_of(RelayMessage(1, 0, "fin", {"stderr_tail": "a\x00\udcff" + "b" * 9999}), at(7))
    assert text
    assert text.stderr_tail == "b" * 4096
    env = relayed.environment_of(RelayMessage(1, 0, "start", {"env": {"A": "\x00", "B": 1, "C": "c"}}))
    assert env == {"A": "\ufffd", "C": "c"}


# ---- hpctrack run ----------------------------------------------------------------------------------------


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
    ({}, S.FAILED),
]


@pytest.mark.parametrize(("body", "status"), ENDS)
@pytest.mark.parametrize("cluster", [None, "mini"])
def test_a_command_ends_when_it_says_so(body, status, cluster):
    stored = command(cluster=cluster)
    stored, moves = decide(stored, relay("hello", when=101), relay("fin", when=140, **body), survey=Survey())
    assert (stored.status, stored.time_ended, stored.time_started) == (status, at(140), at(101))
    assert moves == [(0, S.RUNNING, "relay"), (0, status, "relay")]


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


# ---- Any job, any order ----------------------------------------------------------------------------------

FINAL = [S.COMPLETED, S.FAILED, S.CANCELLED, S.TIMEOUT, S.NODE_FAIL, S.OUT_OF_MEMORY, S.DEADLINE, S.PREEMPTED]
BETWEEN = [S.PREEMPTED, S.REQUEUED, S.NODE_FAIL, S.FAILED]


@st.composite
def lives(draw):
    """A job from its submission to its end: squeue's lines in order, sacct's rows, the relay's messages."""
    lines, rows, messages = [], [], []
    clock, restarts = 0, draw(st.integers(0, 3))
    for attempt in range(restarts + 1):
        submitted = at(clock)
        line = {"attempt": attempt, "time_submitted": submitted}
        lines.append(squeue("PENDING", reason="Priority", **line, time=at(clock + 1)))
        started = clock + draw(st.integers(2, 20))
        begun = {**line, "start": started}
        for state in draw(st.lists(st.sampled_from(["RUNNING", "SUSPENDED"]), max_size=3)):
            lines.append(squeue(state, **begun, time=at(started + 1 + len(lines))))
        ended = started + draw(st.integers(20, 99))
        if draw(st.booleans()):
            completing = {**begun, "attempt": attempt + (attempt < restarts)}
            lines.append(squeue("COMPLETING", **completing, time=at(ended)))
        end = draw(st.sampled_from(BETWEEN if attempt < restarts else FINAL))
        rows.append(row(end.value, start=started, end=ended, time_submitted=submitted, exit_code=attempt))
        if draw(st.booleans()):
            messages.append(relay("hello", attempt, started + 1, node="n1"))
            messages.append(relay("start", attempt, started + 2, stdout="/o"))
            if draw(st.booleans()):
                messages.append(relay("fin", attempt, ended - 1, exit_code=attempt, stderr_tail="tail"))
        clock = ended + draw(st.integers(1, 5))
    return lines, rows, messages, clock


def essence(stored):
    """What must not depend on the order: all but what the reconciler saw when."""
    attempts = tuple(a._replace(resources={}) for a in stored.attempts)
    return stored._replace(time_seen=None, attempts=attempts, slurm_state=None, job_name=None)


def finished(stored, rows, clock):
    """Let squeue not list the job any more, until nothing can follow any more."""
    for now in (clock + 3600, clock + 7200):
        stored, _ = decide(stored, *rows, now=now)
    return stored


@given(lives(), st.randoms(use_true_random=False))
def test_the_order_of_facts_and_repetition_do_not_matter(life, shuffle):
    lines, rows, messages, clock = life
    facts = [*lines[-1:], *rows, *messages]
    expected = plan(facts, [run()], at(clock), survey=ALL)
    mixed = facts + shuffle.choices(facts, k=3)
    shuffle.shuffle(mixed)
    assert plan(mixed, [run()], at(clock), survey=ALL) == expected


@given(lives(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_whenever_messages_arrive_the_end_is_the_same(life, shuffle):
    """Messages of the relay before, between and after the passes, late ones and repeated ones."""
    lines, rows, messages, clock = life
    expected = finished(decide(run(), *messages, now=clock, survey=Survey())[0], rows, clock)
    events = [(line, QUEUE) for line in lines]
    for message in messages + shuffle.choices(messages, k=2) if messages else []:
        events.insert(shuffle.randrange(len(events) + 1), (message, Survey()))
    late = [event for event in events if event[1] != QUEUE and shuffle.random() < 0.3]
    stored = run()
    for found, survey in [event for event in events if event not in late]:
        stored, _ = decide(stored, found, now=clock, survey=survey)
    stored = finished(stored, rows, clock)
    for found, survey in late:
        stored, _ = decide(stored, found, now=clock + 9999, survey=survey)
    assert essence(stored) == essence(expected)
    assert (stored.status, stored.time_ended) == (rows[-1].status, rows[-1].time_ended)
    assert [(a.status, a.time_started, a.time_ended, a.slurm_exit_code) for a in stored.attempts] == [
        (r.status, r.time_started, r.time_ended, r.exit_code) for r in rows
    ]


@given(lives(), st.randoms(use_true_random=False))
def test_what_was_applied_is_not_applied_again(life, shuffle):
    lines, rows, messages, clock = life
    for survey, facts in ((QUEUE, [shuffle.choice(lines)]), (Survey(), messages), (ALL, rows), (ALL, [])):
        stored, _ = decide(run(), *facts, now=clock, survey=survey)
        assert plan(facts, [stored], at(clock), survey=survey) == []


@given(lives(), st.randoms(use_true_random=False))
def test_nothing_ends_while_squeue_lists_it(life, shuffle):
    lines, rows, messages, clock = life
    stored = run()
    for line in lines:
        known = [r for r in rows if r.time_submitted <= line.time_submitted]
        stored, _ = decide(stored, line, *known, *shuffle.sample(messages, len(messages) // 2), now=clock)
        assert stored.time_ended is None
        assert states.ends(stored.status) is Ends.NOTHING


@given(lives(), st.randoms(use_true_random=False))
def test_transitions_go_forward(life, shuffle):
    lines, rows, messages, clock = life
    stored, noted = run(), []
    passes = [((line,), QUEUE) for line in lines]
    for message in messages:
        passes.insert(shuffle.randrange(len(passes) + 1), ((message,), Survey()))
    for facts, survey in [*passes, (rows, ALL)]:
        stored, moves = decide(stored, *facts, now=clock, survey=survey)
        noted += [(attempt, status) for attempt, status, _ in moves]
    for number in {attempt for attempt, _ in noted}:
        own = [status for attempt, status in noted if attempt == number]
        stages = [states.stage_of(status) for status in own]
        assert stages == sorted(stages)
        assert all(before is not after for before, after in itertools.pairwise(own))
    assert noted[-1][1] is stored.status
    assert len([s for _, s in noted if states.stage_of(s) is Stage.ENDED]) == len(rows)


def test_many_runs_are_told_apart():
    count = 20_000
    stored = [run(run_id=n, slurm_job_id=n) for n in range(1, count + 1)]
    facts = [squeue("RUNNING", job_id=n, node=f"n{n}") for n in range(1, count + 1)]
    random.Random(1).shuffle(facts)
    changes = plan(facts, stored, at(1000), survey=QUEUE)
    assert [change.run.node_list for change in changes] == [f"n{n}" for n in range(1, count + 1)]
    assert plan(facts, [change.run for change in changes], at(1000), survey=QUEUE) == []
