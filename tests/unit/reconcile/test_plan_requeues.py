"""The plan: requeued jobs are one run, and job ids are used again."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from hpctrack.model import JobFacts
from hpctrack.reconcile.attempts import UNKNOWN, UNTOLD
from hpctrack.reconcile.inquiry import Inquiry
from hpctrack.reconcile.plan import GRACE, Survey
from hpctrack.run.states import Stage
from tests.support.facts import ALL, QUEUE, S, after, at, decide, relay, row, run, squeue


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
        assert stored.status.stage is not Stage.ENDED


def test_an_end_without_its_time_is_not_told_yet():
    """What slurmdbd knows for a moment after an outage: the start, with the state that the job has by now."""
    stored, moves = decide(run(), row("FAILED", end=None))
    assert (stored.status, stored.time_ended, moves) == (S.PENDING, None, [])
    stored, _ = decide(stored, row("FAILED", slurm_exit_code=2))
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
    stored, again = run(), squeue("RUNNING", attempt=1, start=90, time_submitted=at(60))
    for line in squeue("RUNNING"), again:
        stored, _ = decide(stored, line, survey=QUEUE)
    assert [a.status for a in stored.attempts] == [S.RUNNING, S.RUNNING]
    stored, moves = decide(stored, again, row("NODE_FAIL"))
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


def test_that_it_was_requeued_is_not_unlearnt_while_squeue_may_list_it():
    stored, _ = decide(run(), row("REQUEUED"))
    again, moves = decide(stored._replace(missing_since=None), row("FAILED"))
    assert (again.status, again.time_ended, moves) == (S.REQUEUED, None, [])


@pytest.mark.parametrize("end", ["CANCELLED", "FAILED", "PREEMPTED"])
def test_cancelled_while_it_completed_for_its_requeue(end):
    """Accounting says REQUEUED first, of the one execution there is."""
    stored = after(run(), (squeue("RUNNING"),), (squeue("COMPLETING", 1),), (row("REQUEUED"),))
    assert (stored.status, stored.time_ended) == (S.REQUEUED, None)
    stored, moves = decide(stored, row(end, slurm_exit_code=9))
    assert (stored.status, moves) == (S[end], [(0, S[end], "sacct")])
    assert stored.attempts[0].slurm_exit_code == 9
    assert (stored.time_ended is None) == (end == "PREEMPTED")


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


# ---- Accounting says the same count of restarts of two executions ------------------------------------------


def counted_twice(end="FAILED"):
    """Rows as 25.11 and 26.05 have them for good if slurmctld was started anew between the two."""
    return (
        row("REQUEUED", end=50, attempt=1, slurm_exit_code=9),
        row(end, start=60, end=90, attempt=1, time_submitted=at(51), slurm_exit_code=3),
    )


def assert_executed(stored, end=S.FAILED):
    told = [(a.attempt, a.status, a.time_started, a.time_ended, a.slurm_exit_code) for a in stored.attempts]
    assert told == [(0, S.REQUEUED, at(5), at(50), 9), (1, end, at(60), at(90), 3)]
    assert (stored.status, stored.attempt, stored.time_ended) == (end, 1, at(90))


@pytest.mark.parametrize("end", ["FAILED", "COMPLETED", "CANCELLED"])
def test_counted_twice_where_squeue_never_saw_it(end):
    assert_executed(after(run(), counted_twice(end)), S[end])


def test_counted_twice_while_the_collector_was_stopped():
    assert_executed(after(run(), (squeue("RUNNING"),), counted_twice()))
    told = decide(run(), relay("hello"), relay("hello", 1, 60), relay("fin", 1, 90), survey=Survey())[0]
    assert_executed(after(told, counted_twice()))


def test_counted_twice_while_slurmdbd_was_away():
    again = {"attempt": 1, "time_submitted": at(51)}
    lines = squeue("RUNNING"), squeue("COMPLETING", 1), squeue("PENDING", **again)
    stored = run()
    for line in (*lines, squeue("RUNNING", start=60, **again)):
        stored, _ = decide(stored, line, survey=QUEUE)
    assert [attempt.status for attempt in stored.attempts] == [S.COMPLETING, S.RUNNING]
    assert_executed(after(stored, counted_twice()))


def test_the_first_attempt_ends_though_it_is_counted_too_high():
    """While squeue lists the second one."""
    first, _ = counted_twice()
    again = squeue("RUNNING", 1, start=60, time_submitted=at(51))
    stored = after(run(), (squeue("RUNNING"),), (again, first))
    assert [attempt.status for attempt in stored.attempts] == [S.REQUEUED, S.RUNNING]


def test_a_row_that_came_alone_and_was_counted_too_high():
    first, second = counted_twice()
    stored, _ = decide(run(), first)
    assert [(attempt.attempt, attempt.status) for attempt in stored.attempts] == [(0, S.REQUEUED)]
    assert_executed(after(stored, (first, second)))


def test_rows_that_come_alone_though_two_have_one_count():
    """The third execution takes the number that the second was stored under; neither keeps the other's."""
    first = row("REQUEUED", end=50, attempt=0)
    second = row("REQUEUED", start=60, end=90, attempt=2, time_submitted=at(51))
    third = row("COMPLETED", start=100, end=120, attempt=2, time_submitted=at(91))
    stored = after(run(), (second,), (third,), (first, second, third))
    told = [(a.attempt, a.status, a.time_started, a.time_ended) for a in stored.attempts]
    ends = [(S.REQUEUED, at(5), at(50)), (S.REQUEUED, at(60), at(90)), (S.COMPLETED, at(100), at(120))]
    assert told == [(number, *end) for number, end in enumerate(ends)]
    assert stored.status is S.COMPLETED


