"""Every state that a real Slurm can be brought into here: what it says, and what the tables say afterwards.

Jobs are submitted with plain sbatch and registered as `hpctrack sbatch` would, so that nothing but the
reconciler decides here. All scenarios run side by side, since some take Slurm a minute and a half.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hpctrack import reconcile
from hpctrack.reconcile.plan import TAKEN_OUT
from tests.support import books
from tests.support.lab import GRACE, RESTARTED, SAFE, USER, Lab, opened

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def _submit_all(lab: Lab) -> None:
    submit = lab.submit
    submit("preempted", "-w", "n2", "--exclusive", wrap="sleep 15")
    submit("preempted for good", "-p", "scav", "-w", "n3", "--exclusive", wrap="sleep 300")
    submit("node fails", "-w", "n4", "--no-requeue", wrap="sleep 300")
    submit("node fails, requeued", "-w", "n4", "--requeue", wrap=RESTARTED % 1 + " || sleep 300")
    for name in list(lab.runs):
        lab.until_status(name, "RUNNING")
    submit("timeout", *SAFE, "-t1", wrap="sleep 300")
    submit("completed", *SAFE, wrap="sleep 3")
    submit("failed", *SAFE, wrap="exit 3")
    submit("signal", *SAFE, wrap="kill -SEGV $$")
    submit("over before the first poll", *SAFE, wrap="true")
    submit("out of memory", *SAFE, "--mem=50", wrap="/usr/bin/python3 -c 'bytearray(200_000_000)'; exit 0")
    submit("cancelled", *SAFE, wrap="sleep 300")
    submit("cancelled while pending", "-H", wrap="sleep 300")
    submit("requeued by its exit code", *SAFE, wrap=RESTARTED % 2 + " && exit 5; exit 111")
    submit("special exit", *SAFE, wrap=RESTARTED % 1 + " && exit 0; exit 112")
    submit(
        "requeues itself", *SAFE, wrap=RESTARTED % 1 + " && exit 0; scontrol requeue $SLURM_JOB_ID; sleep 99"
    )
    submit("held again", *SAFE, wrap=RESTARTED % 1 + " && exit 0; sleep 300")
    submit("suspended", *SAFE, wrap="sleep 12")
    submit("deadline", "-N4", "--exclusive", "-t", "1", "--deadline", _in_seconds(80), wrap="sleep 1")
    submit("hidden", *SAFE, "-p", "hidden", "-J", 'a\nname|with "quotes"\x1f and é', wrap="sleep 3")
    submit("steps", *SAFE, "-n2", wrap="srun sleep 2; srun -n1 sh -c 'exit 7'; exit 4")
    submit("het", "-n1", "--no-requeue", ":", "-n2", "--no-requeue", wrap="sleep 3")
    submit("never", "-d", f"afternotok:{lab.jobs['completed']}", wrap="true")
    array = "sleep 1; exit $SLURM_ARRAY_TASK_ID"
    submit("array", *SAFE, "-a", "0-5%2", wrap=array, tasks=list(range(6)))
    submit("array held", *SAFE, "-H", "-a", "1-9:2", wrap="sleep 1", tasks=[1, 3, 5, 7, 9])
    submit("array cancelled", "-n400", "-p", "urgent", "-H", "-a", "0-3", wrap="true", tasks=[0, 1, 2, 3])
    submit("array with more tasks", *SAFE, "-a", "0-3", wrap="sleep 2", tasks=[0, 1])


def _in_seconds(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))


def _act(lab: Lab) -> None:
    """Do to the jobs what the scenarios need, while passes are made."""
    jobs = lab.jobs
    time.sleep(2)
    lab.step()
    lab.until_status("suspended", "RUNNING")
    lab.root("scontrol", "suspend", jobs["suspended"])
    lab.until_status("suspended", "SUSPENDED")
    lab.root("scontrol", "resume", jobs["suspended"])
    lab.command("scancel", jobs["cancelled"], jobs["cancelled while pending"])
    lab.command("scancel", f"{jobs['array held']}_3", f"{jobs['array held']}_[7,9]")
    lab.command("scancel", jobs["array cancelled"])
    lab.command("scontrol", "release", jobs["array held"])
    lab.until_status("held again", "RUNNING")
    lab.root("scontrol", "requeuehold", jobs["held again"])
    for node in ("n2", "n3"):
        lab.command(
            "sbatch", "-o", "/dev/null", "-p", "urgent", "-w", node, "--exclusive", "--wrap", "sleep 1"
        )
    lab.until_status("het", "COMPLETED")
    lab.cluster.daemon("crash", "n4")
    lab.until_status("special exit", "SPECIAL_EXIT")
    lab.command("scontrol", "release", jobs["special exit"])
    lab.until(lambda: lab.run("held again")["reason"] == "job requeued in held state", 30, "held again")
    lab.command("scontrol", "release", jobs["held again"])
    lab.until(lambda: lab.run("never")["reason"] == "DependencyNeverSatisfied", 30, "the dependency")
    lab.until_status("node fails", "NODE_FAIL", 90)
    lab.cluster.daemon("start", "n4")


@pytest.fixture(scope="module")
def lab(cluster: Any, wheel_server: Any) -> Iterator[Lab]:
    """All scenarios, played to their ends."""
    with opened(cluster, wheel_server, "cluster_states") as lab:
        try:
            _submit_all(lab)
            _act(lab)
            open_runs = "SELECT count(*) FROM runs WHERE time_ended IS NULL AND id <> %s"
            lab.until(
                lambda: lab.rows(open_runs, lab.runs["never"][-1])[0]["count"] == 0,
                200,
                "the end of all runs",
            )
            yield lab
        finally:
            cluster.daemon("start", "n4")


ENDS = {
    "completed": ("COMPLETED", 0, 0),
    "over before the first poll": ("COMPLETED", 0, 0),
    "failed": ("FAILED", 3, 0),
    "signal": ("FAILED", 0, 11),
    "steps": ("FAILED", 4, 0),
    "timeout": ("TIMEOUT", 0, 0),
    "out of memory": ("OUT_OF_MEMORY", 0, 125),
    "cancelled": ("CANCELLED", 0, 0),
    "node fails": ("NODE_FAIL", None, 0),  # 0, and 1 in newer releases
    "preempted for good": ("PREEMPTED", 0, 0),
    "hidden": ("COMPLETED", 0, 0),
    "het": ("COMPLETED", 0, 0),
    "suspended": ("COMPLETED", 0, 0),
}


@pytest.mark.parametrize("name", ENDS)
def test_one_attempt_and_its_end(lab, name):
    status, code, signal = ENDS[name]
    run, [attempt] = lab.run(name), lab.attempts(name)
    assert (run["status"], attempt["status"]) == (status, status)
    assert (code is None or attempt["slurm_exit_code"] == code, attempt["slurm_exit_signal"]) == (
        True,
        signal,
    )
    assert (run["exit_code"], run["exit_signal"]) == (None, None), (
        "the script's own exit is the relay's to tell"
    )
    assert run["attempt"] == 0
    assert run["missing_since"] is None
    if name != "suspended":
        assert lab.timeline(name) == [(0, "PENDING"), (0, "RUNNING"), (0, status)]
    assert attempt["resources"]["alloc_tres"]["cpu"] >= 1


def test_who_cancelled_is_kept(lab):
    assert lab.run("cancelled")["reason"] == f"CANCELLED by {USER}"
    assert lab.run("cancelled")["slurm_state"].startswith("CANCELLED by ")


def test_cancelled_while_pending_never_started(lab):
    run, [attempt] = lab.run("cancelled while pending"), lab.attempts("cancelled while pending")
    assert (run["status"], run["reason"]) == ("CANCELLED", f"CANCELLED by {USER}")
    assert (run["time_started"], attempt["time_started"], attempt["node_list"]) == (None, None, None)
    assert lab.timeline("cancelled while pending") == [(0, "PENDING"), (0, "CANCELLED")]


def test_deadline(lab):
    assert lab.run("deadline")["status"] == "DEADLINE"
    assert lab.timeline("deadline") == [(0, "PENDING"), (0, "DEADLINE")]


def test_suspended_and_back(lab):
    expected = [(0, "PENDING"), (0, "RUNNING"), (0, "SUSPENDED"), (0, "RUNNING"), (0, "COMPLETED")]
    assert lab.timeline("suspended") in (expected, [step for i, step in enumerate(expected) if i != 3])


RESTARTS = {
    "preempted": ["PREEMPTED", "COMPLETED"],
    "node fails, requeued": ["NODE_FAIL", "COMPLETED"],
    "requeued by its exit code": ["REQUEUED", "REQUEUED", "FAILED"],
    "special exit": ["REQUEUED", "COMPLETED"],
    "requeues itself": ["REQUEUED", "COMPLETED"],
    "held again": ["REQUEUED", "COMPLETED"],
}


@pytest.mark.parametrize("name", RESTARTS)
def test_a_requeued_job_is_the_same_run(lab, name):
    ends = RESTARTS[name]
    run, attempts = lab.run(name), lab.attempts(name)
    assert [attempt["status"] for attempt in attempts] == ends
    assert all(attempt["time_started"] and attempt["time_ended"] for attempt in attempts)
    assert all(attempt["node_list"] for attempt in attempts)
    assert (run["status"], run["attempt"]) == (ends[-1], len(ends) - 1)
    assert run["time_started"] == attempts[-1]["time_started"]
    steps = [step for step in lab.timeline(name) if step[1] in (*ends, "RUNNING")]
    expected = [(n, status) for n, end in enumerate(ends) for status in ("RUNNING", end)]
    # A pass may catch accounting while it calls an execution FAILED, before it calls it REQUEUED.
    caught = [(n, "FAILED") for n, end in enumerate(ends) if end == "REQUEUED"]
    assert [step for step in steps if step not in caught] == expected


def test_special_exit_is_seen(lab):
    assert (1, "SPECIAL_EXIT") in lab.timeline("special exit")


def test_array_tasks_are_runs(lab):
    for task in range(6):
        run, [attempt] = lab.run("array", task), lab.attempts("array", task)
        assert run["status"] == ("FAILED" if task else "COMPLETED")
        assert attempt["slurm_exit_code"] == task
        assert run["array_job_id"] == lab.jobs["array"]
    ids = {lab.run("array", task)["slurm_job_id"] for task in range(6)}
    assert len(ids) == 6, "each task has a job id of its own"


def test_tasks_taken_out_of_an_array_are_cancelled(lab):
    """Slurm keeps no record at all of a task that is cancelled before it is split off its array."""
    for task in (1, 5):
        assert lab.run("array held", task)["status"] == "COMPLETED"
    for task in (3, 7, 9):
        run = lab.run("array held", task)
        assert (run["status"], run["reason"], run["time_started"]) == ("CANCELLED", TAKEN_OUT, None)
        assert lab.attempts("array held", task) == []


def test_an_array_cancelled_whole(lab):
    for task in range(4):
        run = lab.run("array cancelled", task)
        assert (run["status"], run["reason"]) == ("CANCELLED", f"CANCELLED by {USER}")


def test_tasks_that_only_slurm_knows_become_runs(lab):
    rows = lab.rows(
        "SELECT array_task_id, status, tags FROM runs WHERE array_job_id = %s ORDER BY array_task_id",
        lab.jobs["array with more tasks"],
    )
    assert [row["array_task_id"] for row in rows] == [0, 1, 2, 3]
    assert {row["status"] for row in rows} == {"COMPLETED"}
    assert {json.dumps(row["tags"]) for row in rows} == {'{"array with more tasks": true}'}


def test_a_het_job_is_one_run(lab):
    [attempt] = lab.attempts("het")
    [other] = attempt["resources"]["components"]
    assert (other["offset"], other["job_id"]) == (1, lab.jobs["het"] + 1)
    assert other["state"] == "COMPLETED"
    assert other["node_list"].startswith("n")


def test_a_dependency_that_can_never_be_satisfied(lab):
    run = lab.run("never")
    assert (run["status"], run["reason"], run["time_ended"]) == ("PENDING", "DependencyNeverSatisfied", None)


def test_names_are_kept_as_they_are(lab):
    run = lab.run("hidden")
    assert run["partition"] == "hidden"
    assert run["job_name"].startswith("a\nname|with ")
    assert run["job_name"].endswith(" and é")


def test_resources_of_steps(lab):
    [attempt] = lab.attempts("steps")
    assert attempt["resources"]["derived_exit_code"] == 7
    assert attempt["resources"]["max_rss_bytes"] > 0
    assert attempt["resources"]["req_tres"]["mem"] == 2 * 250 * 1024**2


def test_every_run_equals_what_sacct_says(lab):
    """Row by row: states, exits, times and nodes of all executions."""
    compared = 0
    for name, tasks in lab.runs.items():
        rows = lab.accounted(lab.jobs[name])
        for task, run_id in tasks.items():
            own = [row for row in rows if books.is_of(row, lab.jobs[name], task)]
            attempts = lab.rows("SELECT * FROM attempts WHERE run_id = %s ORDER BY attempt", run_id)
            if name == "never":
                assert attempts == []
                continue
            assert len(own) == len(attempts), (name, own, attempts)
            for row, attempt in zip(own, attempts, strict=True):
                books.assert_equal(row, attempt)
                compared += 1
    assert compared >= 40


def test_the_table_of_all_states(lab):
    """What Slurm said of each scenario, and what was recorded: for docs/states.md, printed with ``-s``."""
    print("\n| what was done | squeue said | sacct said | hpctrack recorded |\n|---|---|---|---|")
    for name, tasks in lab.runs.items():
        squeue = ", ".join(lab.backend.said.get(lab.jobs[name], {})) or "-"
        task = max(tasks)
        own = [row for row in lab.accounted(lab.jobs[name]) if books.is_of(row, lab.jobs[name], task)]
        sacct = ", ".join(f"{_without_uid(row['State'])} {row['ExitCode']}" for row in own) or "-"
        run = lab.run(name, task)
        recorded = ", ".join(attempt["status"] for attempt in lab.attempts(name, task)) or run["status"]
        reason = f" ({run['reason']})" if run["reason"] else ""
        of_array = f", task {task}" if task >= 0 else ""
        print(f"| {name}{of_array} | {squeue} | {sacct} | {recorded}{reason} |")
        if own:
            assert recorded == ", ".join(row["State"].split()[0] for row in own)


def _without_uid(state: str) -> str:
    return re.sub(r"by \d+", "by UID", state)


def test_nothing_was_over_while_its_job_lived(lab):
    assert lab.premature == []


def test_every_transition_goes_forward(lab):
    rows = lab.rows(
        "SELECT t.*, r.time_ended FROM transitions t JOIN runs r ON r.id = t.run_id ORDER BY t.id"
    )
    assert {row["source"] for row in rows} == {"submit", "squeue", "sacct"}
    latest: dict[int, tuple[int, str | None]] = {}
    for row in rows:
        assert row["time"] is not None
        position = (row["attempt"], row["status"])
        assert position != latest.get(row["run_id"]), "the same twice in a row"
        latest[row["run_id"]] = position
    for row in lab.rows("SELECT id, status FROM runs"):
        assert latest[row["id"]][1] == row["status"]


def test_while_slurmdbd_or_slurmctld_is_down_nothing_is_concluded(lab):
    def once() -> reconcile.Report:
        return reconcile.run_once(lab.connection, lab.backend, lab.backend.cluster or "", grace=GRACE)

    def cluster_row() -> dict[str, Any]:
        return lab.rows("SELECT * FROM clusters")[0]

    lab.submit("trouble", *SAFE, wrap="sleep 4")
    lab.until_status("trouble", "RUNNING")
    lab.cluster.daemon("stop", "slurmctld")
    try:
        report = once()
        assert "Unable to contact slurm controller" in (report.error or "")
        assert report.changed == ()
        assert cluster_row()["unreachable_since"] is not None
    finally:
        lab.cluster.daemon("start", "slurmctld")
    lab.cluster.daemon("stop", "slurmdbd")
    try:
        deadline = time.monotonic() + 30
        while lab.root("squeue", "-h", "-j", lab.jobs["trouble"], "-t", "R,CG").strip():
            assert time.monotonic() < deadline
            time.sleep(0.5)
        report = once()
        assert "database" in (report.error or "")
        assert lab.run("trouble")["time_ended"] is None
        assert lab.run("trouble")["missing_since"] is not None
    finally:
        lab.cluster.daemon("start", "slurmdbd")
    lab.until_status("trouble", "COMPLETED")
    assert cluster_row()["unreachable_since"] is None
