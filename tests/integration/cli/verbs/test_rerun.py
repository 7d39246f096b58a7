"""hpctrack rerun around a fake sbatch on PATH, on a real PostgreSQL."""

from __future__ import annotations

import os

import pytest

from tests.support.site_of_fakes import SECRET

SCRIPT = '#!/bin/bash\n#SBATCH --mem=1G\n#HPCTRACK -T script=1\npython train.py "$@"\n'
LINKS = "SELECT from_id, kind, to_id FROM run_relationships ORDER BY from_id"


@pytest.fixture
def rerun(stored):
    """Run hpctrack rerun; the fake sbatch submits job 15."""

    def call(*words, **options):
        environ = {"FAKE_STDOUT": "Submitted batch job 15\n", **options.pop("environ", {})}
        return stored.sbatch(*words, verb="rerun", environ=environ, **options)

    return call


def runs(site):
    return site.query(
        "SELECT r.id, e.name, r.slurm_job_id, r.array_task_id, r.args, r.tags, r.time_limit::text,"
        " s.submit_line, s.script, s.work_dir, s.script_path, r.job_name FROM runs r"
        " JOIN experiments e ON e.id = experiment_id JOIN submissions s ON s.uuid = submission ORDER BY 1"
    )


def test_a_run_is_submitted_again_with_other_arguments(stored, rerun):
    script = stored.script(SCRIPT)
    stored.sbatch("-E", "old", "-T", "a=b", "-t", "10", "-p", "gpu", "train.sh", "--lr", "0.1", "data")
    first = stored.submitted
    stored.query("UPDATE experiments SET name = 'renamed' RETURNING id")
    script.write_text("#!/bin/bash\necho another script by now\n")
    done = rerun("14", "--set", "lr=0.2", "--time=20", "-T", "again", cwd=stored.folder)
    assert done == (0, "Submitted batch job 15\n", "")
    assert stored.argv[:3] == ["-p", "gpu", "--time=20"]
    assert stored.argv[4:] == ["--lr", "0.2", "data"]
    assert stored.submitted == first, "what was submitted then, not what the file holds now"
    old, new = runs(stored)
    assert new[1:7] == (
        "renamed", 15, None, {"lr": 0.2, "_": ["data"]},
        {"a": "b", "again": True, "script": "1"}, "00:20:00",
    )  # fmt: skip
    assert new[7] == (
        "hpctrack sbatch --experiment=renamed --tag=a=b --tag=again -p gpu --time=20 train.sh --lr 0.2 data"
    )
    assert new[8:] == old[8:] == (SCRIPT, str(stored.work), str(script), "train.sh")
    assert stored.query(LINKS) == [(new[0], "reruns", old[0])]
    assert stored.seen["PATH"] == stored.environ["PATH"]


def test_a_rerun_can_be_rerun(stored, rerun):
    stored.script(SCRIPT)
    stored.sbatch("train.sh", "--lr", "0.1")
    rerun("14", "--set", "lr=0.2")
    assert rerun("15", environ={"FAKE_STDOUT": "Submitted batch job 16\n"})[0] == 0
    assert stored.argv[1:] == ["--lr", "0.2"]
    assert stored.query(LINKS) == [(2, "reruns", 1), (3, "reruns", 2)]


def test_an_array_is_submitted_again_whole_or_one_task_of_it(stored, rerun):
    stored.script(SCRIPT)
    stored.sbatch("--array=0-2", "train.sh")
    assert rerun("14")[0] == 0
    assert rerun("14_2", environ={"FAKE_STDOUT": "Submitted batch job 16\n"})[0] == 0
    assert stored.argv[0] == "--array=2"
    assert rerun("14", "--array=7", environ={"FAKE_STDOUT": "Submitted batch job 17\n"})[0] == 0
    assert [(run[0], run[3]) for run in runs(stored)][3:] == [(4, 0), (5, 1), (6, 2), (7, 2), (8, 7)]
    links = [(4, "reruns", 1), (5, "reruns", 2), (6, "reruns", 3), (7, "reruns", 3), (8, "reruns", 1)]
    assert stored.query(LINKS) == links


def test_standard_input_and_wrapped_commands_are_submitted_again(stored, rerun):
    stored.sbatch("-t", "5", given=SCRIPT.encode())
    assert rerun("14")[0] == 0
    assert stored.argv[:2] == ["-t", "5"]
    assert runs(stored)[1][8] == SCRIPT
    stored.sbatch("--wrap", "echo 1", environ={"FAKE_STDOUT": "Submitted batch job 16\n"})
    assert rerun("16", environ={"FAKE_STDOUT": "Submitted batch job 17\n"})[0] == 0
    assert runs(stored)[3][8] == runs(stored)[2][8]


