"""Ctrl-C at any moment of verbs that draw, write or ask: 130, and the terminal is as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.support.waiting import eventually

#: Runs a verb in a terminal again and again, and interrupts it after so many lines of its code. Prints what
#: went wrong.
FIRST, STRIDE, COUNT = 40, 239, 16
AT_MANY_INSTANTS = """
import glob, json, os, pty, signal, sys, termios
from hpctrack.cli import main
first, stride, count, arguments = json.loads(sys.argv[1])

def interrupt_at(line):
    left = line
    def trace(frame, event, _):
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0 or (left == -3 and line % 2):  # once and twice
                os.kill(os.getpid(), signal.SIGINT)
        return trace
    sys.settrace(trace)

def run(line):
    for path in glob.glob("x.*"):
        os.unlink(path)
    pid, leader = pty.fork()
    if pid == 0:
        interrupt_at(line)
        main.main(arguments)
    before, said = termios.tcgetattr(leader), b""
    os.write(leader, b"n\\n")
    while True:
        try:
            said += os.read(leader, 65536)
        except OSError:
            break
    after = termios.tcgetattr(leader)
    os.close(leader)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode(), before == after

usual, wrong = run(10**9)[0], []
for line in range(first, first + stride * count, stride):
    code, said, same = run(line)
    shown = said.count("\\x1b[?25l") <= said.count("\\x1b[?25h")
    # What is over before, or on its way out, ends as ever.
    ended = code in (130, -signal.SIGINT, usual)
    if not (same and shown and ended) or "Traceback" in said or "xception" in said:
        wrong.append((line, code, same, shown, said[-900:]))
print(json.dumps(wrong))
"""
VERBS = [
    ["export", "r1", "--to", "x.csv"], ["export", "r1", "--to", "x.parquet"], ["plot", "r1", "loss"],
    ["plot", "r1", "loss", "-o", "x.svg"], ["compare", "r1", "r2"], ["show", "r1", "--plot", "loss"],
    ["delete", "r1"], ["sync"], ["status"], ["doctor"], ["prune", "--older-than", "1d"],
]  # fmt: skip


@pytest.fixture
def logged(connection, run):
    one = run(status="COMPLETED", slurm_job_id=14)
    run(status="COMPLETED", slurm_job_id=15)
    connection.execute(
        "INSERT INTO metrics (run_id, step, extra)"
        " SELECT %s, i, jsonb_build_object('loss', i) FROM generate_series(1, 50) i",
        (one,),
    )
    return f"r{one}"


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_whenever_ctrl_c_comes(database, logged, tmp_path, verb):
    names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
    more = {"HPCTRACK_DATA_DIR": str(tmp_path / "data"), "HOME": str(tmp_path), "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-c", AT_MANY_INSTANTS, json.dumps([FIRST, STRIDE, COUNT, verb])],
        env={**os.environ, **names, **more}, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wrong = json.loads(done.stdout)
    assert not wrong, "\n".join(map(str, wrong))[:6000]
    assert set(os.listdir(tmp_path)) <= {"x.csv", "x.parquet", "x.svg", "data", ".config", ".cache"}


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
    one = terminal("delete", logged)
    one.read_until(lambda text: "[y/N]" in text)

    def left():
        one.type("\x03")  # what comes just before Python waits is heard with the next
        one.drain()
        return one.process.poll() is not None

    eventually(left)
    assert one.finish() in (130, -signal.SIGINT)
    assert "Traceback" not in one.text


def test_following_a_file_is_left(terminal, run, tmp_path):
    (tmp_path / "out").write_text("\x1b[31mred\n")
    ref = run(stdout_path=str(tmp_path / "out"), slurm_job_id=14)
    one = terminal("logs", "-f", f"r{ref}")
    one.read_until(lambda text: "red" in text)
    one.type("\x03")
    assert one.finish() == 130
    assert one.text.endswith("\x1b[0m") and "Traceback" not in one.text
