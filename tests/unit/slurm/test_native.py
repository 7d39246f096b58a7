"""What pyslurm tells, recorded beside what squeue and sacct printed just then: the facts are the same."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from hpctrack import errors
from hpctrack.run.states import RunStatus
from hpctrack.slurm import native, parse
from tests.support.paths import DATA

RECORDED = DATA / "slurm-25.11.7"
NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)
DELIMITER = "\x1f#\x1f"


def recorded(name):
    return json.loads((RECORDED / f"pyslurm-{name}.json").read_text())["jobs"]


def recorded_fields():
    """What was asked for then: without SLUIDs."""
    offered = parse.sacct_fields((RECORDED / "sacct-helpformat.txt").read_text())
    return [field for field in offered if "SLUID" not in field]


def by_execution(facts):
    return {(fact.job_id, fact.time_submitted): fact for fact in facts}


def comparable(fact):
    """Without what the two differ in; docs/site.md, "Load", has the list."""
    resources = {name: value for name, value in fact.resources.items() if name != "cpu_s"}
    array = fact.array_job_id if fact.array_task_id is not None else None
    tasks = tuple(range(task, task + 1) for part in fact.array_tasks for task in part)
    return fact._replace(
        raw=fact.raw.split()[0],
        array_job_id=array,
        het_offset=None,
        array_tasks=tasks,
        resources=resources,
    )


def test_the_queue_is_the_same():
    theirs = by_execution(native.live_fact(job, NOW) for job in recorded("queue"))
    fields = [field for field in parse.SQUEUE_FIELDS if field not in ("TimeUsed", "SLUID")]
    text = (RECORDED / "squeue.txt").read_text()
    ours = by_execution(parse.squeue(text, DELIMITER, "slurm25", NOW, fields))
    assert len(ours) > 15
    assert {fact.status for fact in ours.values()} >= {RunStatus.PENDING, RunStatus.RUNNING, RunStatus.FAILED}
    assert theirs.keys() == ours.keys()
    for execution, fact in ours.items():
        assert comparable(theirs[execution]) == comparable(fact)


def test_what_is_on_record_is_the_same():
    fields = recorded_fields()
    rows = parse.sacct((RECORDED / "sacct.txt").read_text(), DELIMITER, fields, NOW, {1001: "hpcalice"}.get)
    ours = by_execution(rows)
    theirs = by_execution(native.accounted_fact(job, NOW) for job in recorded("ended"))
    missing = ours.keys() - theirs.keys()
    assert [ours[job_id].status for job_id in missing] == [RunStatus.REQUEUED], "pyslurm has the newest only"
    assert {ours[job_id].status for job_id in theirs} >= {
        RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.OUT_OF_MEMORY,
    }  # fmt: skip
    for execution, fact in theirs.items():
        assert comparable(fact) == comparable(ours[execution])


def test_newer_releases_count_restarts_in_accounting():
    fields = recorded_fields()
    rows = parse.sacct((RECORDED / "sacct.txt").read_text(), DELIMITER, fields, NOW)
    twice = [row.job_id for row in rows if row.status is RunStatus.REQUEUED]
    assert [(row.attempt, row.status) for row in rows if row.job_id == twice[0]] == [
        (0, RunStatus.REQUEUED), (1, RunStatus.FAILED),
    ]  # fmt: skip


@pytest.mark.parametrize("broken", [{"id": None}, {"state": None, "id": "x"}, {"submit_time": "soon"}])
def test_what_cant_be_read_is_refused(broken):
    job = recorded("ended")[0] | broken
    for read in (native.live_fact, native.accounted_fact):
        with pytest.raises(errors.SlurmError, match="pyslurm"):
            read(job, NOW)


def test_a_word_that_nobody_knows_is_kept():
    fact = native.live_fact(recorded("queue")[0] | {"state": "HIBERNATING"}, NOW)
    assert (fact.raw, fact.status) == ("HIBERNATING", None)
