"""Folders that hold a run's journals: whose they are, who works in them, how they go away.

Both the run folder on a node and the run's spool folder have an ``identity.json`` and a ``lock``.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import files
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import TASK_NONE

if TYPE_CHECKING:
    from collections.abc import Collection

    from hpctrack.stream.node.options import Config

#: Seconds after which a folder whose owner has not been heard of is nobody's. File locks do not reach from
#: node to node everywhere, so that the time of the last sign of life counts as well.
_LEASE = 120.0
#: Seconds after which a journal that nobody appends to is at rest.
_REST = 60.0
#: The mark of a folder of which people have been told that nobody can deliver it.
TOLD = "told"
#: Bytes of an ``identity.json``.
_MAX_IDENTITY = 1 << 16


class Identity(NamedTuple):
    """Whose journals a folder holds: the contents of ``identity.json``."""

    #: None until the relay has found the submission record.
    uuid: str | None
    task: int
    cluster: str | None = None
    #: By which the record is found.
    base_job_id: int | None = None
    #: Path of the submission record.
    record: str | None = None
    attempt: int = 0
    #: The supervisor, on the host and in the boot that are named.
    host: str = ""
    boot: str = ""
    pid: int = 0
    #: When it was started: process ids are used again.
    pid_start: str = ""
    #: Nobody writes here any more: the run's processes on its nodes have ended, and somebody has seen that.
    closed: bool = False
    #: Process ids mean something only to processes of the same namespace (pid_namespaces(7)).
    namespace: str = ""
    #: The script's process, which may outlive its supervisor.
    script: int = 0
    script_start: str = ""
    #: The name by which shells append is taken away: who does it later appends to a file of its own.
    withdrawn: bool = False


def identity(config: Config, supervisor: int) -> Identity:
    """Return what a supervisor (a process id) and its relay know of their run at the start."""
    return Identity(
        uuid=None,
        task=config.task,
        cluster=config.cluster,
        base_job_id=config.base_job_id,
        record=config.record or None,
        attempt=config.attempt,
        host=host(),
        boot=boot(),
        pid=supervisor,
        pid_start=started_at(supervisor),
        namespace=namespace(),
    )


def write_identity(folder: str, identity: Identity) -> None:
    """Write or replace a folder's ``identity.json``."""
    text = json.dumps(records.to_object(identity))
    files.replace(os.path.join(folder, "identity.json"), text.encode("ascii"))


def read_identity(folder: str) -> Identity | None:
    """Read a folder's ``identity.json``; None where there is none that this user wrote."""
    try:
        values = json.loads(files.read(os.path.join(folder, "identity.json"), _MAX_IDENTITY))
        return Identity(**records.fields_of(Identity, values))
    except (OSError, ValueError, TypeError):
        return None


def tell(folder: str) -> bool:
    """Whether people are yet to be told of a folder; notes that they are told now, if it can."""
    with contextlib.suppress(OSError):
        os.close(files.create(os.path.join(folder, TOLD)))
        return True
    return not os.path.lexists(os.path.join(folder, TOLD))


def guess_identity(spool: str, folder: str) -> Identity | None:
    """Return whose a folder is by its name alone, where that tells: no relay may have come to write it.

    The task of an array does not show in it.
    """
    label, _, attempt = os.path.basename(folder).rpartition(".")[0].rpartition(".")
    cluster, _, job = label.rpartition(".")
    if not attempt.isdecimal() or not label:
        return None
    known = Identity(None, TASK_NONE, attempt=int(attempt), host=host())
    if cluster and job.isdecimal():
        known = known._replace(cluster=cluster, base_job_id=int(job))
    else:
        known = known._replace(uuid=label, record=records.path_of(spool, label))
    return known if _is_of_no_array(spool, known) else None


def _is_of_no_array(spool: str, identity: Identity) -> bool:
    """Whether there is a submission record of an identity, and of no array."""
    try:
        record = find_record(spool, identity)
    except (OSError, ValueError):
        return False
    return record is not None and record.tasks is None


def find_record(spool: str, identity: Identity) -> records.Record | None:
    """Return the submission record of an identity; None while there is none.

    Raises as `records.read` does.
    """
    if identity.record is not None:
        try:
            record = records.read(identity.record)
        except FileNotFoundError:
            return None
    elif identity.base_job_id is not None:
        found = records.find(spool, identity.cluster, identity.base_job_id)
        if found is None:
            return None
        record = found
    else:
        return None
    return record if identity.uuid in (None, record.uuid) else None