def test_where_secrets_were_masked_the_file_is_taken_if_it_has_not_changed(stored, rerun):
    script = stored.script(SCRIPT + f"export API_KEY={SECRET}\n")
    stored.sbatch("train.sh")
    assert SECRET not in str(runs(stored))
    first = stored.submitted
    assert rerun("14") == (0, "Submitted batch job 15\n", "")
    assert stored.submitted == first
    assert SECRET in stored.submitted.decode()
    script.write_text(script.read_text() + "\n")
    code, out, err = rerun("14")
    assert (code, out) == (65, "")
    assert err == (
        f"hpctrack: the script of 14 held secrets, which were not stored, and {script} has changed since: "
        "submit it with hpctrack sbatch\n"
    )
    script.unlink()
    assert "can't be read: No such file" in rerun("14")[2]
    os.mkfifo(script)
    assert "can't be read: not a regular file" in rerun("14")[2]
    text = f"#!/bin/sh\nTOKEN={SECRET}\n"
    stored.sbatch(given=text.encode(), environ={"FAKE_STDOUT": "Submitted batch job 16\n"})
    assert "it came from no file" in rerun("16")[2]


def test_a_masked_argument_is_given_again(stored, rerun):
    stored.script(SCRIPT)
    stored.sbatch("train.sh", "--api-key", SECRET, "--lr", "1")
    code, _, err = rerun("14")
    assert (code, err.count("\n")) == (65, 1)
    assert "give it again with --set NAME=VALUE" in err
    assert rerun("14", "--set", f"api-key={SECRET}")[0] == 0
    assert stored.argv[1:] == ["--api-key", SECRET, "--lr", "1"]
    assert SECRET not in str(runs(stored))


def test_what_sbatch_refuses_leaves_nothing(stored, rerun):
    stored.script(SCRIPT)
    stored.sbatch("train.sh")
    said = "sbatch: error: no"
    done = rerun("14", environ={"FAKE_EXIT": "1", "FAKE_STDOUT": "", "FAKE_STDERR": said})
    assert done == (1, "", said + "\n")
    assert len(runs(stored)) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["15"], 3, "no tracked run of job 15"),
        (["r2"], 65, "r2 was not submitted by hpctrack"),
        (["r3"], 2, "r3 is no job but a command; run it again: cd /w && hpctrack run -- ls"),
        (["14", "--tiem=5"], 2, "sbatch has no option --tiem"),
        (["14", "--set", "x"], 2, "--set takes NAME=VALUE"),
        ([], 2, "Missing argument 'RUN'"),
    ],
)
def test_failures_are_one_line(stored, rerun, words, code, said):
    stored.script(SCRIPT)
    stored.sbatch("train.sh")
    stored.query(
        "WITH s AS (INSERT INTO submissions (uuid, user_name, time, submit_line, work_dir)"
        " VALUES (gen_random_uuid(), 'u', now(), 'hpctrack run -- ls', '/w') RETURNING uuid)"
        " INSERT INTO runs (experiment_id, submission, kind)"
        " SELECT 1, NULL, 'client' UNION ALL SELECT 1, uuid, 'command' FROM s RETURNING id"
    )
    exit_code, out, err = rerun(*words)
    assert (exit_code, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_anothers_submission_is_not_submitted_again(roles):
    run_id = roles.submit("alice")
    code, out, err = roles.run("bob", "rerun", f"r{run_id}")
    assert (code, out) == (77, "")
    assert err == f"hpctrack: what r{run_id} was submitted as is for {roles.role('alice')} alone\n"
    assert roles.run("owner", "setup", "--details-visible", "all")[0] == 0
    for caller in ("bob", "collector", "owner", None):
        code, out, err = roles.run(caller, "rerun", f"r{run_id}")
        assert (code, out, err.count("\n")) == (77, "", 1), "no stranger's script runs as the caller"
        assert f"r{run_id} is {roles.role('alice')}'s, and what it was would run as" in err


def test_a_folder_that_is_gone_is_told(stored, rerun):
    script = stored.script(SCRIPT)
    stored.sbatch(script)
    script.unlink()
    stored.work.rmdir()
    code, _, err = rerun("14", cwd=stored.folder)
    assert (code, err) == (65, f"hpctrack: 14 was submitted from {stored.work}: No such file or directory\n")


def test_help_tells_the_options(rerun):
    code, out, _ = rerun("--help")
    assert code == 0
    assert out.startswith("Usage: hpctrack rerun [HPCTRACK OPTIONS] RUN [SBATCH OPTIONS]\n")
    assert "--set NAME=VALUE" in out
