"""hpctrack sbatch around a fake sbatch on PATH: options, script, environment and signals as under sbatch."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrack import resources
from hpctrack.slurm.sbatch import batch_script
from hpctrack.store import database as store
from hpctrack.stream.wire import records
from tests.support.site_of_fakes import MAIN
from tests.support.waiting import eventually


def untracked(site):
    return not (site.fake / "script").exists() and not Path(site.settings.spool).exists()


# ---- sbatch itself


def test_a_refusal_leaves_nothing(site):
    environ = {"FAKE_STDOUT": "", "FAKE_STDERR": "sbatch: error: Invalid account", "FAKE_EXIT": "1"}
    assert site.sbatch(site.script(), environ=environ) == (1, "", "sbatch: error: Invalid account\n")
    assert not Path(site.settings.spool).exists()
    assert list(site.scratch.iterdir()) == []
    assert site.calls("squeues") == []


def test_own_options_among_sbatchs_are_told_apart(site):
    site.script()
    refused = {"FAKE_STDOUT": "", "FAKE_STDERR": "sbatch: invalid option -- 'E'", "FAKE_EXIT": "1"}
    code, _, stderr = site.sbatch("--time=5", "-E", "x", "train.sh", environ=refused)
    assert (code, stderr.splitlines()) == (
        1,
        [refused["FAKE_STDERR"], "hpctrack: -E is an option of hpctrack's: those come first, then sbatch's"],
    )


def test_no_sbatch_here(site):
    (site.folder / "bin" / "sbatch").unlink()
    code, stdout, stderr = site.sbatch(site.script(), environ={"PATH": f"{site.folder}/bin"})
    assert (code, stdout, stderr.count("\n")) == (127, "", 1)
    assert "sbatch is not on PATH" in stderr


@pytest.mark.parametrize(
    ("stdout", "cluster"),
    [
        ("Submitted batch job 14\n", "fake"),
        ("Submitted batch job 14 on cluster other\n", "other"),
        ("14\n", "fake"),
        ("14;other\n", "other"),
        ("-- Welcome --\n  14 nodes\nSubmitted batch job 14\nBye\n", "fake"),
        ("14", "fake"),
    ],
)
def test_whatever_it_says_is_passed_on_and_understood(site, stdout, cluster):
    code, said, _ = site.sbatch(site.script(), environ={"FAKE_STDOUT": stdout})
    assert (code, said) == (0, stdout)
    assert site.record(14, cluster).cluster == cluster


def test_quiet_is_asked_for_by_the_path_that_nobody_else_has(site):
    environ = {"FAKE_STDOUT": "", "FAKE_SQUEUE": "21 %s a b\n22 %s a b\n"}
    code, stdout, _ = site.sbatch("-Q", "--parsable", site.script(), environ=environ)
    assert (code, stdout) == (0, "")
    assert site.record(21).base_job_id == 21
    assert "-Q" in site.argv
    assert len(site.calls("squeues")) == 1


def test_quiet_and_wait_is_known_while_it_runs(site, tmp_path):
    environ = {
        "FAKE_STDOUT": "",
        "FAKE_SQUEUE": "21 %s\n",
        "FAKE_UNTIL": str(tmp_path / "end"),
        "FAKE_EXIT": "3",
    }
    with site.start("-QW", site.script(), environ=environ) as process:
        eventually(lambda: site.record(21) is not None)
        assert process.poll() is None
        (tmp_path / "end").touch()
        process.communicate(timeout=30)
    assert process.returncode == 3


def test_on_several_clusters_squeue_says_which(site):
    environ = {"FAKE_STDOUT": "", "FAKE_SQUEUE": "CLUSTER: one\nCLUSTER: two\n21 %s\n"}
    site.sbatch("-Q", "-M", "one,two", site.script(), environ=environ)
    assert site.record(21, "two").cluster == "two"
    assert site.calls("squeues")[0].endswith("--clusters one,two")


def test_an_sbatch_that_timed_out_may_have_submitted(site):
    environ = {"FAKE_STDOUT": "", "FAKE_SQUEUE": "21 %s\n", "FAKE_SECONDS": "5.1", "FAKE_EXIT": "1"}
    environ["FAKE_STDERR"] = "sbatch: error: Batch job submission failed: Socket timed out"
    code, _, stderr = site.sbatch(site.script(), environ=environ)
    assert code == 1
    assert site.record(21).base_job_id == 21
    assert "job 21 is submitted" in stderr


def test_test_only_leaves_no_run(site):
    for line in (["--test-only", site.script()], [site.script("#!/bin/sh\n#SBATCH --test-only\n:\n")]):
        assert site.sbatch(*line, environ={"FAKE_STDOUT": ""}) == (0, "", "")
        assert not Path(site.settings.spool).exists()
    assert site.calls("squeues") == []


def test_wait_prints_and_registers_at_once(stored, tmp_path):
    environ = {"FAKE_UNTIL": str(tmp_path / "end"), "FAKE_EXIT": "5"}
    with stored.start("--wait", stored.script(), environ=environ) as process:
        assert process.stdout.readline() == b"Submitted batch job 14\n"
        eventually(lambda: stored.query("SELECT FROM runs"))
        assert process.poll() is None
        (tmp_path / "end").touch()
        process.communicate(timeout=30)
    assert process.returncode == 5


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_for_sbatch(site, signum):
    with site.start("--wait", site.script(), environ={"FAKE_UNTIL": "/nonexistent"}) as process:
        process.stdout.readline()
        process.send_signal(signum)
        process.communicate(timeout=30)
    assert process.returncode == (42 if signum == signal.SIGTERM else -signum)


def test_an_interrupt_at_the_terminal_ends_both_alike(site):
    with site.start(
        "--wait", site.script(), environ={"FAKE_UNTIL": "/none"}, start_new_session=True
    ) as process:
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT


def test_death_of_sbatch_by_a_signal(site):
    environ = {"FAKE_STDOUT": "", "FAKE_SIGNAL": "KILL"}
    assert site.sbatch(site.script(), environ=environ)[0] == -signal.SIGKILL


# ---- the script


def awkward():
    """A script of a thousand lines that quoting, here-documents and encodings would trip over."""
    lines = ["#!/bin/bash", "#SBATCH -J 'a name' # why", "", "# Grüße, \udce9\udcff", "cat <<'END'"]
    lines += [f"line {n} $HOME `date` \\ \" ' ** {{}} @SCRIPT@ %s éß漢字 \t" for n in range(994)]
    return os.fsencode("\n".join([*lines, "END"]))


def test_a_long_awkward_script_arrives_byte_for_byte(stored):
    text = awkward()
    assert stored.sbatch(stored.script(text))[0] == 0
    assert stored.submitted.endswith(b"\n" + text)
    assert stored.submitted.split(b"\n")[1:4] == text.split(b"\n")[1:4]
    assert stored.query("SELECT job_name FROM runs") == [("a name",)]
    assert len(stored.query("SELECT script FROM submissions")[0][0].split("\n")) == 1000


def test_the_name_of_the_script_stays(site):
    site.sbatch(
        "-n", "1", "./train.sh", "a b", "", environ={"FAKE_STDOUT": "1\n"}, given=site.script() and b""
    )
    assert site.argv[:2] == ["-n", "1"]
    assert Path(site.argv[2]).name == "train.sh"
    assert site.argv[3:] == ["a b", ""]
    assert f"export HPCTRACK_SCRIPT={site.work}/train.sh\n".encode() in site.submitted


def test_wrap(site):
    site.sbatch("-n1", "--wrap", "echo 'it''s'; #SBATCH -J no", ":", "-n2")
    assert site.argv[:3] == ["-n1", ":", "-n2"]
    assert Path(site.argv[3]).name == "wrap"
    assert site.submitted.endswith(batch_script.from_command(b"echo 'it''s'; #SBATCH -J no"))
    assert site.record().run["job_name"] == "wrap"
    assert site.record().run["het_job_id"] == 14


def test_standard_input(site):
    site.sbatch("-n1", given=b"#!/bin/sh\n#SBATCH --array=1-2\necho\n")
    assert Path(site.argv[1]).name == "sbatch"
    assert site.submitted.endswith(b"\n#!/bin/sh\n#SBATCH --array=1-2\necho\n")
    assert (site.record().run["job_name"], site.record().tasks) == ("sbatch", "1-2")


def test_a_pipe_is_read_once(site):
    fifo = site.work / "pipe.sh"
    os.mkfifo(fifo)
    for text in (b"#!/bin/sh\n: piped\n", b"no script\n"):
        with site.start(fifo) as process:
            fifo.write_bytes(text)
            process.communicate(timeout=30)
        assert Path(site.argv[0]).name == "pipe.sh"
        assert site.submitted.endswith(text)
    assert site.submitted == b"no script\n"


@pytest.mark.parametrize("text", [b"", b"echo\n", b"#!/bin/sh\r\n:\r\n", b"#!/bin/sh\n\0"])
def test_what_sbatch_refuses_it_sees_itself(site, text):
    script = site.script(text)
    environ = {"FAKE_STDOUT": "", "FAKE_EXIT": "1", "FAKE_STDERR": "sbatch: error: its own words"}
    assert site.sbatch(script, environ=environ) == (1, "", "sbatch: error: its own words\n")
    assert site.argv == [str(script)]
    assert untracked(site)


@pytest.mark.parametrize(
    "line", ["nosuch.sh", ".", "--wrap x train.sh", "-V", "--usage", "-n", "--unknown x"]
)
def test_other_lines_pass_through_as_typed(site, line):
    site.script()
    environ = {"FAKE_STDOUT": "as ever\n", "FAKE_EXIT": "2"}
    assert site.sbatch(*line.split(), environ=environ) == (2, "as ever\n", "")
    assert site.argv == line.split()


def test_help_is_ours_and_names_sbatchs(site):
    code, stdout, _ = site.sbatch("-E", "x", "--help")
    assert (code, "sbatch --help" in stdout, "--experiment" in stdout) == (0, True, True)
    assert not (site.fake / "argv").exists()


# ---- options of plugins


PLUGIN = "\n      --image=name            a container\n      --flag                  of a plugin\n"


def test_a_plugins_options_are_learnt_from_help_and_remembered(site):
    with (site.fake / "help").open("a") as file:
        file.write(PLUGIN)
    script = site.script()
    for _ in range(2):
        site.sbatch("--image", "ubuntu", "--flag", script, "x")
        assert site.argv[:3] == ["--image", "ubuntu", "--flag"]
        assert site.record().run["args"] == {"_": ["x"]}
    assert len(site.calls("helps")) == 1
    assert len(site.calls("scontrols")) == 1


def test_a_plugin_that_came_later_is_learnt(site):
    site.sbatch("--arr", "1", site.script())
    with (site.fake / "help").open("a") as file:
        file.write(PLUGIN)
    site.sbatch("--image", "ubuntu", site.script(), environ={"FAKE_STDOUT": "15\n"})
    assert site.record(15).base_job_id == 15


def test_where_the_script_is_in_doubt_sbatch_gets_what_was_typed(site):
    with (site.fake / "help").open("a") as file:
        file.write(PLUGIN)
    line = ["--image", str(site.script()), str(site.script(name="other.sh"))]
    code, _, stderr = site.sbatch(*line)
    assert (code, site.argv) == (0, line)
    assert stderr == (
        "hpctrack: submitted untracked: it can't be told whether --image takes a value: write it with =\n"
    )
    assert untracked(site)


# ---- the environment


def test_sbatch_gets_the_environment_unchanged(site):
    given = {
        "BASH_FUNC_module%%": "() {  :\n}",
        "LANG": "C",
        "SBATCH_EXPORT": "ALL",
        "SQUEUE_FORMAT": "%i",
        "ODD": "\udcff\n",
        "HPCTRACK_EXPERIMENT": "mine",
    }
    site.sbatch(site.script(), environ=given)
    assert site.seen == {**site.environ, **given}
    assert site.record().run["experiment"] == "mine"


def test_nothing_of_the_job_around_us_reaches_the_job(site):
    around = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1"}
    around |= {"HPCTRACK_JOB_ID": "9", "HPCTRACK_JOURNAL": "/tmp/j", "HPCTRACK_RUN_DIR": "/tmp/r"}
    site.sbatch(site.script(), environ=around)
    assert {name for name in around if name in site.seen} == {"SLURM_JOB_ID"}


def test_a_job_is_submitted_through_the_folder_for_scripts(site):
    """Inside a job a script's own Python finds hpctrack there, and nowhere else."""
    environ = {"PYTHONPATH": f"{resources.IMPORTABLE}:{os.pathsep.join(sys.path)}"}
    assert site.sbatch(site.script(), environ=environ)[0] == 0
    assert f"hpctrack_main={resources.PACKAGE}/stream".encode() in site.submitted


