"""What every way of asking Slurm must tell: one suite, over each backend, on a real Slurm.

For pyslurm it is skipped, with the reason, where that is missing or not of the cluster's release.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from hpctrack import errors
from hpctrack.model import JobFacts
from hpctrack.reconcile import matching
from hpctrack.run.states import RunStatus
from hpctrack.slurm import accounting, backend

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

USER = "hpcalice"
NAME = 'a|name with "quotes"'
SUBMITTED = datetime.now(timezone.utc) - timedelta(minutes=5)


@pytest.fixture(scope="module")
def command(cluster: Any) -> Callable[..., str]:
    """Run one of Slurm's commands as an ordinary user."""

    def run(*argv: object) -> str:
        done = subprocess.run(
            cluster.command_as(USER, *map(str, argv)), check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def jobs(
    cluster: Any, command: Callable[..., str], await_until: Callable[..., Any]
) -> Iterator[dict[str, int]]:
    """Jobs of all sorts, by name; those that end have ended."""
    states: dict[str, int] = {}

    def submit(name: str, *options: object, script: str) -> None:
        argv = ("--parsable", "-o", "/dev/null", "-t", "2", *options, "--wrap", script)
        states[name] = int(command("sbatch", *argv))

    submit("held", "-H", "-J", NAME, script="true")
    submit("running", "-p", "hidden", "-w", "n1", "-t", "1:02:03", script="sleep 200")
    submit("tasks held", "-H", "-a", "0-6:2%2", script="true")
    submit("completed", "-n2", script="sleep 1")
    submit("failed", script="exit 3")
    submit("cancelled", script="sleep 200")
    submit("tasks", "-a", "0-2", script="exit $SLURM_ARRAY_TASK_ID")
    submit("het", "-n1", "--no-requeue", ":", "-n1", "--no-requeue", script="sleep 1")
    submit("requeued", script='[ "${SLURM_RESTART_COUNT:-0}" -ge 1 ] && exit 5; exit 111')
    try:
        lasting = ("held", "running", "tasks held")
        ending = set(states.values()) - {states[name] for name in lasting}
        await_until(lambda: _state(command, states["cancelled"]) == "RUNNING", 60, "the job to cancel")
        command("scancel", states["cancelled"])
        await_until(lambda: not ending & _listed(command), 90, "the ends of the jobs")
        await_until(lambda: _state(command, states["running"]) == "RUNNING", 60, "the running job")
        await_until(lambda: _books(command, states["requeued"]) == ["REQUEUED", "FAILED"], 30, "the books")
        time.sleep(2)  # slurmdbd learns of a job a moment after squeue has let it go
        yield states
    finally:
        command("scancel", *states.values())


def _state(command: Callable[..., str], job: int) -> str:
    return command("squeue", "-a", "-h", "-j", job, "-o", "%T").strip()


def _listed(command: Callable[..., str]) -> set[int]:
    return {int(word) for word in command("squeue", "-a", "-h", "-o", "%F").split()}


def _books(command: Callable[..., str], job: int) -> list[str]:
    return command("sacct", "-n", "-X", "-P", "-D", "-j", job, "-o", "State").split()


@pytest.fixture(params=["cli", "pyslurm"])
def asked(request: pytest.FixtureRequest, cluster: Any) -> accounting.Backend:
    """A backend, or the reason why it can't be used here."""
    try:
        return backend.choose(request.param, cluster.layout.name, cluster.env())
    except errors.SlurmError as error:
        pytest.skip(str(error))


def queued(asked: accounting.Backend, job: int) -> list[JobFacts]:
    """What is told of a job in the queue."""
    return [fact for fact in asked.queue() if job in (fact.job_id, fact.array_job_id, fact.het_job_id)]


def on_record(asked: accounting.Backend, *jobs: object) -> list[JobFacts]:
    """What is told of jobs on record, in the order of their executions."""
    facts = asked.ended([str(job) for job in jobs], SUBMITTED)
    return sorted(facts, key=lambda fact: (fact.job_id, fact.time_submitted or SUBMITTED))


def test_a_pending_job(asked, jobs, cluster):
    [fact] = queued(asked, jobs["held"])
    assert (fact.source, fact.status, fact.raw) == ("squeue", RunStatus.PENDING, "PENDING")
    assert (fact.reason, fact.job_name, fact.slurm_user) == ("JobHeldUser", NAME, USER)
    assert (fact.cluster, fact.partition, fact.attempt) == (cluster.layout.name, "main", 0)
    assert (fact.node_list, fact.time_started, fact.time_ended) == (None, None, None)
    assert fact.time_submitted is not None
    assert SUBMITTED < fact.time_submitted <= datetime.now(timezone.utc)


def test_a_running_job_of_a_hidden_partition(asked, jobs):
    [fact] = queued(asked, jobs["running"])
    assert (fact.status, fact.partition, fact.node_list, fact.batch_host) == (
        RunStatus.RUNNING, "hidden", "n1", "n1",
    )  # fmt: skip
    assert fact.time_started is not None
    assert fact.time_submitted is not None
    assert fact.time_submitted <= fact.time_started
    assert fact.time_ended is None, "when it will be killed is a forecast"
    assert fact.time_limit == timedelta(hours=1, minutes=3), "Slurm counts whole minutes"
    assert (fact.slurm_exit_code, fact.slurm_exit_signal) == (None, None)


def test_tasks_that_wait_stand_together(asked, jobs):
    [fact] = queued(asked, jobs["tasks held"])
    assert [task for part in fact.array_tasks for task in part] == [0, 2, 4, 6]
    assert (fact.array_job_id or fact.job_id, fact.array_task_id) == (jobs["tasks held"], None)


def test_only_what_goes_on_is_in_the_queue(asked, jobs):
    listed = {fact.array_job_id or fact.job_id for fact in asked.queue()}
    assert listed & set(jobs.values()) == {jobs[name] for name in ("held", "running", "tasks held")}


def test_users_are_told_apart(asked, jobs):
    assert {fact.slurm_user for fact in asked.queue([USER])} == {USER}
    assert jobs["held"] not in {fact.job_id for fact in asked.queue(["root"])}


ENDS = {
    "completed": (RunStatus.COMPLETED, 0, 0, None),
    "failed": (RunStatus.FAILED, 3, 0, None),
    "cancelled": (RunStatus.CANCELLED, 0, 0, f"CANCELLED by {USER}"),
}


@pytest.mark.parametrize("name", ENDS)
def test_an_end(asked, jobs, name):
    status, code, _, reason = ENDS[name]
    [fact] = on_record(asked, jobs[name])
    assert (fact.source, fact.status, fact.slurm_exit_code, fact.reason) == ("sacct", status, code, reason)
    assert fact.time_submitted is not None
    assert fact.time_started is not None
    assert fact.time_ended is not None
    assert fact.time_submitted <= fact.time_started <= fact.time_ended
    assert str(fact.node_list).startswith("n")
    assert (fact.slurm_user, fact.partition, fact.time_limit) == (USER, "main", timedelta(minutes=2))


def test_resources_have_units(asked, jobs):
    [fact] = on_record(asked, jobs["completed"])
    resources = fact.resources
    assert 1 <= resources["elapsed_s"] < 60
    assert 0 <= resources["cpu_s"] < 60
    assert resources["req_tres"] == {"cpu": 2, "mem": 500 << 20, "node": 1, "billing": 2}
    assert resources["alloc_tres"] == resources["req_tres"]
    assert 1 << 10 < resources["max_rss_bytes"] < 1 << 30


def test_tasks_are_asked_for_by_their_array(asked, jobs):
    array = jobs["tasks"]
    for wanted in ([array], [f"{array}_{task}" for task in range(3)]):
        facts = on_record(asked, *wanted)
        assert {fact.array_task_id: (fact.status, fact.slurm_exit_code) for fact in facts} == {
            0: (RunStatus.COMPLETED, 0), 1: (RunStatus.FAILED, 1), 2: (RunStatus.FAILED, 2),
        }  # fmt: skip
        assert {fact.array_job_id for fact in facts} == {array}
        assert len({fact.job_id for fact in facts}) == 3


def test_components_of_a_het_job(asked, jobs):
    facts = on_record(asked, jobs["het"])
    assert [(fact.job_id, fact.het_job_id, fact.het_offset, fact.status) for fact in facts] == [
        (jobs["het"] + offset, jobs["het"], offset, RunStatus.COMPLETED) for offset in (0, 1)
    ]


def test_each_execution_of_a_requeued_job(asked, jobs):
    first, second = on_record(asked, jobs["requeued"])
    assert (first.status, second.status, second.slurm_exit_code) == (RunStatus.REQUEUED, RunStatus.FAILED, 5)
    assert first.time_ended is not None
    assert second.time_submitted is not None
    assert first.time_ended <= second.time_submitted
    assert first.attempt in (0, None)
    assert second.attempt in (1, None)


def test_who_nobody_knows_is_left_out(asked, jobs):
    assert on_record(asked, 2_000_000_000) == []
    assert [fact.job_id for fact in on_record(asked, 2_000_000_000, jobs["failed"])] == [jobs["failed"]]


def test_what_is_too_old_is_left_out(asked, jobs):
    assert asked.ended([str(jobs["failed"])], datetime.now(timezone.utc)) == []


def test_both_tell_the_same(cluster, jobs):
    try:
        other = backend.choose("pyslurm", cluster.layout.name, cluster.env())
    except errors.SlurmError as error:
        pytest.skip(str(error))
    usual = backend.choose("cli", cluster.layout.name, cluster.env())
    wanted = [str(job) for job in jobs.values()]
    for told in (lambda asked: asked.queue([USER]), lambda asked: asked.ended(wanted, SUBMITTED)):
        ours, theirs = ({_key(fact): _comparable(fact) for fact in told(asked)} for asked in (usual, other))
        assert theirs == ours


def _key(fact: JobFacts) -> tuple[object, ...]:
    return fact.job_id, fact.time_submitted, fact.array_tasks


def _comparable(fact: JobFacts) -> JobFacts:
    """A fact without what the two may differ in (docs/site.md, "Load")."""
    passing = {"cpu_s"} if fact.time_ended else {"cpu_s", "elapsed_s"}
    resources = {name: value for name, value in fact.resources.items() if name not in passing}
    raw = fact.raw.split()[0]
    array = None if fact.array_tasks else fact.array_job_id
    het = fact.het_job_id if fact.het_offset else None
    live = matching.goes_on(fact) and fact.source == "squeue"
    return fact._replace(
        time=None, time_used=None, sluid=None, raw=raw, attempt=fact.attempt if live else None,
        resources=resources, array_job_id=array, het_job_id=het, het_offset=fact.het_offset or None,
    )  # fmt: skip
