"""Starting Slurm's commands: the only doorway. What goes wrong is translated here, once.

Queries (squeue, sacct, scontrol, sinfo) go through `run`, in an environment in which nothing of the user's
changes what they print or filter. sbatch itself is started with `start`, in the environment that the caller
gives, unchanged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import time
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from hpctrack import errors
from hpctrack.process import inherited

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Settings of Slurm's commands by environment (their manual pages, "ENVIRONMENT VARIABLES").
_SCRUBBED = re.compile(r"(?:SLURM|SQUEUE|SACCT|SINFO|SCONTROL|SDIAG|SSTAT|SACCTMGR|SPRIO)_|LC_|LANG")
#: What a command needs to find its cluster and to prove who calls.
_KEPT = re.compile(r"SLURM_(?:CONF|JWT|SACK)")
#: What commands say when slurmctld or slurmdbd do not answer, as opposed to when they refuse.
_UNREACHABLE = re.compile(
    r"unable to contact|connection refused|connection timed out|timed out on send/recv|unable to connect"
    r"|connection failure|problem talking to the database|database connection|transport endpoint"
    r"|zero bytes were transmitted|could not establish a configuration source|failed to fetch config"
    r"|protocol authentication error|munge|standby mode|no route to host|network is unreachable"
    r"|unable to establish",
    re.IGNORECASE,
)


class Completed(NamedTuple):
    """What a command that ended has to say. Bytes that are not UTF-8 come as lone surrogates."""

    stdout: str
    stderr: str
    returncode: int


@dataclasses.dataclass
class Counter:
    """What one of Slurm's commands was asked by this process."""

    commands: int = 0
    failures: int = 0
    """Commands that exited with an error, ran into their time limit or could not be started."""
    seconds: float = 0.0
    """Time spent waiting for them."""
    longest_s: float = 0.0
    """Of that, the longest wait for one."""


class Counters(dict[str, Counter]):
    """A counter for each program."""

    def __missing__(self, program: str) -> Counter:
        self[program] = counter = Counter()
        return counter

    def by_program(self) -> dict[str, dict[str, float]]:
        """Return what they count, as JSON has it. For any thread."""
        return {
            program: {name: round(value, 3) for name, value in vars(counter).items()}
            for program, counter in self.copy().items()
        }


#: What Slurm's daemons were asked by this process.
counters = Counters()


def query_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a query.

    Without anything that changes what commands print or filter (``SQUEUE_FORMAT``, ``SLURM_CLUSTERS``, ...);
    in plain English; lists of array tasks unabridged; times as seconds since the epoch, which no time zone
    and no change of clocks makes ambiguous.
    """
    kept = {name: text for name, text in environ.items() if not _SCRUBBED.match(name) or _KEPT.match(name)}
    return {**kept, "LC_ALL": "C", "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "%s"}


def find(program: str, environ: Mapping[str, str]) -> str:
    """Return the path of a program on PATH. Raises `errors.CommandNotFound`."""
    path = shutil.which(program, path=environ.get("PATH", os.defpath))
    if path is None:
        raise errors.CommandNotFound(f"{program} is not on PATH: is Slurm installed on this host?")
    return path


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    environ: Mapping[str, str],
    stdin: str | None = None,
    check: bool = True,
    name: str | None = None,
) -> Completed:
    """Run a query to its end, in `query_environ` of ``environ``, within ``timeout`` seconds.

    ``name`` is what it is counted and complained about as, if not the program's own.

    Raises `errors.CommandNotFound`; `errors.SlurmUnavailable` when time is up or Slurm's daemons do not
    answer; with ``check``, `errors.SlurmError` for any other exit code than 0.
    """
    started = time.monotonic()
    name = name or argv[0]
    counter = counters[name]
    counter.commands += 1
    try:
        completed = _run(argv, timeout, query_environ(environ), stdin, name)
        _raise_for(name, completed, check)
    except errors.SlurmError:
        counter.failures += 1
        raise
    finally:
        seconds = time.monotonic() - started
        counter.seconds += seconds
        counter.longest_s = max(counter.longest_s, seconds)
    return completed


def _run(
    argv: Sequence[str], timeout: float, environ: dict[str, str], stdin: str | None, name: str
) -> Completed:
    process = start(
        argv,
        environ,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that what a site's wrapper around the command started ends with it
    )
    with process:
        try:
            stdout, stderr = process.communicate(None if stdin is None else _encode(stdin), timeout)
        except subprocess.TimeoutExpired:
            raise errors.SlurmUnavailable(f"{name} did not answer within {timeout:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return Completed(_decode(stdout), _decode(stderr), process.returncode)


def _last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _raise_for(program: str, completed: Completed, check: bool) -> None:
    if completed.returncode == 0:
        return
    message = _last_line(completed.stderr) or f"{program}: exit code {completed.returncode}"
    if _UNREACHABLE.search(completed.stderr):
        raise errors.SlurmUnavailable(message)
    if check:
        raise errors.SlurmError(message)


def start(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    start_new_session: bool = False,
) -> subprocess.Popen[Any]:
    """Start a command in exactly this environment; streams that are None are the caller's own.

    Raises `errors.CommandNotFound`, or `errors.SlurmError` for a program that can't be executed.
    """
    path = find(argv[0], environ)
    try:
        return subprocess.Popen(
            argv,  # under the name that was typed, which it shows in messages
            executable=path,
            env=dict(environ),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=start_new_session,
            restore_signals=not inherited.ignored(),
        )
    except OSError as error:
        raise errors.SlurmError(f"{path} can't be started: {error.strerror}") from error


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