# ---- hpctrack itself is broken


def test_a_configuration_that_does_not_parse(site):
    (site.work / "hpctrack.conf").write_text("nonsense\n")
    code, stdout, stderr = site.sbatch(site.script())
    assert (code, stdout, stderr.count("\n")) == (0, "Submitted batch job 14\n", 1)
    assert "submitted untracked: hpctrack.conf:1" in stderr
    assert site.argv == [str(site.work / "train.sh")]


def test_a_full_disk(site):
    code, stdout, stderr = site.sbatch("-n1", site.script(), environ={"FAKE_BRIEF": "1"}, preexec_fn=no_files)
    assert (code, stdout) == (0, "Submitted batch job 14\n")
    assert stderr.count("\n") == 1
    assert "submitted untracked" in stderr
    assert site.argv == ["-n1", str(site.work / "train.sh")]


def no_files():
    """Let hardly anything be written any more."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))


def test_the_cluster_without_a_name(site):
    code, _, stderr = site.sbatch(site.script(), environ={"FAKE_NO_SCONTROL": "1"})
    assert (code, stderr.count("\n")) == (0, 1)
    assert "job 14 is submitted, but not tracked: " in stderr


def test_a_wrong_own_option_stops_before_sbatch(site):
    code, _, stderr = site.sbatch("--note")
    assert (code, stderr.count("\n")) == (2, 1)
    assert not (site.fake / "argv").exists()


def test_a_wrong_line_in_the_script_is_told(site):
    _, _, stderr = site.sbatch(site.script("#!/bin/sh\n#HPCTRACK --experimnt=x\n:\n"))
    assert "--experimnt=x is not an option of hpctrack" in stderr
    assert site.record().run["experiment"] == "default"


def test_bbf_would_shift_the_script(site):
    (site.work / "bb").write_text("#BB x\n")
    code, _, stderr = site.sbatch("--bbf=bb", site.script())
    assert (code, stderr) == (0, "hpctrack: submitted untracked: --bbf puts lines into the script\n")


def test_the_key_in_the_script_where_asked_for(site):
    site.sbatch(site.script(), environ={"HPCTRACK_KEY_IN": "script"})
    (site.fake / "script").chmod(0o700)
    inside = records.read(str(site.fake / "script"))
    outside = site.record()
    assert (inside.uuid, inside.secret) == (outside.uuid, outside.secret)
    assert (inside.submission, inside.run) == ({}, {})


def test_store_is_used_through_the_users_settings(stored, connection):
    stored.sbatch(stored.script(), environ={"HPCTRACK_EXPERIMENT": "e", "HPCTRACK_TAGS": "x=1,y"})
    with store.connect(stored.settings) as own:
        assert own.execute("SELECT tags FROM runs").fetchall() == [({"x": "1", "y": True},)]


# ---- sbatch as sites have it


def around(site, text):
    """Put a program of the site's in front of sbatch on PATH; return the environment."""
    folder = site.folder / "front"
    folder.mkdir()
    (folder / "sbatch").write_text("#!/bin/sh\n" + text)
    (folder / "sbatch").chmod(0o755)
    return {"PATH": f"{folder}:{site.environ['PATH']}"}


