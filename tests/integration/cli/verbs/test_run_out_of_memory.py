"""`hpctrack run` outside Slurm: who is killed for want of memory, and who only by somebody."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrack.stream.node import report
from tests.support.paths import ROOT
from tests.support.waiting import eventually

MAIN = ROOT / "hpctrack" / "stream" / "__main__.py"
CGROUPS = Path("/sys/fs/cgroup")
HUNGRY = f"{sys.executable} -c 'bytearray(300_000_000)'"


@pytest.fixture
def cgroup():
    """Make a cgroup that holds 80 MB."""
    v1 = (CGROUPS / "memory").is_dir()
    folder = CGROUPS / ("memory" if v1 else "") / f"hpctrack-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text("80000000")
    except OSError as error:
        pytest.skip(f"no cgroup with a limit of memory can be made here: {error}")
    yield folder

    def is_removed():
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.is_dir()

    eventually(is_removed, 10, "a relay that was ending in it is gone")


def ending_of(folder, cgroup, script):
    """Run a command under the supervisor in the cgroup; return its last word in the relay's journal."""
    arguments = ["command", "--spool", folder / "spool", "--run", "12345678-aaaa:-1", "--node-dir", folder]
    argv = [sys.executable, "-I", "-S", MAIN, *arguments, "--flush", "0.2", "--", "sh", "-c", script]
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    environ = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["sh", "-c", enter, cgroup, *argv],
        check=False,
        env=environ,
        cwd=folder,
        capture_output=True,
        timeout=60,
    )
    journals = [*folder.glob("**/*.relay.journal"), *folder.glob("**/*.relay.*.part")]
    lines = [line for path in journals for line in path.read_text().splitlines()]
    [fin] = {line.partition(" ")[2] for line in lines if line.startswith("!fin ")}
    return done.returncode, json.loads(fin)


@pytest.mark.parametrize(
    ("script", "code", "out_of_memory"),
    [
        (f"exec {HUNGRY}", -9, True),
        (f"{HUNGRY}; exit $?", 137, True),
        ("kill -KILL $$", -9, False),
        (f"{HUNGRY}; exit 3", 3, None),
    ],
    ids=["the command itself", "its last program", "killed by somebody", "the command coped"],
)
def test_the_kernel_decides_what_was_out_of_memory(tmp_path, cgroup, script, code, out_of_memory):
    returncode, fin = ending_of(tmp_path, cgroup, script)
    assert returncode == code
    assert fin.get("out_of_memory") is out_of_memory


@pytest.mark.parametrize(
    ("entry", "file", "text", "kills"),
    [
        ("0::/user.slice/a", "user.slice/a/memory.events", "low 0\noom 2\noom_kill 2\n", 2),
        ("4:memory:/job", "memory/job/memory.oom_control", "under_oom 0\noom_kill 1\n", 1),
        ("4:memory:/job", "memory/job/memory.oom_control", "under_oom 0\n", None),
        ("8:pids:/job", "memory/job/memory.oom_control", "oom_kill 1\n", None),
    ],
)
def test_what_the_kernel_counts(tmp_path, entry, file, text, kills):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (tmp_path / "cgroup").write_text(f"1:name=systemd:/\n{entry}\n")
    assert report.oom_kills(str(tmp_path / "cgroup"), str(tmp_path)) == kills
    assert report.oom_kills(str(tmp_path / "none"), str(tmp_path)) is None