def is_of(spool: str, identity: Identity) -> bool:
    """Whether a run folder's record is in this spool: a user may have several, or has removed one."""
    if identity.record is not None and not identity.record.startswith(os.path.join(spool, "")):
        return False
    try:
        return find_record(spool, identity) is not None
    except (OSError, ValueError):
        return False


def is_here(identity: Identity) -> bool:
    """Whether the processes of a supervisor's host and boot can be seen from here."""
    here = (identity.host, identity.boot) == (host(), boot()) and bool(identity.boot)
    return here and identity.namespace in ("", namespace())


def was_here(identity: Identity) -> bool:
    """Whether this host was booted again since the identity was written: none of its processes lives."""
    return identity.host == host() and "" not in (identity.boot, boot()) and identity.boot != boot()


def supervisor_lives(identity: Identity) -> bool:
    """Whether the supervisor of a run folder on this host is a living process."""
    return is_here(identity) and _lives(identity.pid, identity.pid_start)


def script_lives(identity: Identity) -> bool:
    """Whether the script of a run folder on this host is a living process."""
    return (
        is_here(identity) and bool(identity.script_start) and _lives(identity.script, identity.script_start)
    )


def _lives(pid: int, start: str) -> bool:
    started = started_at(pid) if pid else ""
    return bool(started) and start in ("", started)


def users(folder: str, ignored: Collection[int] = ()) -> list[int] | None:
    """Return processes of this user on this host that may write into a folder; None if nobody can tell.

    These are the ones that were started with the folder's name in their environment or in their arguments,
    have a file of it open, or work in it. ``ignored``: process ids that are known not to, besides our own.
    """
    own = os.getpid()
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return None
    if own not in pids:
        return None
    name = os.fsencode(os.path.basename(folder))
    return [pid for pid in pids if pid != own and pid not in ignored and _uses(pid, name)]


def is_of_another_job(pid: int) -> bool:
    """Whether a process has a run's variables only because it inherited them from another job.

    A missing SLURM_JOB_ID is no other job.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        pairs = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
        bound, job = pairs.get(b"HPCTRACK_JOB_ID"), pairs.get(b"SLURM_JOB_ID")
        return None not in (bound, job) and bound != job
    return False


def _uses(pid: int, name: bytes) -> bool:
    """Whether a process names a folder; one that can't be asked is another user's, or gone."""
    with contextlib.suppress(OSError):
        for source in ("environ", "cmdline"):  # of a shell without environment the command may name a path
            with open(f"/proc/{pid}/{source}", "rb") as file:
                if name in file.read():
                    return True
        if name in os.fsencode(os.readlink(f"/proc/{pid}/cwd")):
            return True
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_is_used(pid, entry.name, name) for entry in entries)
    return False


def _is_used(pid: int, descriptor: str, name: bytes) -> bool:
    """Whether an open file is one of a folder's; a delivery reads its journals, and holds its lock."""
    with contextlib.suppress(OSError, ValueError):
        path = os.fsencode(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        if name not in path or path.endswith(b"/lock"):
            return False
        with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
            flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
        return not path.endswith((b".journal", b".part")) or flags & os.O_ACCMODE != os.O_RDONLY
    return False


def namespace() -> str:
    """Return this process's namespace of process ids; empty if it can't be told."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


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
    """The lock of a folder, which says that a relay or a delivery works there."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "lock")
        self._descriptor = -1

    @property
    def taken(self) -> bool:
        """Whether we have it."""
        return self._descriptor >= 0

    def is_held(self) -> bool:
        """Whether somebody works there at this moment. Raises OSError if that can't be told."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not (files.try_lock(descriptor) and self._is_nobodys(descriptor))
        finally:
            os.close(descriptor)

    def take(self) -> bool:
        """Take the lock; False if somebody else has it. Raises OSError if there can't be one."""
        descriptor = files.open_or_create(self._path)
        ours = False
        try:
            # Without a name it is the lock of somebody who has just gone.
            named = files.try_lock(descriptor) and os.fstat(descriptor).st_nlink
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
        """Whether a lock that we got is free: one of another host only if not refreshed for long."""
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


def others(parent: str, own: str) -> list[str]:
    """Return the folders beside our own; none where there is no such place.

    Raises OSError for a place that can't be looked through to its end.
    """
    try:
        with os.scandir(parent) as entries:
            return [
                entry.path for entry in entries if entry.path != own and entry.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []


def make(path: str) -> None:
    """Make a run's spool folder, and what is missing above it. Raises OSError."""
    journals = os.path.dirname(path)
    files.make_folder(path, within=os.path.dirname(os.path.dirname(journals)))
