"""The processes of a mini cluster: run, launched, found by what the kernel says of them, ended."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from minicluster_config import SYSTEM_PATH

# In the environment of our daemons, as DIR:NAME. Neither slurmstepds nor jobs keep it.
MARK = "MINICLUSTER_DAEMON"
PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
GRACE_SECONDS = 10.0


class ClusterError(Exception):
    """What failed, in one line, with the log to read."""

    exit_code = 1


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; false if it does not in time."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def run(*argv: str, **variables: str) -> str:
    """Run a command and return what it printed; its failure is one line. It is found on the PATH it gets."""
    command, env = shlex.join(argv[:3]), {"PATH": SYSTEM_PATH, "LC_ALL": "C", **variables}
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=env, start_new_session=True,
        )  # fmt: skip
        try:
            output, errors = process.communicate(timeout=60)
        except BaseException:  # ^C as well must leave nothing: mariadb-install-db runs a server below it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{command}: {error}") from error
    if process.returncode != 0:
        last = (errors.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise ClusterError(f"{command} failed: {last}")
    return output


def launch(directory: Path, name: str, argv: list[str], path: str) -> None:
    """Start a daemon that keeps nothing of the caller's: no session, pipe, ignored signal or variable."""
    spool = directory / "spool" / name
    env = {MARK: f"{directory}:{name}", "PATH": path, "LANG": "C.UTF-8"}
    env |= {"SLURM_CONF": f"{directory}/etc/slurm.conf", "MYSQL_UNIX_PORT": f"{directory}/mysql/socket"}
    with (directory / f"log/{name}.log").open("ab") as log:
        subprocess.run(
            ["setsid", "--fork", "env", "--default-signal", *argv],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, umask=0o022, check=True,
            cwd=spool if spool.exists() else directory,
        )  # fmt: skip


def is_listening(address: int | str) -> bool:
    """Ask the kernel about a TCP port or a socket: Slurm logs an error for a connection without words."""
    if isinstance(address, str):
        return f" {address}\n" in Path("/proc/net/unix").read_text()
    return re.search(rf":{address:04X} 0+:0000 0A", Path("/proc/net/tcp").read_text()) is not None


def all_pids() -> list[int]:
    """All processes of the machine."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def daemon_pids(directory: str) -> dict[str, int]:
    """Find the daemons of a cluster that run, by their mark: pid files may be stale, or not yet written."""
    pids = {}
    for pid in all_pids():
        with contextlib.suppress(OSError):  # It is gone, or a zombie.
            variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            names = [v.rpartition(":")[2] for v in variables if v.startswith(f"{MARK}={directory}:")]
            program = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[0]
            # What a daemon forks looks like it for a moment, but does not lead a session.
            if names and Path(program).name in PROGRAMS and os.getsid(pid) == pid:
                pids[names[0]] = pid
    return pids


def step_pids(spool: Path) -> set[int]:
    """Find slurmstepds by the working directory that their slurmd gave them, and all that runs below them."""
    parents, pids = {}, set()
    for pid in all_pids():
        with contextlib.suppress(OSError):
            # The command, in parentheses, may hold anything; after it come state and parent.
            command, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
            parents[pid] = int(rest.split()[1])
            if command.endswith("(slurmstepd") and Path(f"/proc/{pid}/cwd").readlink().is_relative_to(spool):
                pids.add(pid)
    while below := {pid for pid, parent in parents.items() if parent in pids} - pids:
        pids |= below
    return pids


def end(find: Callable[[], Iterable[int]], number: int = signal.SIGTERM) -> None:
    """Send a signal to the processes found; what can still be found after a while is killed."""
    for attempt in (number, signal.SIGKILL, signal.SIGKILL):
        for pid in find():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, attempt)
        if wait_for(lambda: not find(), GRACE_SECONDS if attempt == signal.SIGTERM else 2.0):
            return
    raise ClusterError(f"processes {sorted(find())} can't be killed")
