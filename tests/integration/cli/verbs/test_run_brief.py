"""`hpctrack run` of commands that end before PostgreSQL knows of them: complete as soon as can be."""

from __future__ import annotations

import os
import subprocess

import pytest

from hpctrack.store import database as store
from hpctrack.store import embedded
from tests.support.commands import hpctrack

_LOG = 'echo "step=1 loss=0.5" >> "$HPCTRACK_JOURNAL"; '
BRIEF = {"nothing": "", "a moment": "sleep 0.4", "about a second": "sleep 0.9", "failed": "exit 3"}


def run(settings, script: str) -> subprocess.CompletedProcess[str]:
    """Run a command; this returns when it and everybody who may still say something about it have ended."""
    return hpctrack(settings, "run", "--", "sh", "-c", _LOG + script)


def found(settings):
    """Return state and number of rows of all runs."""
    with store.connect(settings, autocommit=True) as connection:
        return connection.execute(
            "SELECT r.status::text, count(m.*) FROM runs r LEFT JOIN metrics m ON m.run_id = r.id"
            " GROUP BY r.id ORDER BY r.id"
        ).fetchall()


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_a_brief_command_is_complete_when_it_has_ended(settings, quiet_collector):
    """The collector is warm: the relay itself delivers, or who registered the command does."""
    os.mkdir(settings.node_dir)
    done = [run(settings, script) for script in BRIEF.values()]
    assert [ended.returncode for ended in done] == [0, 0, 0, 3]
    states = ["COMPLETED", "COMPLETED", "COMPLETED", "FAILED"]
    assert found(settings) == [(state, 1) for state in states]


def test_the_very_first_command_is_complete_when_all_has_been_started(personal, tmp_path):
    (tmp_path / "data").mkdir(mode=0o700)
    done = run(personal, "exit 4")
    assert done.returncode == 4, done.stderr
    assert found(personal) == [("FAILED", 1)]
    told = done.stderr.splitlines()
    assert len([line for line in told if "r1 is complete" in line]) == 1, told
    assert embedded.running(personal) is not None


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_a_command_that_runs_untracked_is_not_registered(settings, tmp_path):
    """Nobody would ever say how it ended."""
    untracked = settings._replace(node_dir=str(tmp_path / "nowhere"))
    done = run(untracked, "exit 3")
    assert done.returncode == 3 and "untracked" in done.stderr, done.stderr
    assert found(settings) == []
    assert hpctrack(settings, "sync").returncode == 0 and found(settings) == []
    tracked = settings._replace(node_dir=str(tmp_path))
    run(tracked, "exit 4")
    assert len(found(settings)) == 1