@pytest.mark.parametrize("options", [[], ["--parsable"], ["--parsable", "--wait"]], ids=str)
@pytest.mark.parametrize(
    ("first", "last"),
    [("7", ""), ("7;fake", ""), ("  7  ", ""), ("7\\n8", ""), ("", "7"), ("8", "7")],
    ids=str,
)
def test_numbers_around_sbatchs_own_line_are_nobodys_job(site, options, first, last):
    """Hours that are left, a ticket, a count of nodes."""
    said = [f'printf "{number}\\n"' if number else ":" for number in (first, last)]
    front = around(site, f'{said[0]}; {site.folder}/bin/sbatch "$@" && {said[1]}\n')
    answer = "14\n" if options else "Submitted batch job 14\n"
    site.sbatch(*options, site.script(), environ={**front, "FAKE_STDOUT": answer, "FAKE_SQUEUE": "14 %s\n"})
    assert site.record(14) is not None
    assert site.record(7) is None and site.record(8) is None


def test_an_sbatch_on_another_host_finds_the_script(site):
    """It goes there by ssh: of this host it sees the home alone."""
    front = around(
        site,
        f'mv {(here := site.scratch)} {here}-away; {site.folder}/bin/sbatch "$@"; mv {here}-away {here}\n',
    )
    code, _, stderr = site.sbatch(site.script(), environ=front)
    assert (code, site.submitted[:2]) == (0, b"#!"), stderr
    assert site.record(14) is not None
    assert [
        path for path in Path(site.settings.data_dir).iterdir() if path.name.startswith("hpctrack-")
    ] == []


