"""The supervisor with real processes and signals, without Slurm and without a collector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hpctrack
from hpctrack import resources
from tests.support.supervised import SupervisedScript
from tests.support.waiting import eventually


def test_arguments_exit_code_and_environment(tmp_path):
    job = SupervisedScript(
        tmp_path,
        b'#!/bin/sh\nprintf "%s\\n" "$#" "$@" "$HPCTRACK_JOB_ID" "$HPCTRACK_SCRIPT"\nexit 3\n',
        "a b",
        "*",
    )
    assert job.end() == (3, "2\na b\n*\n14\n/home/a/train.sh\n", "")


def test_ranks_that_stood_in_the_environment_before_are_nobodys(tmp_path):
    script = b"""#!/bin/sh
"$PYTHON" -S -c 'import hpctrack; hpctrack.log(step=1, loss=1.0)'
RANK=1 WORLD_SIZE=3 "$PYTHON" -S -c 'import hpctrack; hpctrack.log(step=2, loss=1.0)'
"""
    job = SupervisedScript(
        tmp_path, script, PYTHON=sys.executable, RANK="1", WORLD_SIZE="2", SLURM_PROCID="1"
    )
    assert job.end() == (0, "", "")
    found = [path.read_text() for path in tmp_path.glob("spool/journals/*/*.log.*")]
    assert sum("loss d" in text for text in found) == 1
    assert sum("rank 1 (RANK) logs nothing" in text for text in found) == 1


@pytest.mark.parametrize("several", [{}, {"SLURM_JOB_NUM_NODES": "2"}, {"SLURM_HET_SIZE": "2"}], ids=str)
def test_the_package_can_be_imported_where_the_run_folder_is_not(tmp_path, several):
    script = b"""#!/bin/sh
rm -r "$HPCTRACK_RUN_DIR"
exec "$PYTHON" -S -c 'import hpctrack; hpctrack.log(step=1, loss=1.0)'
"""
    (tmp_path / "spool").mkdir(mode=0o700)  # as submitting has made it
    job = SupervisedScript(tmp_path, script, PYTHON=sys.executable, **several)
    assert job.end() == (0, "", "")


@pytest.mark.parametrize("before", [None, "", "/a:/b", "/a::/b"])
def test_an_untracked_run_imports_it_too_and_logs_nothing(tmp_path, before):
    """A script that imports hpctrack must not die of a node without a place for journals."""
    (tmp_path / "node").touch()  # nothing can be made there
    script = b"""#!/bin/sh
echo "$HPCTRACK_JOURNAL ${PYTHONPATH%:*}" | grep -v importable
exec "$PYTHON" -S -c 'from hpctrack import *; set_args(a=1); log(step=1, loss=1.0); print(__version__)'
"""
    environ = {} if before is None else {"PYTHONPATH": before}
    job = SupervisedScript(tmp_path, script, PYTHON=sys.executable, node="node", **environ)
    code, output, errors = job.end()
    assert (code, output.splitlines()[-1]) == (0, hpctrack.__version__)
    assert "untracked" in errors and "Traceback" not in errors
    assert not before or output.startswith(f"/dev/null {before}\n")


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13"])
def test_every_python_imports_it_and_nothing_else_of_ours(version):
    python = next(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), None)
    if python is None:
        pytest.skip(f"no Python {version} here")
    code = (
        "import hpctrack, hpctrack.script.calls, sys; hpctrack.log(step=1);"
        "print(hpctrack.__file__, 'numpy' in sys.modules, hpctrack.script.calls.log is hpctrack.log)"
    )
    environ = {"PYTHONPATH": resources.IMPORTABLE, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([python, "-S", "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hpctrack.__file__, "False", "True"]


def test_nothing_is_added_to_the_locale(tmp_path):
    """In the C locale Python sets LC_CTYPE in its own environment (PEP 538)."""
    job = SupervisedScript(tmp_path, b"#!/bin/sh\nenv | grep LC_ || echo none\n", LANG="C")
    assert job.end() == (0, "none\n", "")


def test_script_text_arrives_byte_for_byte(tmp_path):
    script = b'#!/bin/sh\ncat "$0" > copy\n' + bytes(range(1, 256)) * 40 + b"no newline at the end"
    SupervisedScript(tmp_path, b'#!/bin/sh\ncat "$0" > copy\nexit 0\n' + script).end()
    assert (tmp_path / "copy").read_bytes().endswith(script)


def test_death_by_a_signal_is_passed_up(tmp_path):
    assert SupervisedScript(tmp_path, b"#!/bin/sh\nkill -SEGV $$\n").end()[0] == -signal.SIGSEGV


def test_parents_that_ignore_their_children(tmp_path):
    """Some start-up scripts, Perl programs and containers do, and programs inherit it."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        job = SupervisedScript(
            tmp_path,
            b"#!/usr/bin/env python3\nfrom signal import *; raise SystemExit(3 + getsignal(SIGCHLD))\n",
        )
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert job.end()[0] == 3 + signal.SIG_IGN


