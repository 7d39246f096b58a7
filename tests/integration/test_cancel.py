"""hpctrack cancel: which jobs scancel is told to end, by an executable stand-in."""

from __future__ import annotations

import sys
import uuid
from datetime import datetime, timezone

import pytest

from hpctrack.slurm import cancel

NOW = datetime.now(timezone.utc)
FAKE = """\
#!{python} -IS
import os, sys
if sys.argv[0].endswith("scontrol"):
    print("ClusterName = mini")
    sys.exit()
with open(os.path.dirname(os.path.abspath(__file__)) + "/calls", "a") as file:
    print(*sys.argv[1:], file=file)
if "13" in sys.argv:
    sys.exit("scancel: error: Kill job error on job id 13: Access/permission denied")
"""


@pytest.fixture
def scancel(tmp_path, monkeypatch):
    """Put a scancel and a scontrol on PATH; returns what scancel was called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("scancel", "scontrol"):
        path = folder / name
        path.write_text(FAKE.replace("{python}", sys.executable))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))

    def calls():
        path = folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    return calls


@pytest.fixture
def run(insert):
    """Insert a live run; what is not said is as usual."""
    experiment = insert("experiments", name="digits")

    def make(**values):
        defaults = {"status": "RUNNING", "cluster": "mini", "time_created": NOW}
        return insert("runs", experiment_id=experiment, **{**defaults, **values})

    return make


@pytest.fixture
def array(insert, run):
    """Insert a job array of tasks 0 to 5, of which task 5 is over."""
    submission = uuid.uuid4()
    insert("submissions", uuid=submission, user_name="alice", time=NOW)
    return [
        run(
            submission=submission, task=task, array_job_id=14, array_task_id=task, job_name="sweep",
            **({"status": "COMPLETED", "time_ended": NOW} if task == 5 else {}),
        )
        for task in range(6)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("refs", "expected"),
    [
        (["14"], "14"),
        (["sweep"], "14"),
        (["14_1"], "14_1"),
        (["14_0", "14_2", "14_3", "14_4"], "14_[0,2-4]"),
        ([f"14_{task}" for task in range(5)], "14"),
    ],
)
def test_arrays_are_ended_by_one_word(cli, scancel, array, refs, expected):
    code, out, err = cli("cancel", *refs)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"scancel: {expected}"
    assert scancel() == [expected]


def test_jobs_of_several_kinds_and_clusters(cli, scancel, run):
    run(slurm_job_id=7)
    run(slurm_job_id=20, het_job_id=20)
    run(slurm_job_id=8, cluster="other")
    over = run(slurm_job_id=9, status="FAILED", time_ended=NOW)
    code, out, err = cli("cancel", "7", "20+1", "8", "9")
    assert (code, err) == (0, "")
    assert out == f"r{over} is over: FAILED\nscancel: 7 20\nscancel: 8 on other\n"
    assert scancel() == ["7 20", "--clusters=other 8"]


def test_what_is_over_needs_no_slurm(cli, run, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    over = run(slurm_job_id=9, status="FAILED", time_ended=NOW)
    assert cli("cancel", "9") == (0, f"r{over} is over: FAILED\n", "")


def test_commands_are_told_how_they_end(cli, scancel, run, insert):
    laptop = run(kind="command", cluster=None)
    insert("attempts", run_id=laptop, attempt=0, batch_host="laptop")
    inside = run(kind="command", slurm_job_id=30)
    job = run(slurm_job_id=7)
    code, out, err = cli("cancel", f"r{laptop}", f"r{inside}", f"r{job}")
    assert (code, out) == (2, "scancel: 7\n")
    assert f"r{laptop} runs on laptop outside Slurm: press Ctrl-C there, or kill its process" in err
    assert f"r{inside} is a command inside job 30, which ends as a whole: scancel 30" in err


@pytest.mark.parametrize(
    ("arguments", "path", "code", "said"),
    [
        (["13"], None, 70, "Access/permission denied"),
        (["13"], "/nonexistent", 127, "scontrol is not on PATH"),
        (["99"], None, 3, "no tracked run of job 99"),
        ([], None, 2, "Missing argument 'RUN...'"),
    ],
)
def test_failures_are_one_line(cli, scancel, run, monkeypatch, arguments, path, code, said):
    run(slurm_job_id=13)
    if path:
        monkeypatch.setenv("PATH", path)
    found, out, err = cli("cancel", *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_job_is_named_once():
    assert cancel.words([cancel.Job(7), cancel.Job(7), cancel.Job(None), cancel.Job(8)], ()) == ["7", "8"]
