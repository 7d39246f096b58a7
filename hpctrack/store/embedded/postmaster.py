"""The processes of the embedded PostgreSQL on this host: launched, recognised, waited for, ended."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hpctrack import errors, files

if TYPE_CHECKING:
    from hpctrack.store.embedded.cluster_folder import Place
    from hpctrack.store.embedded.owner import Host, Owner

POLL_SECONDS = 0.02
LOG_BYTES = 1 << 20
_STOP_SECONDS = 60.0
#: Names of a server's processes (proc(5), comm); for root the postmaster is called unshare at first.
_COMMANDS = ("postgres", "unshare")


def _told(pid: int, name: str) -> str | None:
    """Return a file of a process in /proc (proc(5)); None if the process is gone.

    Raises OSError if it can't be read: no descriptors or no memory are left.
    """
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot; None if it is gone or a zombie.

    Raises OSError if that can't be read.
    """
    text = _told(pid, "stat")
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def works_in(pid: int, folder: Path) -> bool:
    """Say whether a folder is a process's working directory, as the data folder is for all of PostgreSQL's.

    False for another user's process, or if the folder is gone. Raises OSError if that can't be read.
    """
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
        return False


def is_postmaster(pid: int, started: int | None, data: Path) -> bool:
    """Say whether a process of this host is the postmaster of a data folder."""
    now = start_time(pid)
    return now is not None and started in (None, now) and works_in(pid, data)


def processes(data: Path) -> list[int]:
    """List the processes of this host that belong to the PostgreSQL of a data folder, orphans included."""
    names = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [pid for pid in map(int, names) if _is_postgres(pid) and works_in(pid, data)]


def _is_postgres(pid: int) -> bool:
    return (_told(pid, "comm") or "").strip() in _COMMANDS


def find(place: Place, record: Owner | None, here: Host) -> int | None:
    """Return the pid of the living postmaster, if this boot of this host runs it."""
    if record is None or (record.host, record.boot_id) != here:
        return None
    pid = record.pid
    if pid is None:  # its starter died or is at work: postmaster.pid, written on this host, may have it
        first = (place.read_postmaster_pid() or [""])[0]
        pid = int(first) if first.isdecimal() else None
    return pid if pid is not None and is_postmaster(pid, record.pid_start, place.data) else None


def is_ready(place: Place, pid: int) -> bool:
    """Say whether a server accepts connections, by its own postmaster.pid (as pg_ctl does)."""
    lines = place.read_postmaster_pid()
    return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def wait_ready(place: Place, pid: int, seconds: float = 90.0) -> bool:
    """Wait until a server accepts connections; False if it ends instead."""
    deadline = time.monotonic() + seconds
    while not is_ready(place, pid):
        if not is_postmaster(pid, None, place.data):
            return False
        if time.monotonic() > deadline:
            raise errors.EmbeddedError(
                f"PostgreSQL is still starting after {seconds:.0f} s, try again later; log: {place.log}"
            )
        time.sleep(POLL_SECONDS)
    return True


def children(pid: int) -> list[int]:
    """List the children of a process (proc(5)); without CONFIG_PROC_CHILDREN by looking at all processes."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except FileNotFoundError:
        processes = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
        return [process for process in processes if _parent(process) == pid]


def _parent(pid: int) -> int | None:
    text = _told(pid, "stat")
    return None if text is None else int(text.rpartition(")")[2].split()[1])


def title(pid: int) -> str:
    """Return the title of a process, its command line; empty if it is gone."""
    return (_told(pid, "cmdline") or "").rstrip("\0 ")


def switches(pid: int) -> str:
    """Return the kernel's line about how often a process has waited (proc(5), status)."""
    lines = (_told(pid, "status") or "").splitlines()
    return next((line for line in lines if line.startswith("voluntary_ctxt_switches")), "")


def wait_gone(place: Place, seconds: float = _STOP_SECONDS) -> None:
    """Wait until no process of a server is left."""
    deadline = time.monotonic() + seconds
    while processes(place.data) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def shut_down(place: Place, pid: int, patience: float = _STOP_SECONDS) -> None:
    """End a postmaster by a "fast" shutdown; after ``patience`` seconds by an "immediate" one.

    After an immediate shutdown the next start recovers. Raises `errors.EmbeddedError` if it does not end.
    """
    import signal

    for number, seconds in ((signal.SIGINT, patience), (signal.SIGQUIT, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # its keeper is its parent
            if start_time(pid) is None and not processes(place.data):
                return
            time.sleep(POLL_SECONDS)
    raise errors.EmbeddedError(f"PostgreSQL (process {pid}) does not end; log: {place.log}")


def open_log(place: Place) -> BinaryIO:
    """Open the log to append to."""
    cut_log(place)
    return os.fdopen(files.open_or_create(str(place.log), os.O_WRONLY | os.O_APPEND), "ab")


def cut_log(place: Place) -> None:
    """Truncate the log if it has more than 1 MiB; its last MiB goes to another file.

    Its writers append, and go on at the new beginning. It is truncated even if the copy fails.
    """
    with contextlib.suppress(FileNotFoundError):
        size = place.log.stat().st_size
        if size > LOG_BYTES:
            with place.log.open("r+b") as log:
                log.seek(size - LOG_BYTES)
                with contextlib.suppress(OSError):
                    files.replace(str(place.log.with_suffix(".log.1")), log.read(LOG_BYTES))
                log.truncate(0)
