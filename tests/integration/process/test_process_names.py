"""Scripts that clear stray workers away by name hit no process of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.requirements import skip_or_fail
from tests.support.supervised import SupervisedScript
from tests.support.waiting import eventually

#: A script called train.sh in a folder of that name; the interpreter's own path may hold anything as well.
WAIT = b"#!/bin/sh\necho $PPID > up\nread line < go; exit 5\n"
#: All but the shell itself, whose command line holds the words, too, under plain sbatch.
OTHERS = "for pid in $(pgrep -f {}); do [ $pid = $$ ] || kill -9 $pid; done"
WAYS = [
    "pkill -9 python",
    "pkill -9 -f python",
    OTHERS.format("train"),
    OTHERS.format("hpctrack"),
    "pkill -9 -f spool",
    "pkill -9 -f supervise[^a-z]",
    "killall -q -9 python3",
    "killall -q -9 -r 'python.*'",
    "kill -9 $(pidof python3)",
]


def ours(supervisor: int) -> list[tuple[str, str]]:
    """Return the command names and command lines of a supervisor and its children, but for the script."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    names = []
    for process in (Path(f"/proc/{pid}") for pid in (supervisor, *children)):
        line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        names.append(((process / "comm").read_text().strip(), line))
    return sorted(name for name in names if "slurm_script" not in name[0])


def test_our_processes_say_nothing_of_python_or_the_script(tmp_path):
    os.mkfifo(tmp_path / "go")
    job = SupervisedScript(tmp_path, WAIT, "train-argument")
    supervisor = int(job.await_file("up"))
    # A process has its parent's name until it takes its own.
    named = ("hpct-relay", "hpct-sentinel", "hpct-sentinel", "hpct-supervisor")
    eventually(lambda: ours(supervisor) == [(name, name) for name in named])
    (tmp_path / "go").write_text("on\n")
    assert job.end()[0] == 5


@pytest.fixture
def alone():
    """Return how to start a command in a namespace of process ids, behind a shell that is number one."""
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", '"$@"; exit $?', "sh"]
    if subprocess.run([*argv, "true"], check=False, capture_output=True).returncode:
        skip_or_fail("there can't be namespaces of process ids here")
    return argv


@pytest.mark.parametrize("way", WAYS)
def test_what_clears_workers_away_leaves_us_alone(tmp_path, alone, way):
    if any(not shutil.which(word) for word in ("pkill", "killall", "pidof") if word in way):
        pytest.skip("the program is not here")
    folder = tmp_path / "train"
    folder.mkdir()
    script = f"#!/bin/sh\n{way} 2>/dev/null\nread children < /proc/$PPID/task/$PPID/children\n"
    script += "for pid in $children; do cat /proc/$pid/comm; done; exit 5\n"
    code, output, _ = SupervisedScript(folder, script.encode(), "train", prefix=tuple(alone)).end()
    assert code == 5
    assert [name[:5] for name in sorted(output.split())] == ["hpct-", "hpct-", "hpct-", "slurm"]
