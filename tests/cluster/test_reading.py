"""What people ask of their runs while and after a real Slurm runs them."""

from __future__ import annotations

import csv
import io
import subprocess

import pytest

pytestmark = pytest.mark.cluster

TASK = """\
#!/usr/bin/python3
import os, sys, time
import hpctrack
task = int(os.environ["SLURM_ARRAY_TASK_ID"])
print(f"task {task} of", *sys.argv[1:], flush=True)
print(f"trouble of {task}", file=sys.stderr)
hpctrack.set_args(lr=10 ** -task)
for step in range(20):
    hpctrack.log(step=step, loss=task + 1 / (step + 1))
"""
AGAIN = """\
#!/bin/bash
#SBATCH --requeue
echo "attempt ${SLURM_RESTART_COUNT:-0}"
while [ ! -e "seen-$SLURM_JOB_ID" ]; do sleep 0.2; done
[ "${SLURM_RESTART_COUNT:-0}" -ge 1 ] || exit 111
echo "the end"
"""


def test_logs_are_followed_across_a_requeue(alice):
    script = alice.write("again.sh", AGAIN)
    job = alice.sbatch("-o", "again-%j.out", script)
    variables = {"PATH": f"{alice.bin}:{alice.cluster.env()['PATH']}", **alice.environ}
    command = [
        "env",
        *(f"{name}={value}" for name, value in variables.items()),
        "hpctrack",
        "logs",
        "-f",
        str(job),
    ]
    follower = subprocess.Popen(
        alice.cluster.command_as(alice.name, *command),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    first = follower.stdout.readline()
    assert first == "attempt 0\n", follower.communicate()
    alice.write(f"seen-{job}", "")
    out, err = follower.communicate(timeout=120)
    assert (out, follower.returncode) == ("attempt 1\nthe end\n", 0)
    assert f"r{alice.shown(job)['id']}: attempt 2" in err
    assert alice.hpctrack("logs", str(job)).stdout == "attempt 1\nthe end\n", "Slurm emptied the file"


def test_an_array_is_listed_in_a_line_and_its_tasks_are_told_apart(alice):
    script = alice.write("task.py", TASK)
    job = alice.sbatch("--array=1-3", "-o", "%A_%a.out", "-e", "%A_%a.err", script, "--model", "small")
    for task in (1, 2, 3):
        alice.ended(f"{job}_{task}", rows=20)
    lines = alice.hpctrack("status").stdout.splitlines()
    (line,) = [line for line in lines if f" {job}_[" in line]
    assert f" {job}_[1-3] " in line
    assert " 3 COMPLETED " in line
    for task in (1, 2, 3):
        assert alice.hpctrack("logs", f"{job}_{task}").stdout == f"task {task} of --model small\n"
        assert alice.hpctrack("logs", f"{job}_{task}", "--err").stdout == f"trouble of {task}\n"
    best = alice.listed(
        "--where", f"array = {job} and args.lr < 0.1 and metrics.loss < 3", "--sort", "metrics.loss"
    )
    assert [run["job_id"] for run in best] == [f"{job}_2"]
    rows = list(csv.reader(io.StringIO(alice.hpctrack("metrics", f"{job}_3", "loss", "--csv").stdout)))
    assert [float(row[-1]) for row in rows[1:]] == [3 + 1 / (step + 1) for step in range(20)]
    compared = alice.hpctrack("compare", str(job)).stdout
    assert [line.split() for line in compared.splitlines() if line.split()[:1] == ["lr"]] == [
        ["lr", "0.1", "0.01", "0.001"]
    ]
    chart = alice.hpctrack("plot", f"{job}_1", f"{job}_2", "loss").stdout
    assert chart.count("task.py") == 2
