"""Verbs that deal with a real Slurm: cancel."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.cluster

SLEEP = "#!/bin/bash\nexec sleep 300\n"


def test_jobs_are_cancelled_by_run_task_and_array(alice, await_until):
    script = alice.write("sleeper.sh", SLEEP)
    plain = alice.sbatch("-o", "/dev/null", script)
    array = alice.sbatch("--array=0-3%2", "-o", "/dev/null", script)
    await_until(lambda: {r["state"] for r in alice.listed(str(plain))} == {"RUNNING"}, 30, "a running job")
    assert alice.hpctrack("cancel", f"{array}_1", f"{array}_3").stdout == f"scancel: {array}_[1,3]\n"
    assert alice.ended(f"{array}_3", told=False)["state"] == "CANCELLED"
    assert {row["State"].split()[0] for row in alice.accounted(f"{array}_0")} <= {"PENDING", "RUNNING"}
    assert alice.hpctrack("cancel", str(plain), str(array)).stdout.splitlines()[-1] == f"scancel: {plain} {array}"
    for run in (plain, *(f"{array}_{task}" for task in range(4))):
        assert alice.ended(run, told=False)["state"] == "CANCELLED"
    assert alice.hpctrack("cancel", str(plain)).stdout.endswith("is over: CANCELLED\n")


def test_nobody_cancels_anothers_job(alice, bob):
    job = alice.sbatch("-o", "/dev/null", alice.write("sleeper.sh", SLEEP))
    done = bob.hpctrack("cancel", str(job), check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"no tracked run of job {job}" in done.stderr
    alice.hpctrack("cancel", str(job))
