"""hpctrack cancel: which jobs scancel is told to end, by an executable stand-in."""

from __future__ import annotations

import sys
import uuid
from datetime import timedelta

import pytest

from hpctrack import account
from hpctrack.slurm import cancel
from tests.support import slurm_says
from tests.support.slurm_says import T0, epoch, line

NOW = T0
ME = account.user_name()
FAKE = """\
#!{python} -IS
import os, sys
if sys.argv[0].endswith("scontrol"):
    print("ClusterName = mini")
    sys.exit()
with open(os.path.dirname(os.path.abspath(__file__)) + "/ended", "a") as file:
    print(*sys.argv[1:], file=file)
if "13" in sys.argv:
    sys.exit("scancel: error: Kill job error on job id 13: Access/permission denied")
"""


class Fakes(slurm_says.Slurm):
    """Stand-ins for scancel, scontrol and squeue."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        for name in ("scancel", "scontrol"):
            path = folder / name
            path.write_text(FAKE.replace("{python}", sys.executable))
            path.chmod(0o755)

    def lists(self, *jobs, **fields):
        """Have squeue list jobs of this account; a job is its number, or its fields beside."""
        told = [job if isinstance(job, tuple) else (job, {}) for job in jobs]
        self.says("squeue", *(line(job, **{"UserName": ME, **fields, **more}) for job, more in told))

    def ended(self):
        """Return what scancel was called with."""
        path = self.folder / "ended"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def scancel(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Fakes(folder)


@pytest.fixture
def run(insert):
    """Insert a live run; what is not said is as usual."""
    experiment = insert("experiments", name="digits")

    def make(**values):
        defaults = {"status": "RUNNING", "cluster": "mini", "time_created": NOW, "kind": "batch"}
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
    running = [(20 + task, {"JobArrayID": f"14_{task}", "Name": "sweep"}) for task in range(2)]
    waiting = (14, {"JobArrayID": "14_[2-4%1]", "Name": "sweep", "State": "PENDING"})
    scancel.lists(*running, waiting)
    code, out, err = cli("cancel", *refs)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"scancel: {expected}"
    assert scancel.ended() == [expected]


@pytest.mark.parametrize(
    "other",
    [
        (25, {"JobArrayID": "14_5", "Name": "sweep"}),  # requeued: its run is over so far
        (14, {"JobArrayID": "14_[5,7-9%1]", "Name": "sweep", "State": "PENDING"}),
        (29, {"JobArrayID": "14_9", "Name": "sweep"}),  # its run was deleted
    ],
)
def test_an_array_is_ended_as_a_whole_only_where_that_is_what_was_said(cli, scancel, array, other):
    running = [(20 + task, {"JobArrayID": f"14_{task}", "Name": "sweep"}) for task in range(5)]
    over = (28, {"JobArrayID": "14_8", "Name": "sweep", "State": "COMPLETED"})
    scancel.lists(*running, over)
    assert cli("cancel", "14")[1].splitlines()[-1] == "scancel: 14"
    scancel.lists(*running, over, other)
    assert cli("cancel", "14")[1].splitlines()[-2:] == ["ends 5 runs (r1-5)", "scancel: 14_[0-4]"]
    assert scancel.ended() == ["14", "14_[0-4]"]


def test_jobs_of_several_kinds_and_clusters(cli, scancel, run):
    run(slurm_job_id=7)
    run(slurm_job_id=20, het_job_id=20)
    run(slurm_job_id=8, cluster="other")
    over = run(slurm_job_id=9, status="FAILED", time_ended=NOW)
    scancel.lists(7, (20, {"HetJobID": "20", "HetJobOffset": "0"}), 8, 9)
    code, out, err = cli("cancel", "7", "20+1", "8", "9")
    assert (code, err) == (0, "")
    assert out == f"r{over} is over: FAILED\nends 2 runs (r1-2)\nscancel: 7 20\nscancel: 8 on other\n"
    assert scancel.ended() == ["7 20", "--clusters=other 8"]


def test_what_is_over_needs_no_slurm(cli, run, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    over = run(slurm_job_id=9, status="FAILED", time_ended=NOW)
    assert cli("cancel", "9") == (0, f"r{over} is over: FAILED\n", "")


def test_commands_are_told_how_they_end(cli, scancel, run, insert):
    laptop = run(kind="command", cluster=None)
    insert("attempts", run_id=laptop, attempt=0, batch_host="laptop")
    inside = run(kind="command", slurm_job_id=30)
    script, client = run(kind="client", slurm_job_id=30), run(kind="client", cluster=None)
    job = run(slurm_job_id=7)
    scancel.lists(7)
    code, out, err = cli("cancel", f"r{laptop}", f"r{inside}", f"r{job}", f"r{script}", f"r{client}")
    assert (code, out) == (2, "scancel: 7\n")
    assert f"r{laptop} runs on laptop outside Slurm: press Ctrl-C there, or kill its process" in err
    assert f"r{inside} is a command inside job 30, which ends as a whole: scancel 30" in err
    assert f"r{script} is a client's run inside job 30, which ends as a whole: scancel 30" in err
    assert f"r{client} is ended by the program that made it: end that" in err


def test_a_strangers_word_of_the_job_that_a_command_is_in_is_no_order(cli, scancel, run):
    inside = run(kind="command", slurm_job_id=30, user_name="mallory")
    scancel.lists(30)
    code, out, err = cli("cancel", f"r{inside}")
    assert (code, out, scancel.ended()) == (2, "", [])
    assert "by the word of mallory number 30" in err
    assert "scancel" not in err


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
    scancel.lists(13)
    if path:
        monkeypatch.setenv("PATH", path)
    exit_code, out, err = cli("cancel", *arguments)
    assert (exit_code, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_job_is_named_once():
    assert cancel.words([cancel.Job(7), cancel.Job(7), cancel.Job(None), cancel.Job(8)], ()) == ["7", "8"]


# --- whose job it is ----------------------------------------------------------------------------------------

#: What squeue says of job 7, and why it is not the run's of "train", submitted at T0.
OTHERS = {
    "another user's": ({"UserName": "bob"}, "Slurm says that it is bob's"),
    "nobody's": ({"UserName": "N/A"}, "squeue does not say whose it is"),
    "later": ({"SubmitTime": epoch(7200)}, "another time than the run"),
    "earlier": ({"SubmitTime": epoch(-7200)}, "another time than the run"),
    "requeued, earlier": ({"SubmitTime": epoch(-7200), "RestartCnt": "2"}, "another time than the run"),
    "of no time": ({"SubmitTime": "N/A"}, "another time than the run"),
    "of another name": ({"Name": "other"}, "its name is other, and the run's train"),
    "over": ({"State": "COMPLETED"}, "squeue does not list it"),
    "another one": ({"JobID": "8", "JobArrayID": "8"}, "squeue does not list it"),
    "a task of an array": ({"JobID": "9", "JobArrayID": "7_0"}, "squeue does not list it"),
}


@pytest.mark.parametrize(("says", "why"), OTHERS.values(), ids=OTHERS)
def test_what_is_not_proven_to_be_the_runs_is_left_alone_and_the_others_end(cli, scancel, run, says, why):
    wrong = run(slurm_job_id=7, job_name="train")
    run(slurm_job_id=6, job_name="train")
    scancel.lists((7, says), 6)
    code, out, err = cli("cancel", "7", "6", f"r{wrong}")
    assert (code, out, scancel.ended()) == (77, "scancel: 6\n", ["6"])
    assert err.count("\n") == 1
    assert f"r{wrong} is left alone" in err
    assert why in err
    assert "(if it is, scancel 7)" in err


@pytest.mark.parametrize(
    ("says", "fields"),
    [
        ({"SubmitTime": epoch(30)}, {}),
        ({"SubmitTime": epoch(9000), "RestartCnt": "1"}, {}),  # requeued
        ({"Name": "train=abc"}, {"job_name": "train=***"}),  # a secret that was masked
        ({"Name": "train"}, {"job_name": None}),
        ({"State": "PENDING", "StartTime": "N/A"}, {}),
    ],
)
def test_the_runs_own_job_is_ended(cli, scancel, run, says, fields):
    run(**{"slurm_job_id": 7, "job_name": "train", **fields})
    scancel.lists((7, says))
    assert cli("cancel", "7") == (0, "scancel: 7\n", "")


def test_a_job_that_was_renamed_is_known_by_the_time_that_slurm_told(cli, scancel, run, insert):
    renamed = run(slurm_job_id=7, job_name="train")
    insert("attempts", run_id=renamed, attempt=0, time_submitted=T0 + timedelta(seconds=2))
    scancel.lists((7, {"Name": "new", "SubmitTime": epoch(2)}))
    assert cli("cancel", "7") == (0, "scancel: 7\n", "")


def test_of_an_array_only_the_tasks_that_are_the_runs(cli, scancel, array):
    tasks = [
        (20 + task, {"JobArrayID": f"14_{task}", "Name": "sweep", "UserName": "bob" if task == 3 else ME})
        for task in range(5)
    ]
    scancel.lists(*tasks)
    code, _, err = cli("cancel", "14")
    assert (code, scancel.ended()) == (77, ["14_[0-2,4]"])
    assert f"r{array[3]} is left alone" in err


@pytest.mark.parametrize("cluster", ["all", "ALL", "mini,other", "--help", "a b", "other\n"])
def test_the_row_names_one_cluster(cli, scancel, run, cluster):
    run(slurm_job_id=7, cluster=cluster)
    scancel.lists(7)
    code, _, err = cli("cancel", "7")
    assert (code, scancel.ended()) == (77, [])
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"slurm_job_id": -1},
        {"array_job_id": 7},
        {"array_job_id": 14, "array_task_id": -1},
        {"het_job_id": 7},
    ],
)
def test_a_run_without_a_job_of_its_own_ends_nothing(cli, scancel, run, fields):
    run_id = run(**fields)
    scancel.lists(7, 1, (14, {"JobArrayID": "14_[0-4]"}))
    code, _, err = cli("cancel", f"r{run_id}")
    assert (code, scancel.ended(), err.count("\n")) == (77, [], 1)


def test_when_squeue_does_not_answer_nothing_is_ended(cli, scancel, run):
    run(slurm_job_id=7)
    scancel.says("squeue", stderr="slurm_load_jobs error: Unable to contact slurm controller\n", exit=1)
    code, _, err = cli("cancel", "7")
    assert (code, scancel.ended()) == (69, [])
    assert "Unable to contact" in err


@pytest.mark.parametrize("caller", ["owner", "collector", "alice", "bob"])
def test_a_row_that_names_a_strangers_job_ends_it_for_nobody(roles, tmp_path, monkeypatch, caller):
    """Alice says in SQL that a run of hers is job 7, which is bob's, the caller's or a third one's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scancel = Fakes(folder)
    run = roles.submit("alice", job_id=7)
    roles.query("alice", "UPDATE runs SET job_name = 'train', time_created = %s", T0)
    roles.query("owner", "UPDATE submissions SET time = %s, slurm_user = 'dave'", T0)
    monkeypatch.setenv("PATH", str(folder))
    others = [roles.role("bob"), "dave", *([ME] if caller != "alice" else [])]
    for user in others:
        scancel.lists((7, {"UserName": user}))
        code, _, err = roles.run(caller, "cancel", f"r{run}")
        assert (code, scancel.ended()) == (77, []), user
        assert f"and the run is {roles.role('alice')}'s" in err or ME in err
    mine = ME if caller == "alice" else roles.role("alice")
    scancel.lists((7, {"UserName": mine}))
    assert roles.run(caller, "cancel", f"r{run}")[0] == 0
    assert scancel.ended() == ["7"]
