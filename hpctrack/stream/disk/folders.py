"""Folders that hold a run's journals: whose they are, and which processes work in them.

Both the run folder on a node and the run's spool folder have an ``identity.json`` and a ``lock``.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import files
from hpctrack.script import journal_lines
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import TASK_NONE

if TYPE_CHECKING:
    from collections.abc import Collection

    from hpctrack.stream.node.options import Config

#: Seconds after which another host's lock that was not refreshed is free. Some file systems don't share file
#: locks between nodes, so that the time of the last refresh counts as well.
_LEASE = 120.0
#: Seconds after which a journal that nobody appends to is at rest.
_REST = 60.0
#: Marks a folder that can't be delivered, and that the user was told of.
TOLD = "told"
#: Bytes of an ``identity.json``.
_MAX_IDENTITY = 1 << 16


class Identity(NamedTuple):
    """Whose journals a folder holds: the contents of ``identity.json``."""

    #: None until the relay has found the submission record.
    uuid: str | None
    task: int
    cluster: str | None = None
    #: The record is found by it.
    base_job_id: int | None = None
    #: Path of the submission record.
    record: str | None = None
    attempt: int = 0
    #: Host name, boot id and process id of the supervisor.
    host: str = ""
    boot: str = ""
    pid: int = 0
    #: When it was started (`started_at`): process ids are reused.
    pid_start: str = ""
    #: No process writes here any more: somebody has seen that the run's processes on all nodes have ended.
    closed: bool = False
    #: Process ids mean something only to processes of the same namespace (pid_namespaces(7)).
    namespace: str = ""
    #: The script's process, which may outlive its supervisor.
    script: int = 0
    script_start: str = ""
    #: The public name of the shell journal was removed: a shell that appends later makes another file.
    withdrawn: bool = False


def identity(config: Config, supervisor: int) -> Identity:
    """Return the identity that a relay writes at the start; ``supervisor`` is a process id."""
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
    files.replace(os.path.join(folder, journal_lines.IDENTITY), text.encode("ascii"))


def read_identity(folder: str) -> Identity | None:
    """Read a folder's ``identity.json``; None if there is none, or another user could have written it."""
    try:
        values = json.loads(files.read(os.path.join(folder, journal_lines.IDENTITY), _MAX_IDENTITY))
        return Identity(**records.fields_of(Identity, values))
    except (OSError, ValueError, TypeError):
        return None


def tell(folder: str) -> bool:
    """Whether the user is still to be told of a folder. Marks it as told, if it can."""
    with contextlib.suppress(OSError):
        os.close(files.create(os.path.join(folder, TOLD)))
        return True
    return not os.path.lexists(os.path.join(folder, TOLD))


def guess_identity(spool: str, folder: str) -> Identity | None:
    """Return a folder's identity as its name tells it, for a folder whose relay has written none.

    None if the name does not tell it, as of an array's tasks.
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
    """Whether an identity's submission record exists and is not an array's."""
    try:
        record = find_record(spool, identity)
    except (OSError, ValueError):
        return False
    return record is not None and record.tasks is None


def find_record(spool: str, identity: Identity) -> records.Record | None:
    """Return the submission record of an identity; None while there is none.

    Raises what `records.read` raises.
    """
    if identity.record is not None:
        try:
            record = records.read(identity.record)
        except FileNotFoundError:
            return None
    elif identity.base_job_id is not None:
        by_job = records.find(spool, identity.cluster, identity.base_job_id)
        if by_job is None:
            return None
        record = by_job
    else:
        return None
    return record if identity.uuid in (None, record.uuid) else None


def is_of(spool: str, identity: Identity) -> bool:
    """Whether a run folder's record is in this spool; a user may have several spools."""
    if identity.record is not None and not identity.record.startswith(os.path.join(spool, "")):
        return False
    try:
        return find_record(spool, identity) is not None
    except (OSError, ValueError):
        return False


def is_here(identity: Identity) -> bool:
    """Whether this process can see the supervisor's: same host, boot and namespace."""
    here = (identity.host, identity.boot) == (host(), boot()) and bool(identity.boot)
    return here and identity.namespace in ("", namespace())


