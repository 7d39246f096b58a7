"""Verbs that deal with a real Slurm: cancel, rerun, doctor --job."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.cluster

SLEEP = "#!/bin/bash\nexec sleep 300\n"

_HETEROGENEOUS = "#!/bin/bash\n#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n1\nexec sleep 300\n"


def queued(account, *jobs):
    """Return what squeue lists of jobs, each task of an array by itself."""
    argv = [
        "squeue",
        "--noheader",
        "--array",
        "--format=%i",
        "--states=PD,R",
        f"--jobs={','.join(map(str, jobs))}",
    ]
    return set(account.run(*argv).stdout.split())


def ended(done):
    """What cancel said before it acted: of how many runs, and its command."""
    runs, command = done.stdout.splitlines()
    return int(re.fullmatch(r"ends (\d+) runs \(r[-,r\d]+\)", runs)[1]), command


def test_jobs_are_cancelled_by_run_task_and_array(alice, await_until):
    script = alice.write("sleeper.sh", SLEEP)
    plain = alice.sbatch("-o", "/dev/null", script)
    array = alice.sbatch("--array=0-5%2", "-o", "/dev/null", script)
    running = {str(plain), f"{array}_0", f"{array}_1"}
    await_until(lambda: {r["job_id"] for r in alice.listed("--state=R")} >= running, 30, "running jobs")
    done = alice.hpctrack("cancel", f"{array}_1", f"{array}_3", f"{array}_4")
    assert ended(done) == (3, f"scancel: {array}_[1,3-4]")
    # Slurm keeps no record of a task that is cancelled before it is split off its array.
    left = {str(plain), *(f"{array}_{task}" for task in (0, 2, 5))}
    await_until(lambda: queued(alice, plain, array) == left, 30, "the other tasks")
    assert alice.ended(f"{array}_1")["state"] == "CANCELLED"
    done = alice.hpctrack("cancel", str(plain), f"{array}_0", f"{array}_2", f"{array}_5")
    assert ended(done) == (4, f"scancel: {plain} {array}_[0,2,5]")
    await_until(lambda: not queued(alice, plain, array), 30, "no jobs")
    assert alice.ended(plain)["state"] == "CANCELLED"
    assert alice.hpctrack("cancel", str(plain)).stdout.endswith("is over: CANCELLED\n")


def test_an_array_is_cancelled_as_one(alice, await_until):
    array = alice.sbatch("--array=0-2", "--hold", "-o", "/dev/null", alice.write("sleeper.sh", SLEEP))
    assert ended(alice.hpctrack("cancel", str(array))) == (3, f"scancel: {array}")
    await_until(lambda: not queued(alice, array), 30, "no jobs")


def test_nobody_cancels_anothers_job(alice, bob):
    job = alice.sbatch("-o", "/dev/null", alice.write("sleeper.sh", SLEEP))
    done = bob.hpctrack("cancel", str(job), check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"no tracked run of job {job}" in done.stderr
    alice.hpctrack("cancel", str(job))


def test_a_row_that_names_anothers_job_is_no_proof(alice, bob):
    script = SLEEP
    job = alice.sbatch("-o", "/dev/null", alice.write("sleeper.sh", script))
    own = bob.sbatch("-o", "/dev/null", bob.write("sleeper.sh", script))
    bob.hpctrack("psql", "-c", f"UPDATE runs SET slurm_job_id = {job} WHERE slurm_job_id = {own}")
    done = bob.hpctrack("cancel", str(job), check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (77, "", 1)
    assert "is left alone" in done.stderr
    assert queued(alice, job) == {str(job)}
    alice.hpctrack("cancel", str(job))


def test_jobs_that_were_renamed_requeued_or_have_components_are_known(alice, await_until):
    script = alice.write("sleeper.sh", SLEEP)
    renamed, requeued = (alice.sbatch("--requeue", "-o", "/dev/null", script) for _ in range(2))
    components = alice.sbatch("-o", "/dev/null", alice.write("het.sh", _HETEROGENEOUS))
    started = {str(renamed), str(requeued)}
    await_until(lambda: {r["job_id"] for r in alice.listed("--state=R")} >= started, 30, "running jobs")
    alice.hpctrack("reconcile")  # from then on a job is known by the time that Slurm tells
    alice.run("scontrol", "update", f"job={renamed}", "name=another")
    alice.run("scontrol", "requeue", str(requeued))
    done = alice.hpctrack("cancel", *map(str, (renamed, requeued, components)))
    assert ended(done) == (3, f"scancel: {renamed} {requeued} {components}")
    await_until(lambda: not queued(alice, renamed, requeued, components), 30, "no jobs")


def test_a_job_runs_again_with_another_argument(alice):
    script = alice.write(
        "again/args.sh", '#!/bin/bash\necho "step=1 lr=${1#--lr=}" >> "$HPCTRACK_JOURNAL"\npwd >&2\nexit 3\n'
    )
    first = alice.sbatch(
        "-t", "5", "-o", "/dev/null", "-e", "again.err", script.name, "--lr=0.1", cwd=script.parent
    )
    assert alice.ended(first, rows=1)["last"] == {"lr": 0.1}
    alice.write("again/args.sh", "#!/bin/bash\n# changed since\n")
    done = alice.hpctrack("rerun", str(first), "--set", "lr=0.2", "--time=7")
    second = int(done.stdout.split()[-1])
    run = alice.ended(second, rows=1)
    assert (run["last"], run["args"], run["time_limit_s"]) == ({"lr": 0.2}, {"lr": 0.2}, 420)
    assert (run["state"], run["exit_code"]) == ("FAILED", 3)
    assert run["attempts"][-1]["stderr_tail"].strip() == str(script.parent)
    old = alice.shown(first)
    assert run["links"] == [f"{run['run']} reruns {old['run']}"]
    assert run["submission"]["script"] == old["submission"]["script"]


def test_the_doctor_tries_a_job(alice):
    done = alice.hpctrack("doctor", "--job", "--json", "--", "-p", "main", check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, told["broken"]) == (0, 0), told
    says = {check["name"]: check["says"] for check in told["checks"]}
    assert says["job"].endswith("what it logged has arrived")
    assert says["way"] == "by datagrams"
    assert "differ by" in says.get("node's clock", "differ by"), "squeue may have told the start first"
    assert alice.sql("SELECT count(*) FROM experiments WHERE name = 'hpctrack-doctor'") == [[0]], (
        "it cleans up"
    )


def test_the_doctor_passes_on_what_sbatch_refuses(alice):
    done = alice.hpctrack("doctor", "--job", "--", "-p", "nowhere", check=False)
    assert done.returncode == 1
    assert "invalid partition specified: nowhere" in done.stdout
    assert "-> give the options that jobs need here" in done.stdout