def test_an_execution_that_was_stored_under_the_wrong_number_is_moved():
    first, second = counted_twice()
    relayed = decide(run(), relay("hello", 1, 60), relay("fin", 1, 90, exit_code=3), survey=Survey())[0]
    wrong, _ = decide(relayed, first._replace(status=S.TIMEOUT, raw="TIMEOUT"))
    assert [(attempt.attempt, attempt.status) for attempt in wrong.attempts] == [(1, S.TIMEOUT)]
    stored = after(wrong._replace(recheck_after=at(1)), (first, second))
    assert_executed(stored)
    assert stored.attempts[1].exit_code == 3, "what the relay said is of the attempt that it named"
    live = squeue("RUNNING", 1, start=60, time_submitted=at(51))
    stored = after(wrong, (live,))
    assert (stored.status, stored.time_started) == (S.RUNNING, at(60))


def test_without_accounting_the_first_execution_has_ended_when_the_run_has():
    again = {"attempt": 1, "time_submitted": at(51)}
    ended = squeue("COMPLETED", start=60, time_ended=at(90), **again)
    stored = after(run(), (squeue("RUNNING"),), (squeue("COMPLETING", 1),), (squeue("PENDING", **again),))
    stored = after(stored, (squeue("RUNNING", start=60, **again),), (ended,))
    assert [(a.status, a.time_ended, a.reason) for a in stored.attempts] == [
        (S.REQUEUED, at(51), UNTOLD), (S.COMPLETED, at(90), None),
    ]  # fmt: skip
    rows = row("NODE_FAIL"), row("COMPLETED", start=60, end=90, time_submitted=at(51))
    stored, _ = decide(stored, *rows)
    assert (stored.attempts[0].status, stored.attempts[0].reason) == (S.NODE_FAIL, None), "accounting lagged"


def test_without_accounting_the_first_execution_ends_while_the_second_goes_on():
    again = {"attempt": 1, "time_submitted": at(960)}
    lines = (squeue("PENDING", **again),), (squeue("RUNNING", start=990, **again),)
    stored = after(run(), (squeue("RUNNING"),), (squeue("COMPLETING", 1),), *lines)
    line = squeue("RUNNING", start=990, **again)
    for now, survey in (960 + GRACE.total_seconds() - 1, ALL), (2000, QUEUE):
        assert decide(stored, line, now=now, survey=survey)[0].attempts[0].status is S.COMPLETING
    stored, moves = decide(stored, line, now=2000)
    first, second = stored.attempts
    assert (first.status, first.time_ended, first.reason) == (S.REQUEUED, at(960), UNTOLD)
    assert (second.status, stored.time_ended, moves) == (S.RUNNING, None, [(0, S.REQUEUED, "squeue")])