def test_a_helper_that_was_killed_costs_the_script_no_signal(tmp_path):
    script = b"""#!/usr/bin/env python3
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
print(os.getppid(), file=open("up", "w"))
seen = [signal.sigwait(signal.valid_signals())]
while found := signal.sigtimedwait(signal.valid_signals(), 1):
    seen.append(found.si_signo)
raise SystemExit(0 if set(seen) == {signal.SIGUSR1} else seen[-1])
"""
    job = SupervisedScript(tmp_path, script)
    supervisor = int(job.await_file("up"))
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    inside, *others = map(int, children)  # in the order in which they were started
    os.kill(inside, signal.SIGKILL)
    for pid in (supervisor, *others):
        os.kill(pid, signal.SIGUSR1)
    assert job.end()[0] == 0


def test_interpreter_that_is_missing(tmp_path):
    code, _, errors = SupervisedScript(tmp_path, b"#!/no/such/interpreter\n").end()
    assert code == 2  # what plain sbatch gives: the number of the error
    assert errors.startswith("hpctrack: can't start") and errors.count("\n") == 1


def test_relay_that_is_killed_does_not_touch_the_script(tmp_path):
    os.mkfifo(tmp_path / "go")
    job = SupervisedScript(tmp_path, b"#!/bin/sh\necho $PPID > up\nread line < go; exit 5\n")
    supervisor = int(job.await_file("up"))
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    script = [pid for pid in children if b"slurm_script" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    for pid in set(children) - set(script):
        os.kill(int(pid), signal.SIGKILL)
    (tmp_path / "go").write_text("on\n")
    assert job.end()[0] == 5


def test_full_or_forbidden_disk_runs_the_script_untracked(tmp_path):
    (tmp_path / "node").symlink_to("/proc")  # nobody can make a folder in there
    code, output, errors = SupervisedScript(
        tmp_path, b"#!/bin/sh\necho $HPCTRACK_JOURNAL $1\nexit 4\n", "x"
    ).end()
    assert (code, output) == (4, "/dev/null x\n")
    assert errors.count("\n") == 1 and "runs untracked" in errors


@pytest.mark.parametrize(
    ("send", "expected"),
    [
        (lambda job: os.kill(job.process.pid, signal.SIGUSR1), "script\n"),
        (lambda job: os.killpg(job.process.pid, signal.SIGUSR1), "child\nscript\n"),
    ],
    ids=["batch process only", "process group"],
)
def test_signals_reach_whom_they_would_reach_without_us(tmp_path, send, expected):
    script = b"""#!/usr/bin/env python3
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
who = "script" if os.fork() else "child"
os.close(os.open(who + ".ready", os.O_CREAT))
while signal.sigwait({signal.SIGUSR1, signal.SIGUSR2}) == signal.SIGUSR1:
    with open("seen", "a") as file:
        file.write(who + "\\n")
"""
    job = SupervisedScript(tmp_path, script)
    eventually(lambda: (tmp_path / "script.ready").exists() and (tmp_path / "child.ready").exists())
    send(job)
    time.sleep(0.6)
    seen = "".join(sorted((tmp_path / "seen").read_text().splitlines(keepends=True)))
    os.killpg(job.process.pid, signal.SIGUSR2)
    assert job.end()[0] == 0
    assert seen == expected


def test_a_signal_to_every_process_is_not_doubled(tmp_path):
    script = b"""#!/usr/bin/env python3
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print(os.getppid(), file=open("up", "w"))
count = 0
while signal.sigtimedwait({signal.SIGUSR1}, 5 if count == 0 else 1):
    count += 1
raise SystemExit(count)
"""
    job = SupervisedScript(tmp_path, script)
    supervisor = int(job.await_file("up"))
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for pid in [str(supervisor), *children]:
        os.kill(int(pid), signal.SIGUSR1)
    assert job.end()[0] == 1


def test_readers_of_a_pipe_see_its_end_when_the_script_ends(tmp_path):
    """Not only when the relay has flushed: nothing of ours keeps standard output open."""
    os.mkfifo(tmp_path / "go")
    job = SupervisedScript(tmp_path, b"#!/bin/sh\necho out; exec 1>&- 2>&-; read line < go\n")
    assert job.process.stdout is not None and job.process.stdout.read() == "out\n"
    (tmp_path / "go").write_text("on\n")
    assert job.process.wait(30) == 0


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("group", [False, True], ids=["the batch process", "its group"])
def test_what_stops_the_batch_process_stops_the_script(tmp_path, group):
    """SIGSTOP can't be caught, nor passed on; `scancel -b -s STOP` and `scancel -f -s STOP` send it."""
    job = SupervisedScript(tmp_path, b"#!/bin/sh\nsleep 600 &\necho $PPID $$ $! > up\nwait\n")
    supervisor, script, child = map(int, job.await_file("up").split())
    send = os.killpg if group else os.kill
    send(supervisor, signal.SIGSTOP)
    eventually(lambda: state(script) == "T" and (not group or state(child) == "T"))
    assert state(child) == ("T" if group else "S")
    send(supervisor, signal.SIGCONT)
    eventually(lambda: "T" not in (state(supervisor), state(script), state(child)))
    os.kill(child, signal.SIGTERM)
    assert job.end()[0] == 0
