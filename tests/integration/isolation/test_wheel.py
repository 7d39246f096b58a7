"""The wheels, without extras, in an environment of their own: all that is needed is inside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from hpctrack.store import database as store
from hpctrack.stream.collector import launch
from tests.support.paths import ROOT
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def fresh_bin(wheels, tmp_path_factory):
    """``bin`` of a fresh environment that holds the wheels and what they depend on."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "--quiet",
        *wheels,
    ]
    subprocess.run(command, check=True)
    return folder / "bin"


def test_setup_collector_and_a_tracked_command_work_from_the_wheel(fresh_bin, empty_database, tmp_path):
    environ = {
        "PATH": f"{fresh_bin}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        **launch.environment(empty_database._replace(collector_bind="127.0.0.1")),
    }

    def run(*argv):
        return subprocess.run(
            argv, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    def ended():
        runs = json.loads(run("hpctrack", "status", "-E", "wheel", "--json").stdout)["runs"]
        return next((run for run in runs if run["time_ended"]), None)

    assert run("hpctrack", "--version").stdout.startswith("hpctrack ")
    done = run("hpctrack", "setup")
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(
        ["hpctrack", "collector", "--no-reconcile"], env=environ, cwd=tmp_path
    ) as collector:
        try:
            eventually(lambda: collector.poll() is not None or launch.read_addresses(empty_database))
            assert collector.poll() is None
            script = "import hpctrack; hpctrack.log(step=1, loss=0.5); raise SystemExit(6)"
            # The command's Python is another one, in which hpctrack is not installed.
            done = run("hpctrack", "run", "-E", "wheel", "--", "/usr/bin/python3", "-c", script)
            assert (done.returncode, done.stderr) == (6, "")
            shown = eventually(ended, pause=0.5)
        finally:
            collector.terminate()
    assert (shown["state"], shown["exit_code"], shown["last"]) == ("FAILED", 6, {"loss": 0.5})
    with store.connect(empty_database) as connection:
        assert connection.execute("SELECT step FROM metrics").fetchall() == [(1,)]


def test_the_unit_is_where_the_page_for_sites_says(fresh_bin):
    root = ROOT
    page = (root / "docs" / "site.md").read_text()
    [command] = re.findall(r"^    cp /opt/hpctrack/(\S+) /etc/systemd/system/$", page, re.MULTILINE)
    [unit] = fresh_bin.parent.glob(command)
    assert unit.read_text() == (root / "systemd" / unit.name).read_text()