@dataclass
class Asked:
    """A backend that lists one job and notes the jobs that accounting is asked about."""

    line: JobFacts
    jobs: list[str] = field(default_factory=list)

    def queue(self, users):
        return [self.line]

    def ended(self, jobs, since):
        self.jobs += jobs
        return []


@pytest.mark.parametrize(
    ("hours", "known", "asked"), [(3, True, True), (0.5, False, True), (3, False, False)]
)
def test_whether_accounting_is_asked_for_the_end_of_an_earlier_execution(hours, known, asked):
    """Of one that we know for as long as it takes: the collector may have been away for hours."""
    stored = after(run(), (squeue("RUNNING"),)) if known else run()
    backend = Asked(squeue("RUNNING", 1, start=70, time_submitted=at(60)))
    Inquiry(backend, None, [stored], at(60 + hours * 3600)).ask()
    assert backend.jobs == (["10"] if asked else [])


@pytest.mark.parametrize(("code", "asked"), [(0, True), (None, False)])
def test_accounting_is_asked_in_each_pass_about_a_script_that_has_ended(code, asked):
    """Its end counts once accounting has had none twice; other unknown jobs are asked for rarely."""
    stored = run(reason=UNKNOWN, missing_since=at(0), exit_code=code)
    backend = Asked(squeue("RUNNING", job_id=11))
    Inquiry(backend, None, [stored], at(40_000), at(39_990)).ask()
    assert backend.jobs == (["10"] if asked else [])


def test_where_accounting_has_lost_the_first_execution():
    """A release that says no count."""
    stored = after(run(), (squeue("RUNNING"),), (row("REQUEUED"),))
    stored = after(stored, (row("COMPLETED", 60, 90, time_submitted=at(51)),))
    assert [(a.attempt, a.status) for a in stored.attempts] == [(0, S.REQUEUED), (1, S.COMPLETED)]


def test_more_rows_than_the_job_was_executed_are_of_one_that_had_the_id():
    rows = row("FAILED", end=9, attempt=1), row("REQUEUED", 20, 30, attempt=1, time_submitted=at(15))
    stored = after(run(), (squeue("RUNNING", 1, start=60, time_submitted=at(51)), *rows))
    assert [(a.attempt, a.status, a.time_ended) for a in stored.attempts] == [
        (0, S.REQUEUED, at(30)), (1, S.RUNNING, None),
    ]  # fmt: skip


# ---- 4. Ids are used again -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stranger",
    [
        {"slurm_user": "bob"},
        {"cluster": "other"},
        {"time_submitted": at(-4000)},
        {"time_submitted": at(9000)},
    ],
)
def test_another_job_with_the_same_id(stranger):
    for fact in (squeue("RUNNING", **stranger), row("FAILED", **stranger)):
        stored, moves = decide(run(), fact)
        assert (stored.status, moves, stored.missing_since) == (S.PENDING, [], at(1000))


def test_a_later_job_that_was_requeued_and_has_the_id_of_a_run_that_is_gone():
    year = 400 * 86400
    later = {"time_submitted": at(year), "time_started": at(year + 1)}
    live = squeue("RUNNING", 1, **later)
    over = after(run(), (row("COMPLETED"),))
    assert decide(over, live)[0].time_ended == at(50)
    rows = row("COMPLETED"), row("FAILED", attempt=1, time_ended=at(year + 9), **later)
    for facts in (rows, (*rows, squeue("RUNNING", 2, time_submitted=at(year + 10), start=year + 11))):
        stored, _ = decide(run(), *facts)
        assert [attempt.status for attempt in stored.attempts] == [S.COMPLETED]
    unknown = run(reason=UNKNOWN, missing_since=at(600))
    assert decide(unknown, live)[0].status is S.PENDING
    soon = squeue("RUNNING", 1, time_submitted=at(3600), start=3601)
    assert decide(over, soon)[0].status is S.RUNNING, "slurmctld may remember it so long"


def test_our_clock_and_slurms_may_differ():
    for skew in (-200, 200, 3000):
        assert decide(run(), squeue("RUNNING", time_submitted=at(skew)))[0].status is S.RUNNING


def test_a_requeued_job_was_submitted_later():
    stored, _ = decide(run(), squeue("RUNNING", attempt=3, time_submitted=at(90_000), start=90_001))
    assert (stored.status, stored.attempt) == (S.RUNNING, 3)