@pytest.mark.parametrize("how", ["once", "twice on PATH", "two of them"])
def test_an_sbatch_that_hands_over_to_hpctrack_ends_at_the_real_one(site, how):
    call = f'exec {sys.executable} -c "{MAIN}" sbatch "$@"\n'
    front = around(site, call)
    if how == "twice on PATH":
        front["PATH"] = f"{site.folder}/front:{front['PATH']}"
    if how == "two of them":
        (site.folder / "second").mkdir()
        (site.folder / "second" / "sbatch").write_text("#!/bin/sh\n: # another\n" + call)
        (site.folder / "second" / "sbatch").chmod(0o755)
        front["PATH"] = front["PATH"].replace(":", f":{site.folder}/second:", 1)
    code, stdout, stderr = site.sbatch(site.script(), environ=front)
    assert (code, stdout) == (0, "Submitted batch job 14\n"), stderr
    assert site.record(14) is not None
    assert site.submitted.count(b"# hpctrack: below") == 1
    assert site.seen["PATH"] == front["PATH"]


def test_where_every_sbatch_calls_hpctrack_it_ends(site):
    front = around(site, f'exec {sys.executable} -c "{MAIN}" sbatch "$@"\n')
    (site.folder / "bin" / "sbatch").unlink()
    front["PATH"] = (
        f"{site.folder}/front:/usr/bin:/bin"
        if not os.path.exists("/usr/bin/sbatch")
        else f"{site.folder}/front"
    )
    code, _, stderr = site.sbatch(site.script(), environ=front)
    assert code == 127 and "each sbatch on PATH calls hpctrack" in stderr


