"""A storm: jobs of all outcomes in random order through hpctrack, while Slurm's daemons fall over."""

from __future__ import annotations

import random
import subprocess
import time
from datetime import datetime
from typing import Any

import pytest

from hpctrack.run import states
from hpctrack.run.states import RunStatus
from tests.support import books

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_FIRST = '[ "${SLURM_RESTART_COUNT:-0}" -ge 1 ] ||'
#: What a job of each kind does, by itself: what becomes of it is for Slurm to say.
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "succeeds": ((), "sleep 1"),
    "succeeds at once": ((), "true"),
    "fails": ((), "exit 3"),
    "dies of a signal": ((), "kill -SEGV $$"),
    "wants too much memory": (("--mem=50",), "/usr/bin/python3 -c 'bytearray(200_000_000)'"),
    "requeues itself": ((), _FIRST + " { scontrol requeue $SLURM_JOB_ID; sleep 60; }; exit 0"),
    "is requeued by its exit code": ((), _FIRST + " exit 111; exit 4"),
    "is an array": (("-a", "0-2%2",), "exit $SLURM_ARRAY_TASK_ID"),
    "cancels itself": ((), "scancel $SLURM_JOB_ID; sleep 60"),
    "is a het job": (("-n1", "--mem=50", "--no-requeue", ":", "-n1", "--no-requeue"), "sleep 1"),
}  # fmt: skip
#: And what takes Slurm more than a minute.
SLOW_KINDS = {**KINDS, "runs out of time": (("-t", "1"), "sleep 300")}


class Storm:
    """The jobs of one storm, and what was seen of them."""

    def __init__(self, alice: Any, experiment: str) -> None:
        self.alice, self.experiment = alice, experiment
        self.jobs: list[int] = []
        self.premature: set[int] = set()
        """Jobs whose run was over while squeue listed them: must stay empty."""

    def submit(self, kind: str) -> None:
        """Submit a job through hpctrack."""
        options, script = SLOW_KINDS[kind]
        path = self.alice.write(f"storm/{self.experiment}-{len(self.jobs)}.sh", f"#!/bin/bash\n{script}\n")
        argv = ("-E", self.experiment, "--parsable", "-o", "/dev/null", "--mem=100", *options, path)
        done = self.alice.hpctrack("sbatch", *argv)
        self.jobs.append(int(done.stdout.split(";")[0]))

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return rows about this storm's runs: a query for one JSON object each."""
        return [row[0] for row in self.alice.sql(query % f"'{self.experiment}'")]

    def look(self, settle: str = "1 minute") -> int:
        """Note what is over although squeue lists it; return how many runs are not over for good.

        Ends that are looked up once more within the time ``settle`` after they came are not.
        """
        runs = self.rows(
            f"SELECT to_jsonb(r) || jsonb_build_object('open', time_ended IS NULL"
            f" OR recheck_after < time_ended + interval '{settle}')"
            " FROM runs r JOIN experiments e ON e.id = experiment_id AND name = %s"
        )
        over = {run["slurm_job_id"] for run in runs if run["time_ended"]}
        listed = self.alice.run("squeue", "-a", "-h", "-o", "%A", check=False)
        self.premature |= over & set(map(int, listed.stdout.split()))
        known = {run["array_job_id"] or run["slurm_job_id"] for run in runs}
        return sum(run["open"] or False for run in runs) + len(set(self.jobs) - known)


def play(alice: Any, kinds: dict[str, Any], count: int, silence: float, settle: str = "1 minute") -> Storm:
    """Submit so many jobs; restart slurmctld and stop slurmdbd for so many seconds meanwhile.

    slurmctld tells accounting again of the ends that it remembers when it is restarted.
    """
    storm, cluster = Storm(alice, f"storm-{count}"), alice.cluster
    order = [list(kinds)[number % len(kinds)] for number in range(count)]
    random.Random(4).shuffle(order)
    stopped = None
    try:
        for number, kind in enumerate(order):
            storm.submit(kind)
            if number == count // 4:
                cluster.daemon("restart", "slurmctld")
            if number == count // 2:
                cluster.daemon("stop", "slurmdbd")
                stopped = time.monotonic()
            if stopped and time.monotonic() - stopped > silence:
                cluster.daemon("start", "slurmdbd")
                stopped = None
            if number % 20 == 19:
                storm.look()
        if stopped:
            time.sleep(max(0.0, stopped + silence - time.monotonic()))
    finally:
        cluster.daemon("start", "slurmdbd")
    deadline = time.monotonic() + 240 + 2 * count
    while left := storm.look(settle):
        assert time.monotonic() < deadline, f"{left} runs are not over"
        time.sleep(1)
    return storm


def compare(storm: Storm) -> int:
    """Compare every execution with sacct's row; return how many."""
    environ = {**storm.alice.cluster.env(), "SLURM_TIME_FORMAT": "%s"}
    argv = ["sacct", "-a", "-j", ",".join(map(str, storm.jobs)), *books.OPTIONS]
    told = subprocess.run(argv, check=True, capture_output=True, text=True, env=environ).stdout
    accounted = books.read(told)
    runs = storm.rows(
        "SELECT to_jsonb(r) || jsonb_build_object('attempts', (SELECT jsonb_agg(to_jsonb(a) ORDER BY attempt)"
        " FROM attempts a WHERE a.run_id = r.id))"
        " FROM runs r JOIN experiments e ON e.id = r.experiment_id AND e.name = %s"
    )
    compared = 0
    for run in runs:
        job = run["array_job_id"] or run["slurm_job_id"]
        task = -1 if run["array_task_id"] is None else run["array_task_id"]
        rows = [row for row in accounted if books.is_of(row, job, task)]
        attempts = [_with_times(attempt) for attempt in run["attempts"] or ()]
        assert len(rows) == len(attempts), (run, rows)
        for row, attempt in zip(rows, attempts, strict=True):
            books.assert_equal(row, attempt)
            compared += 1
        assert run["status"] == attempts[-1]["status"]
        assert run["attempt"] == len(attempts) - 1 or attempts[-1]["time_started"] is None
    return compared


def _with_times(attempt: dict[str, Any]) -> dict[str, Any]:
    times = ("time_submitted", "time_started", "time_ended")
    return attempt | {name: attempt[name] and datetime.fromisoformat(attempt[name]) for name in times}


def check_timelines(storm: Storm) -> None:
    """Nothing goes on after what was its end, but in a further attempt."""
    query = (
        "SELECT to_jsonb(t) FROM transitions t JOIN runs r ON r.id = t.run_id"
        " JOIN experiments e ON e.id = r.experiment_id AND name = %s WHERE t.status IS NOT NULL ORDER BY t.id"
    )
    ended: dict[int, int] = {}
    for row in storm.rows(query):
        status = RunStatus[row["status"]]
        if status.stage is states.Stage.ENDED:
            ended[row["run_id"]] = row["attempt"]
        else:
            assert row["attempt"] > ended.get(row["run_id"], -1), row


def judge(storm: Storm, jobs: int) -> None:
    """What must hold after every storm."""
    assert len(storm.jobs) == jobs
    assert compare(storm) >= jobs
    check_timelines(storm)
    assert storm.premature == set()


def test_a_small_storm(alice):
    judge(play(alice, KINDS, 20, 5.0), 20)


@pytest.mark.slow
def test_a_storm_of_three_hundred_jobs(alice):
    began = time.monotonic()
    storm = play(alice, SLOW_KINDS, 300, 60.0, settle="1 hour")
    print(f"300 jobs: {compare(storm)} executions compared, all over after {time.monotonic() - began:.0f} s")
    judge(storm, 300)
