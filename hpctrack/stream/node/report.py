"""What a relay tells of its own accord: `messages.Hello`, `Start` and `Fin`, with secrets masked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import time
from typing import TYPE_CHECKING, Any

from hpctrack.stream.wire.messages import Fin, Hello, Start
from hpctrack.stream.wire.names import TASK_NONE

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


def hello(config: Config, environ: Mapping[str, str]) -> Hello:
    """Return the first thing that is sent."""
    is_task = config.task != TASK_NONE
    return Hello(
        time=config.time,
        attempt=config.attempt,
        node=node(environ),
        job_id=config.job_id,
        array_job_id=config.base_job_id if is_task else None,
        array_task_id=config.task if is_task else None,
        cluster=config.cluster,
        pid=os.getpid(),
    )


def start(
    config: Config, environ: Mapping[str, str], submitted: Mapping[str, Any], redactor: Redactor
) -> Start:
    """Return what the collector is told once it has answered under the key.

    ``submitted`` is the environment at submission, masked: only what differs from it is told again.
    """
    return Start(
        time=time.time(),
        env=_different(redactor.environ(dict(environ)), submitted),
        stdout=redactor.value(config.stdout or None, name="stdout"),
        stderr=redactor.value(config.stderr or None, name="stderr"),
        work_dir=redactor.value(os.getcwd(), name="work_dir"),
        job_name=redactor.value(environ.get("SLURM_JOB_NAME"), name="job_name"),
        node_list=environ.get("SLURM_JOB_NODELIST"),
        partition=environ.get("SLURM_JOB_PARTITION"),
        account=environ.get("SLURM_JOB_ACCOUNT"),
        qos=environ.get("SLURM_JOB_QOS"),
    )


def _different(environ: Mapping[str, str], submitted: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that differ from the environment at submission, as far as there is room."""
    different: dict[str, str] = {}
    size = 0
    for name, value in environ.items():
        size += len(name) + len(value)
        if submitted.get(name) != value and len(value) <= _MAX_VARIABLE and size <= _MAX_ENVIRONMENT:
            different[name] = value
    return different


def fin(
    ending: Fin,
    lost: Mapping[str, int],
    stderr: Stderr,
    redactor: Redactor,
    oom_kills_before: int | None = None,
) -> Fin:
    """Return how the script ended, as the supervisor saw it, with the end of what a failure had to say.

    ``lost`` counts lines by journal; ``oom_kills_before`` is what `oom_kills` returned when the script
    started.
    """
    tail = stderr.tail(redactor) if ending.exit_code != 0 else None
    fin = ending._replace(stderr_tail=tail, lost=dict(lost))
    if not _was_killed(ending) or oom_kills_before is None:
        return fin
    return fin._replace(out_of_memory=(oom_kills() or 0) > oom_kills_before)


def _was_killed(ending: Fin) -> bool:
    """Whether the script, or the last program of it, was ended by SIGKILL."""
    return ending.exit_signal == signal.SIGKILL or ending.exit_code == 128 + signal.SIGKILL


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
