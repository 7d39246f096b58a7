"""The plan: tasks of arrays and components of heterogeneous jobs."""

from __future__ import annotations

from hpctrack.reconcile import matching
from hpctrack.reconcile.plan import TAKEN_OUT, UNKNOWN, Survey, plan
from tests.support.facts import QUEUE, S, at, decide, relay, row, run, squeue, task


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
    stored, _ = decide(stored, sibling, now=2000)
    assert (stored.time_ended, stored.reason) == (None, UNKNOWN), "slurmdbd may have been away until now"
    stored, moves = decide(stored, sibling, now=2060)
    assert (stored.status, stored.reason, stored.time_ended) == (S.CANCELLED, TAKEN_OUT, at(1000))
    assert moves == [(0, S.CANCELLED, "sacct")]
    late = row("COMPLETED", job_id=22, array_job_id=20, array_task_id=2)
    known, _ = decide(stored, sibling, late, now=stored.recheck_after.timestamp() - at(0).timestamp())
    assert (known.status, known.reason, known.time_ended) == (S.COMPLETED, None, at(50))
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
    assert matching.missing_tasks([squeue("PENDING", array_job_id=20, slurm_user="bob")], stored) == []


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
