"""Folders that hold a run's journals: whose they are, who works in them, how they go away.

Both the run folder on a node and the run's spool folder have an ``identity.json`` and a ``lock``.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import flock
from hpctrack.stream import records, runfolder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.stream.options import Config

#: Seconds after which a folder whose owner has not been heard of is nobody's. File locks do not reach from
#: node to node everywhere, so that the time of the last sign of life counts as well.
_LEASE = 120.0
#: Seconds after which a journal that nobody appends to is at rest.
_REST = 60.0


class Identity(NamedTuple):
    """Whose journals a folder holds: the contents of ``identity.json``."""

    #: None until the relay has found the submission record.
    uuid: str | None
    task: int
    cluster: str | None = None
    #: Base job id, by which the record is found.
    job_id: int | None = None
    #: Path of the submission record.
    record: str | None = None
    attempt: int = 0
    #: The supervisor, on the host and in the boot that are named.
    host: str = ""
    boot: str = ""
    pid: int = 0
    #: When it was started: process ids are used again.
    pid_start: str = ""
    #: Nobody writes here any more: the run's processes on its nodes have ended.
    closed: bool = False


def identity(config: Config, supervisor: int) -> Identity:
    """Return what a supervisor (a process id) and its relay know of their run at the start."""
    return Identity(
        uuid=None,
        task=config.task,
        cluster=config.cluster,
        job_id=config.job_id,
        record=config.record or None,
        attempt=config.attempt,
        host=host(),
        boot=boot(),
        pid=supervisor,
        pid_start=started_at(supervisor),
    )


def write_identity(folder: str, identity: Identity) -> None:
    """Write or replace a folder's ``identity.json``."""
    path = os.path.join(folder, "identity.json")
    draft = f"{path}.{os.urandom(4).hex()}"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        json.dump(identity._asdict(), file)
    os.rename(draft, path)


def read_identity(folder: str) -> Identity | None:
    """Read a folder's ``identity.json``; None where there is none that this user wrote."""
    try:
        descriptor = os.open(os.path.join(folder, "identity.json"), os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, encoding="ascii") as file:
            if os.fstat(descriptor).st_uid != os.geteuid():
                return None
            values = json.load(file)
        return Identity(**{name: values[name] for name in Identity._fields if name in values})
    except (OSError, ValueError, TypeError):
        return None


def find_record(spool: str, identity: Identity) -> records.Record | None:
    """Return the submission record of an identity; None while there is none.

    Raises as `records.read` does.
    """
    if identity.record is not None:
        try:
            record = records.read(identity.record)
        except FileNotFoundError:
            return None
    elif identity.job_id is not None:
        found = records.find(spool, identity.cluster, identity.job_id)
        if found is None:
            return None
        record = found
    else:
        return None
    return record if identity.uuid in (None, record.uuid) else None


def supervisor_lives(identity: Identity) -> bool:
    """Whether the supervisor of a run folder on this host is a living process."""
    if (identity.host, identity.boot) != (host(), boot()) or not identity.pid:
        return False
    started = started_at(identity.pid)
    return bool(started) and identity.pid_start in ("", started)


def started_at(pid: int) -> str:
    """Return when a process started, in clock ticks since boot (proc(5)); empty if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # its name may hold anything
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def host() -> str:
    """Return this host's name."""
    return os.uname().nodename


def boot() -> str:
    """Return the kernel's id of this boot (proc(5))."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""


class Lock:
    """Says that somebody works in a folder."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "lock")
        self._descriptor = -1

    @property
    def taken(self) -> bool:
        """Whether we have it."""
        return self._descriptor >= 0

    def take(self) -> bool:
        """Take the lock; False if somebody else has it. Raises OSError if there can't be one."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        ours = False
        try:
            # Without a name it is the lock of somebody who has just gone.
            named = flock.try_lock(descriptor) and os.fstat(descriptor).st_nlink
            ours = bool(named) and self._is_nobodys(descriptor)
        finally:
            if not ours:
                os.close(descriptor)
        if not ours:
            return False
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{host()} {boot()}\n".encode(), 0)
        return True

    @staticmethod
    def _is_nobodys(descriptor: int) -> bool:
        """On this host the lock itself is proof; for other hosts only their silence is."""
        owner = os.pread(descriptor, 256, 0).decode("ascii", "replace").split()
        if not owner or owner == [host(), boot()]:
            return True
        before = os.fstat(descriptor).st_mtime
        return _now_of(descriptor) - before > _LEASE

    def refresh(self) -> float:
        """Give a sign of life, to be repeated within a minute; return the time by the file's server."""
        os.utime(self._descriptor)
        return os.fstat(self._descriptor).st_mtime

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            os.close(self._descriptor)
            self._descriptor = -1


def _now_of(descriptor: int) -> float:
    """Return the time as the file's server tells it."""
    before = os.fstat(descriptor)
    os.utime(descriptor)
    now = os.fstat(descriptor).st_mtime
    os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
    return now


def at_rest(path: str, now: float) -> bool:
    """Whether nobody has appended to a file for a while; ``now`` is the time of its server."""
    return now - os.stat(path).st_mtime > _REST


def others(parent: str, own: str) -> Iterator[str]:
    """Yield the folders beside our own."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.path != own and entry.is_dir(follow_symlinks=False):
                yield entry.path


def make(path: str) -> None:
    """Make a run's spool folder, and what is missing above it. Raises OSError."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        make(parent)
    runfolder.make_private(path)


def remove(path: str) -> None:
    """Delete a folder with everything in it; symbolic links are not followed. Raises OSError."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                remove(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(path)
