"""Ctrl-C at any moment of verbs that draw, write or ask: 130, and the terminal is as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support import interrupts
from tests.support.waiting import eventually

#: After how many lines of a verb's code Ctrl-C comes.
LINES = range(40, 40 + 16 * 239, 239)
VERBS = [
    ["export", "r1", "--to", "x.csv"], ["export", "r1", "--to", "x.parquet"], ["plot", "r1", "loss"],
    ["plot", "r1", "loss", "-o", "x.svg"], ["compare", "r1", "r2"], ["show", "r1", "--plot", "loss"],
    ["delete", "r1"], ["sync"], ["status"], ["doctor"], ["prune", "--older-than", "1d"],
]  # fmt: skip


@pytest.fixture
def logged(connection, run):
    run_id = run(status="COMPLETED", slurm_job_id=14)
    run(status="COMPLETED", slurm_job_id=15)
    connection.execute(
        "INSERT INTO metrics (run_id, step, extra)"
        " SELECT %s, i, jsonb_build_object('loss', i) FROM generate_series(1, 50) i",
        (run_id,),
    )
    return f"r{run_id}"


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_whenever_ctrl_c_comes(database, logged, tmp_path, verb):
    """Once, and again three lines later."""
    again = [[(line, signal.SIGINT), (line + 3, signal.SIGINT)][: 1 + line % 2] for line in LINES]
    usual, *interrupted = interrupts.run(database, tmp_path, verb, [[], *again], typed="n\n")
    # What is over before, or on its way out, ends as ever.
    codes = (130, -signal.SIGINT, usual.code)
    wrong = [
        ended
        for ended in interrupted
        if not ended.is_clean or ended.code not in codes or "xception" in ended.said
    ]
    assert not wrong, "\n".join(f"{ended.plan}: {ended.code}: {ended.said[-900:]}" for ended in wrong)[:6000]
    written = {path.name for folder in tmp_path.glob("[0-9]*") for path in folder.iterdir()}
    assert written <= {"x.csv", "x.parquet", "x.svg"}
    assert {name for name in os.listdir(tmp_path) if not name.isdigit()} <= {"data", ".config", ".cache"}


def test_where_ctrl_c_falls_into_a_callback_it_comes_again(tmp_path):
    """Python passes over what is raised there."""
    code = (
        "import os, signal, sys, time, weakref\n"
        "from hpctrack.cli import main\n"
        "class Thing: pass\n"
        "def work(arguments):\n"
        "    thing = Thing()\n"
        "    kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))\n"
        "    del thing\n"
        "    time.sleep(60)\n"
        "main.run = work; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_prompt_is_left(terminal, logged):
    screen = terminal("delete", logged)
    screen.read_until(lambda text: "[y/N]" in text)

    def left():
        screen.type("\x03")  # what comes just before Python waits is heard with the next
        screen.drain()
        return screen.process.poll() is not None

    eventually(left)
    assert screen.finish() in (130, -signal.SIGINT)
    assert "Traceback" not in screen.text


def test_following_a_file_is_left(terminal, run, tmp_path):
    (tmp_path / "out").write_text("\x1b[31mred\n")
    ref = run(stdout_path=str(tmp_path / "out"), slurm_job_id=14)
    screen = terminal("logs", "-f", f"r{ref}")
    screen.read_until(lambda text: "red" in text)
    screen.type("\x03")
    assert screen.finish() == 130
    assert screen.text.endswith("\x1b[0m") and "Traceback" not in screen.text
