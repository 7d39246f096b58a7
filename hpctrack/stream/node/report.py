"""What a relay tells of its own accord: contents of ``hello``, ``start`` and ``fin``, with secrets masked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpctrack.stream.node.options import Config
    from hpctrack.text.redact import Redactor

_STDERR_TAIL = 4096
#: What is read before it, so that a secret is seen whole before it is cut.
_CONTEXT = 12 << 10
_MAX_VARIABLE = 32 << 10
_MAX_ENVIRONMENT = 512 << 10


def node(environ: Mapping[str, str]) -> str:
    """Return Slurm's name of this node; outside Slurm the host's."""
    return environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]


def hello(config: Config, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the first thing that is sent: ids only, since nobody has shown yet that he knows the key."""
    return {
        "time": config.time,
        "attempt": config.attempt,
        "node": node(environ),
        "job_id": config.job_id,
        "array_job_id": config.base_job_id if config.task >= 0 else None,
        "array_task_id": config.task if config.task >= 0 else None,
        "cluster": config.cluster,
        "pid": os.getpid(),
    }


def start(
    config: Config, environ: Mapping[str, str], submitted: Mapping[str, Any], redactor: Redactor
) -> dict[str, Any]:
    """Return what the collector is told once it has answered under the key.

    ``submitted`` is the environment at submission, masked: only what differs from it is told again.
    """
    env: dict[str, str] = {}
    size = 0
    for name, value in redactor.environ(dict(environ)).items():
        size += len(name) + len(value)
        if submitted.get(name) != value and len(value) <= _MAX_VARIABLE and size <= _MAX_ENVIRONMENT:
            env[name] = value
    told = {
        "stdout": config.stdout or None,
        "stderr": config.stderr or None,
        "work_dir": os.getcwd(),
        "job_name": environ.get("SLURM_JOB_NAME"),
    }
    return {
        "time": time.time(),
        "env": env,
        **redactor.value(told),
        "node_list": environ.get("SLURM_JOB_NODELIST"),
        "partition": environ.get("SLURM_JOB_PARTITION"),
        "account": environ.get("SLURM_JOB_ACCOUNT"),
        "qos": environ.get("SLURM_JOB_QOS"),
    }


def fin(
    ending: Mapping[str, Any],
    lost: Mapping[str, int],
    stderr: Stderr,
    redactor: Redactor,
    oom_kills_before: int | None = None,
) -> dict[str, Any]:
    """Return how the script ended, as the supervisor saw it, with the end of what a failure had to say.

    ``lost`` counts lines by journal; ``oom_kills_before`` is what `oom_kills` returned when the script
    started.
    """
    failed = ending.get("exit_code") != 0
    tail = stderr.tail(redactor) if failed else None
    told = {**ending, "stderr_tail": tail, "lost": dict(lost)}
    if _was_killed(ending) and oom_kills_before is not None:
        told["out_of_memory"] = (oom_kills() or 0) > oom_kills_before
    return told


def _was_killed(ending: Mapping[str, Any]) -> bool:
    """Whether the script, or the last program of it, was ended by SIGKILL."""
    return ending.get("exit_signal") == signal.SIGKILL or ending.get("exit_code") == 128 + signal.SIGKILL


def oom_kills(cgroups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> int | None:
    """Return how many processes of our cgroup the kernel has killed for want of memory; None if it won't say.

    Sources: ``memory.events`` (cgroup v2) and ``memory.oom_control`` (v1) in the kernel's documentation.
    """
    try:
        with open(cgroups, encoding="utf-8", errors="replace") as file:
            entries = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    for _, controllers, path in entries:
        if controllers in ("", "memory"):
            name = "memory.oom_control" if controllers else "memory.events"
            file_name = os.path.join(root, controllers, path.lstrip("/"), name)
            with contextlib.suppress(OSError), open(file_name, encoding="ascii") as events:
                counts = dict(line.split() for line in events)
                if "oom_kill" in counts:
                    return int(counts["oom_kill"])
    return None


class Stderr:
    """The script's standard error, held open as it was given to us.

    A path may mean another file by the time that the script ends. So the file is opened anew through its own
    descriptor, and of what stands in it only that is told which the script has written.
    """

    def __init__(self, begin: int, descriptor: int = 2) -> None:
        """Hold the file behind a descriptor: no pipe, whose readers wait for its end.

        ``begin`` is where the script begins to write.
        """
        self._held = -1
        self._begin = begin
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._held = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)

    def tail(self, redactor: Redactor) -> str | None:
        """Return the last 4 KB of what was written, masked; None if it can't be read or is no file."""
        if self._held < 0:
            return None
        try:
            # The link in /proc leads to the open file itself, whatever its name is by now (proc(5)).
            descriptor = os.open(f"/proc/self/fd/{self._held}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # it may be written only
            return None
        try:
            size = os.fstat(descriptor).st_size
            begin = self._begin if self._begin <= size else 0  # somebody has cut it
            first = max(size - _STDERR_TAIL - _CONTEXT, begin)
            data = os.pread(descriptor, size - first, first)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if first > begin:  # what was cut in its midst can't be recognised
            line = data.find(b"\n") + 1
            data = (data[line:] if line else b"") or data[_CONTEXT:]
        masked = redactor.text(data.decode("utf-8", "replace")).encode("utf-8", "replace")
        return masked[-_STDERR_TAIL:].decode("utf-8", "ignore")