def was_here(identity: Identity) -> bool:
    """Whether this host has booted since the identity was written, so that none of its processes lives."""
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
    """Return processes of this user on this host that may write into a folder; None if that is not known.

    Such a process has the folder's name in its environment or arguments, has a file of it open, or has it as
    its working directory. ``ignored``: ids of processes that are known not to write, besides this one.
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

    False without SLURM_JOB_ID.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        pairs = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
        bound, job = pairs.get(b"HPCTRACK_JOB_ID"), pairs.get(b"SLURM_JOB_ID")
        return None not in (bound, job) and bound != job
    return False


def _uses(pid: int, name: bytes) -> bool:
    """Whether a process names a folder; False if /proc refuses: it is another user's process, or gone."""
    with contextlib.suppress(OSError):
        for source in ("environ", "cmdline"):  # a shell without environment may have a path in its command
            with open(f"/proc/{pid}/{source}", "rb") as file:
                if name in file.read():
                    return True
        if name in os.fsencode(os.readlink(f"/proc/{pid}/cwd")):
            return True
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_is_used(pid, entry.name, name) for entry in entries)
    return False


def _is_used(pid: int, descriptor: str, name: bytes) -> bool:
    """Whether a descriptor is a folder's file, except those of deliveries: the lock, and journals to read."""
    with contextlib.suppress(OSError, ValueError):
        path = os.fsencode(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        if name not in path or path.endswith(b"/lock"):
            return False
        with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
            flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
        return not path.endswith((b".journal", b".part")) or flags & os.O_ACCMODE != os.O_RDONLY
    return False


def namespace() -> str:
    """Return this process's PID namespace; empty if it is not known."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def started_at(pid: int) -> str:
    """Return when a process started, in clock ticks since boot (proc(5)); empty if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # the name before may hold anything
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
    """The lock of a folder. A relay or a delivery that works there holds it."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "lock")
        self._descriptor = -1

    @property
    def taken(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor >= 0

    def is_held(self) -> bool:
        """Whether a process holds it now. Raises OSError if that is not known."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not (files.try_lock(descriptor) and self._is_nobodys(descriptor))
        finally:
            os.close(descriptor)

    def take(self) -> bool:
        """Take the lock; False if another process holds it. Raises OSError if the file can't be made."""
        descriptor = files.open_or_create(self._path)
        ours = False
        try:
            # A file without a name is a lock that was released just now.
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
        """Whether a lock that we got is free; another host's is, `_LEASE` seconds after its last refresh."""
        owner = os.pread(descriptor, 256, 0).decode("ascii", "replace").split()
        if not owner or owner == [host(), boot()]:
            return True
        before = os.fstat(descriptor).st_mtime
        return _now_of(descriptor) - before > _LEASE

    def refresh(self) -> float:
        """Refresh the lock, to be called within each minute; return the time by the file's server."""
        os.utime(self._descriptor)
        return os.fstat(self._descriptor).st_mtime

    def release(self) -> None:
        """Release the lock, and remove its file."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            os.close(self._descriptor)
            self._descriptor = -1


def _now_of(descriptor: int) -> float:
    """Return the time by the file's server. The file's own times stay."""
    before = os.fstat(descriptor)
    os.utime(descriptor)
    now = os.fstat(descriptor).st_mtime
    os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
    return now


def at_rest(path: str, now: float) -> bool:
    """Whether nobody has appended to a file for a while; ``now`` is the time of its server."""
    return now - os.stat(path).st_mtime > _REST


def others(parent: str, own: str) -> list[str]:
    """Return the folders in ``parent`` besides our own; none if ``parent`` does not exist.

    Raises OSError if it can't be listed to its end.
    """
    try:
        with os.scandir(parent) as entries:
            return [
                entry.path for entry in entries if entry.path != own and entry.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []


def make(path: str) -> None:
    """Make a run's spool folder, and missing folders above it. Raises OSError."""
    journals = os.path.dirname(path)
    files.make_folder(path, within=os.path.dirname(os.path.dirname(journals)))
