"""Becoming the user's script without any process or file of ours.

Whatever kept the run from being tracked (no process left, a full disk, a limit) must not keep the script from
running: here is what takes the least.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

#: So many processes more than the node has are a limit that nobody comes near.
_FAR = 256
#: Bytes of stack with which Python does not die at some place or other (SIGSEGV).
_STACK = 512 << 10
_F_SETPIPE_SZ = 1031
"""fcntl(2); `fcntl` names it from Python 3.10 on."""


def place(batch: str, text: bytes) -> list[str]:
    """Put the script where it can be run; return how to start it.

    ``batch`` is slurmd's copy of the batch script, which holds it. Raises OSError where nothing will have it.
    """
    failure: OSError | None = None
    for put in (_in_place, _in_memory, _in_pipe):
        try:
            with _room():
                return put(batch, text)
        except OSError as error:
            failure = failure or error
    raise failure or FileNotFoundError(batch)


def stack_is_short() -> bool:
    """Whether the script's limit of the stack (``ulimit -s``) leaves too little for Python."""
    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return soft != resource.RLIM_INFINITY and soft < _STACK


def processes_left() -> int | None:
    """Return how many processes this user may still start; None where that is far away.

    Looks at all processes only where all of the node's would not fit. Root is not bound by this limit.
    """
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return None
    with open("/proc/loadavg", encoding="ascii") as file:
        total = int(file.read().split()[3].partition("/")[2])
    return None if total + _FAR < limit else limit - sum(map(_threads, os.listdir("/proc")))


def _threads(process: str) -> int:
    """Return how many threads a process of this user has; 0 for another's, and for what is none."""
    if process.isdecimal():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{process}").st_uid == os.getuid():
                return len(os.listdir(f"/proc/{process}/task"))
    return 0


def execute(argv: list[str], environ: dict[str, str]) -> NoReturn:
    """Become the program, as the kernel would start it; raises OSError where it can't be started.

    On a file system mounted noexec the interpreter that ``#!`` names is started with the script, which is
    what the kernel does (execve(2), "Interpreter scripts").
    """
    try:
        os.execvpe(argv[0], argv, environ)  # noqa: S606
    except PermissionError:
        with open(argv[0], "rb") as file:
            interpreter = _interpreter(file.readline(256))
        if not interpreter:
            raise
        os.execve(interpreter[0], [*interpreter, *argv], environ)  # noqa: S606


def execute_as_shells(argv: list[str], environ: dict[str, str]) -> NoReturn:
    """Become a command as shells, env and nohup do (execvp(3)): a text without ``#!`` is a script of sh."""
    try:
        execute(argv, environ)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        os.execve("/bin/sh", ["sh", _find(argv[0]), *argv[1:]], environ)  # noqa: S606


def _find(program: str) -> str:
    import shutil  # late: hardly ever is there any need

    return shutil.which(program) or program


def _interpreter(text: bytes) -> list[str]:
    first = text.split(b"\n", 1)[0]
    return [os.fsdecode(part) for part in first[2:].strip().split(None, 1)] if first[:2] == b"#!" else []


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """Write beyond the size that the script may give its files (RLIMIT_FSIZE), as far as the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _in_place(batch: str, text: bytes) -> list[str]:
    """Make slurmd's copy of the batch script what plain sbatch would have put there; it only gets shorter."""
    descriptor = os.open(batch, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _write(descriptor, text)
        os.ftruncate(descriptor, len(text))
    finally:
        os.close(descriptor)
    return [batch]


def _in_memory(_batch: str, text: bytes) -> list[str]:
    descriptor = os.memfd_create("slurm_script", 0)
    try:
        _write(descriptor, text)
    except OSError:
        os.close(descriptor)
        raise
    return [f"/proc/self/fd/{descriptor}"]


def _in_pipe(_batch: str, text: bytes) -> list[str]:
    """Leave it in a pipe, as far as one holds it: where no file may have a single byte.

    The kernel starts no program from there: the interpreter is named.
    """
    reading, writing = os.pipe()
    try:
        if len(text) > fcntl.fcntl(writing, _F_SETPIPE_SZ, max(len(text), 4096)):
            raise OSError("the script is too large for a pipe")
        os.set_blocking(writing, False)
        _write(writing, text)
        os.set_inheritable(reading, True)
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return [*_interpreter(text), f"/proc/self/fd/{reading}"]


def _write(descriptor: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