@pytest.mark.parametrize("full", ["/dev/full", "closed"])
def test_what_can_not_be_printed_is_no_reason_to_submit_again(site, full):
    """sbatch itself ends with 0 then."""
    command = 'exec "$@" ' + (">&-" if full == "closed" else f"> {full}")
    front = [sys.executable, "-c", MAIN, "sbatch", site.script()]
    done = subprocess.run(
        ["sh", "-c", command, "sh", *front],
        env=site.environ,
        cwd=site.work,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert site.record(14) is not None


def test_a_copy_that_was_submitted_quietly_is_told(site):
    """Nobody can say then which job it is."""
    front = around(site, f'cp "$2" {site.folder}/copy; exec {site.folder}/bin/sbatch -Q {site.folder}/copy\n')
    environ = {**front, "FAKE_STDOUT": "", "FAKE_SQUEUE": ""}
    code, _, stderr = site.sbatch("-Q", site.script(), environ=environ)
    assert (code, stderr.count("\n")) == (0, 1)
    assert "which job it is" in stderr


@pytest.mark.parametrize(
    ("argv", "tracked"),
    [
        (["-n1", ":", "--external", "-n1"], True),
        (["--external", "-n1", ":", "-n1"], False),
        (["--external", "-n1"], False),
    ],
)
def test_of_a_mixed_heterogeneous_job_the_first_component_matters(site, argv, tracked):
    code, _, stderr = site.sbatch(*argv, site.script())
    assert (code, untracked(site)) == (0, not tracked)
    assert ("hpctrack: submitted untracked: an external job runs no script" in stderr) == (not tracked)
