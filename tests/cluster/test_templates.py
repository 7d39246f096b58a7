"""The gallery's job scripts, copied out and submitted as far as the mini cluster's hardware goes."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.cluster


@pytest.fixture
def copy(alice):
    """Copy a template out, as a user would; without options that name GPUs, of which there are none."""

    def run(name):
        alice.run("rm", "-f", f"{name}.sh")
        alice.hpctrack("templates", name, "-o", f"{name}.sh")
        text = (alice.home / f"{name}.sh").read_text()
        kept = [line for line in text.splitlines() if "gpu:" not in line and "--gpus" not in line]
        return alice.write(f"{name}.sh", "\n".join(kept) + "\n")

    return run


def test_one_gpu(alice, copy):
    job = alice.sbatch("--mem=100", copy("single_gpu"))
    run = alice.ended(job, rows=10)
    assert (run["state"], run["experiment"]) == ("COMPLETED", "single-gpu")


@pytest.mark.parametrize(
    ("name", "options", "tasks"), [("array", ("--array=0-2%2",), 3), ("parameters", (), 4)]
)
def test_arrays(alice, copy, name, options, tasks):
    job = alice.sbatch("--mem=100", *options, copy(name))
    for task in range(tasks):
        assert alice.ended(f"{job}_{task}", rows=1)["state"] == "COMPLETED"


def test_mpi_on_two_nodes(alice, copy):
    job = alice.sbatch("--ntasks-per-node=2", "--mem-per-cpu=50", "-o", "mpi.out", copy("mpi"))
    assert alice.ended(job, rows=1)["state"] == "COMPLETED"
    ranks = [line for line in (alice.home / "mpi.out").read_text().splitlines() if line.startswith("rank ")]
    assert sorted(line.split()[1] for line in ranks) == ["0", "1", "2", "3"]


def test_torchrun_on_two_nodes(alice, copy):
    """A stand-in for torchrun says how it was called: once on each node, with the same meeting point."""
    alice.write("bin/torchrun", '#!/bin/sh\necho "torchrun $SLURM_NODEID $*"\n')
    environ = {"PATH": f"{alice.home}/bin:{alice.bin}:{alice.cluster.env()['PATH']}"}
    options = ("--cpus-per-task=1", "--mem=100", "-o", "torchrun.out")
    job = alice.sbatch(*options, copy("torchrun"), env=environ)
    assert alice.ended(job)["state"] == "COMPLETED"
    calls = [line.split() for line in (alice.home / "torchrun.out").read_text().splitlines()]
    assert sorted(call[1] for call in calls if call[0] == "torchrun") == ["0", "1"]
    assert calls[0][2:] == calls[1][2:]
    assert f"--rdzv-id={job}" in calls[0] and calls[0][-1] == "train.py"


def test_a_checkpoint_and_a_second_attempt(alice, copy, await_until):
    options = ("--mem=100", "-t", "5", "--export=ALL,LAST_STEP=16", "-o", "checkpoint.out")
    job = alice.sbatch(*options, copy("checkpoint_requeue"))
    await_until(lambda: alice.shown(job)["rows"] >= 2, 30, "two steps")
    alice.run("scancel", "-b", "-s", "USR1", str(job))  # as --signal=B:USR1@120 does
    run = alice.ended(job, 90, rows=16)
    assert (run["state"], [one["state"] for one in run["attempts"]]) == (
        "COMPLETED",
        ["REQUEUED", "COMPLETED"],
    )
    text = (alice.home / "checkpoint.out").read_text()
    assert "attempt 0 begins at step 0\n" in text and "attempt 1 begins at step" in text
    steps = alice.sql(f"SELECT step, attempt FROM metrics WHERE run_id = {run['id']} ORDER BY step")
    assert [step for step, _ in steps] == list(range(1, 17)), "the metrics go on"
    assert {attempt for _, attempt in steps} == {0, 1}
