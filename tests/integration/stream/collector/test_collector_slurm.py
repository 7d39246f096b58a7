"""How a collector asks Slurm: as whoever submits reaches it, and counted."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
import sys

import pytest

from hpctrack import settings as configuration
from hpctrack.cli.verbs import collector as verb
from hpctrack.slurm import site
from hpctrack.store import embedded
from hpctrack.stream.collector import launch
from tests.support.collectors import Collector
from tests.support.commands import PROGRAM, environment
from tests.support.ports import free_port
from tests.support.prometheus import scrape
from tests.support.slurm_says import line
from tests.support.waiting import PATIENCE, eventually

SBATCH = "#!/bin/sh\ncat > /dev/null; echo Submitted batch job 10\n"
SCONTROL = "#!/bin/sh\necho 'ClusterName             = mini'\n"


@pytest.fixture
def programs(slurm):
    """Stand-ins for all of Slurm's commands that a submission and a collector need."""
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
        path = slurm.folder / name
        path.write_text(text)
        path.chmod(0o755)
    return slurm


def asked(slurm, name="squeue"):
    """Return the environments in which a command was called."""
    return [environ for _, _, environ in slurm.calls(name)]


def test_the_collector_that_a_submission_starts_asks_its_slurm(tmp_path, wheel_server, programs):
    settings = configuration.Settings(
        data_dir=str(tmp_path / "data"),
        embedded_listen="127.0.0.1",
        collector_bind="127.0.0.1",
        reconcile_interval=1.0,
    )
    conf = str(tmp_path / "slurm.conf")
    environ = {**environment(settings), "PATH": programs.environ["PATH"], "SLURM_CONF": conf}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "sbatch", "--wrap", "true"],
            env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=tmp_path,
        )  # fmt: skip
        assert "hpctrack: started a collector on " in done.stderr
        calls = eventually(lambda: asked(programs))
        assert {call["SLURM_CONF"] for call in calls} == {conf}
    finally:
        with contextlib.suppress(Exception):
            launch.stop(settings)
        embedded.stop(settings)


def test_a_collector_that_was_started_without_slurm_finds_it_once_somebody_submits(
    tmp_path, programs, monkeypatch
):
    settings = configuration.Settings(data_dir=str(tmp_path / "data"))
    submitter = {"PATH": programs.environ["PATH"], "SLURM_CONF": "/site/slurm.conf", "SECRET": "x"}
    monkeypatch.delenv("SLURM_CONF", raising=False)
    site.note_client(submitter, settings.cache)
    assert "SECRET" not in (tmp_path / "data" / "cache" / "slurm-client.json").read_text()
    find = verb._find_slurm(settings)
    assert find.cluster == "mini"
    find.backend.queue()
    [environ] = asked(programs)
    assert (environ["SLURM_CONF"], environ["PATH"]) == ("/site/slurm.conf", submitter["PATH"])


def test_ones_own_collector_asks_for_the_account_whatever_the_environment_says(
    tmp_path, programs, monkeypatch
):
    monkeypatch.setenv("PATH", programs.environ["PATH"])
    for name in ("LOGNAME", "USER"):
        monkeypatch.setenv(name, "somebody-else")
    found = verb._find_slurm(configuration.Settings(data_dir=str(tmp_path / "data")))
    assert found.user == pwd.getpwuid(os.getuid()).pw_name


def test_another_hosts_way_to_slurm_is_not_ours(tmp_path):
    site.note_client({"PATH": "/there"}, str(tmp_path))
    file = tmp_path / "slurm-client.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": "elsewhere"}))
    ours = {"PATH": "/here", "SLURM_CONF": "/ours"}
    assert site.client_environ(ours, str(tmp_path)) == ours
    file.write_text("[")
    assert site.client_environ(ours, str(tmp_path)) == ours


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_what_slurm_was_asked_is_exported(database, register, programs, monkeypatch):
    register(10), register(11)
    programs.says("squeue", line(10))
    programs.says("sacct", stderr="sacct: error: Problem talking to the database\n", exit=1)
    settings = database._replace(collector_bind="127.0.0.1", metrics_port=free_port(), reconcile_interval=0.5)
    monkeypatch.setenv("PATH", programs.environ["PATH"])
    collector = Collector(settings, "--reconcile")
    try:

        def failed():
            with contextlib.suppress(OSError):
                scraped = scrape(settings)
                return scraped if scraped.get("slurm_up") == 0 else None
            return None

        scraped = eventually(failed)
    finally:
        collector.end()
    assert scraped["slurm_commands_total squeue"] >= 1
    assert scraped["slurm_commands_total sacct"] >= scraped["slurm_failures_total sacct"] >= 1
    assert scraped["slurm_failures_total squeue"] == 0
    assert scraped["slurm_seconds_total squeue"] > 0
    assert (scraped["slurm_up"], scraped["slurm_passes_total"] >= 1) == (0, True)
