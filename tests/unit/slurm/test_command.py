"""Starting commands: what reaches them, and what their failures become. Fakes are executables on PATH."""

import os
import stat
import textwrap

import pytest

from hpctrack import errors
from hpctrack.slurm import command


@pytest.fixture
def fake(tmp_path):
    """Make an executable of this name on a PATH of its own; returns the environment to run it in."""

    def make(name, script):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + textwrap.dedent(script))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return {"PATH": f"{path.parent}:/usr/bin:/bin"}

    return make


def test_nothing_of_the_user_changes_what_a_query_prints():
    environ = {
        "PATH": "/bin",
        "HOME": "/home/u",
        "TZ": "Europe/Berlin",
        "SQUEUE_FORMAT": "%i",
        "SQUEUE_PARTITION": "gpu",
        "SACCT_FORMAT": "jobid",
        "SINFO_FORMAT": "%n",
        "SCONTROL_ALL": "1",
        "SLURM_CLUSTERS": "other",
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_JOB_ID": "7",
        "SLURM_CONF": "/etc/slurm/other.conf",
        "SLURM_JWT": "token",
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "de_DE.UTF-8",
    }
    assert command.query_environ(environ) == {
        "PATH": "/bin",
        "HOME": "/home/u",
        "TZ": "Europe/Berlin",
        "SLURM_CONF": "/etc/slurm/other.conf",
        "SLURM_JWT": "token",
        "LC_ALL": "C",
        "SLURM_BITSTR_LEN": "0",
        "SLURM_TIME_FORMAT": "%s",
    }


#: What the manual pages of squeue, sacct, sinfo and scontrol list for releases up to 25.11.
SETTINGS = (
    "SLURM_BITSTR_LEN SLURM_CLUSTERS SLURM_DEBUG_FLAGS SLURM_JSON SLURM_TIME_FORMAT SLURM_TOPO_LEN "
    "SLURM_YAML SQUEUE_ACCOUNT SQUEUE_ALL SQUEUE_ARRAY SQUEUE_FEDERATION SQUEUE_FORMAT SQUEUE_FORMAT2 "
    "SQUEUE_LICENSES SQUEUE_LOCAL SQUEUE_NAMES SQUEUE_PARTITION SQUEUE_PRIORITY SQUEUE_QOS SQUEUE_SIB "
    "SQUEUE_SIBLING SQUEUE_SORT SQUEUE_STATES SQUEUE_USERS SACCT_FEDERATION SACCT_FORMAT SACCT_LOCAL "
    "SCONTROL_ALL SCONTROL_FEDERATION SCONTROL_FUTURE SCONTROL_LOCAL SCONTROL_SIB SCONTROL_SIBLING "
    "SINFO_ALL SINFO_FORMAT"
).split()


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_of_slurms_commands_is_the_users(name):
    assert command.query_environ({name: "theirs"}) == command.query_environ({})


def test_run_returns_both_streams_and_decodes_any_bytes(fake):
    environ = fake("squeue", r"""printf 'caf\303\251 \377\n'; echo "$SLURM_BITSTR_LEN" >&2; cat""")
    completed = command.run(["squeue"], timeout=20, environ=environ, stdin="in\udcff")
    assert completed == ("café \udcff\nin\udcff", "0\n", 0)


def test_a_query_without_stdin_does_not_wait_for_ours(fake):
    assert command.run(["sinfo"], timeout=20, environ=fake("sinfo", "cat")).stdout == ""


def test_a_command_that_is_not_there():
    with pytest.raises(errors.CommandNotFound, match="squeue is not on PATH"):
        command.run(["squeue"], timeout=5, environ={"PATH": "/nonexistent"})


@pytest.mark.parametrize(
    "said",
    [
        "squeue: error: Unable to contact slurm controller (connect failure)",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "sacct: error: Problem talking to the database: Connection refused",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "squeue: fatal: Could not establish a configuration source",
    ],
)
def test_an_unreachable_daemon_is_told_from_a_refusal(fake, said):
    environ = fake("squeue", f"echo '{said}' >&2; exit 1")
    for check in (True, False):
        with pytest.raises(errors.SlurmUnavailable) as caught:
            command.run(["squeue"], timeout=20, environ=environ, check=check)
        assert str(caught.value) == said


def test_a_refusal_keeps_slurms_words(fake):
    environ = fake("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    with pytest.raises(errors.SlurmError, match=r"^Slurm accounting storage is disabled$") as caught:
        command.run(["sacct"], timeout=20, environ=environ)
    assert not isinstance(caught.value, errors.SlurmUnavailable)
    assert command.run(["sacct"], timeout=20, environ=environ, check=False).returncode == 1


def test_a_hanging_command_is_ended_with_what_it_started(fake, tmp_path):
    environ = fake("squeue", f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(errors.SlurmUnavailable, match="within"):
        command.run(["squeue"], timeout=1.0, environ=environ)
    child = int((tmp_path / "child").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(1000):  # an orphan stays until init reaps it
            os.kill(child, 0)
            with open(f"/proc/{child}/stat") as status:
                if status.read().rpartition(")")[2].split()[0] == "Z":
                    raise ProcessLookupError


def test_commands_are_counted(fake):
    counter = command.counters["squeue"]
    before = command.Counter(**vars(counter))
    environ = fake("squeue", "exit $1")
    command.run(["squeue", "0"], timeout=20, environ=environ)
    with pytest.raises(errors.SlurmError):
        command.run(["squeue", "1"], timeout=20, environ=environ)
    assert counter.commands == before.commands + 2
    assert counter.failures == before.failures + 1
    assert counter.seconds > before.seconds
    assert 0 < counter.longest_s <= counter.seconds
    assert command.counters.by_program()["squeue"]["commands"] == counter.commands


def test_start_leaves_the_environment_alone(fake, tmp_path):
    environ = {
        **fake("sbatch", f"env > {tmp_path}/env"),
        "SBATCH_PARTITION": "gpu",
        "SLURM_TIME_FORMAT": "%c",
    }
    assert command.start(["sbatch"], environ).wait() == 0
    seen = (tmp_path / "env").read_text().splitlines()
    assert {"SBATCH_PARTITION=gpu", "SLURM_TIME_FORMAT=%c"} <= set(seen)
    assert not any(line.startswith("SLURM_BITSTR_LEN") for line in seen)


def test_a_program_that_cannot_be_executed(fake, tmp_path):
    environ = fake("sbatch", "")
    (tmp_path / "bin" / "sbatch").write_text("#!/nonexistent/interpreter\n")
    with pytest.raises(errors.SlurmError, match="can't be started"):
        command.start(["sbatch"], environ)
