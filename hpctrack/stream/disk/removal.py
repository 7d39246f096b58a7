"""Removal: the only place that deletes journals and the folders that hold them.

A file is deleted only when four things are proven of it, at that moment:

1. **Its bytes are safe.** The watermark that the collector acknowledged under the run's key is not below the
   size of the file, asked of the descriptor through which it was read (`Proof`; comments and blanks behind
   the last row carry nothing). A run folder's relay may also bring the spool as proof, in place of
   PostgreSQL: what it has copied there, and what fsync(2) has confirmed. If the run was deleted from
   PostgreSQL all bytes count as safe: they can't be delivered any more.
2. **It is that file.** The path still leads to the device and inode of the descriptor.
3. **Nobody writes to it.** The kernel grants a read lease (fcntl(2), F_SETLEASE), which it does only while no
   process of this host has the file open for writing, and keeps it until the file is gone. File systems
   without leases leave this to the next point.
4. **Nobody will write to it.** `over`: the run's processes that may know the path have ended
   (`nobody_writes`). Two kinds of files in the spool need no such proof: parts, whose only writer is the
   relay that has let the folder go, and journals at rest of processes on other nodes, since `hpctrack.log`
   finds its file gone and begins another.

A run folder goes as a whole or not at all, since the script may append to its journals by their names; and
only if nothing stands in it that is not hpctrack's. A spool folder's files go one by one, the folder after
the last of them. Whatever can't be opened, read, listed or asked about stays.

Who comes with which proof:

========================================  ==================================================================
the relay, when its run ends              watermarks and the spool; it sees whether processes go on
the relay of the next attempt             watermarks; Slurm starts an attempt when the one before is over
``hpctrack sync``, the collector          watermarks; processes of this host, or PostgreSQL's word that the
                                          run has ended some minutes ago
``hpctrack prune``, ``hpctrack delete``   that the run is deleted: PostgreSQL's table ``deletions`` says so
the mirror, while the job runs            watermarks, for the parts that it alone writes
========================================  ==================================================================
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import stat
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.stream.disk import appending, folders, opened, runfolder, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from hpctrack.stream.disk.folders import Identity

#: As a `Proof.safe`: all there is, since its run is deleted.
EVERYTHING = 1 << 63
#: What stands in folders of journals besides journals.
_OURS = re.compile(
    r"([0-9a-f]{16}\.(shell\.mark|[a-z]+\.hole)|identity\.json(\.[0-9a-f]{8})?|lock|told|silent|slurm_script|relay\.log|python)\Z"
)
#: What says whose they were goes after all else.
_LAST = "identity.json"
#: Errors of fcntl(2) where a file system knows no leases.
_NO_LEASES = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class Proof(NamedTuple):
    """A journal's file as it was read, and up to where its bytes are safe."""

    #: Through which it was read.
    descriptor: int
    #: Offset of its first byte in the journal, and the offset up to which the journal is safe.
    base: int
    safe: int


class Keeping(NamedTuple):
    """What decides about a folder."""

    in_spool: bool
    #: Whether nobody will write there any more.
    over: bool
    #: The time by the folder's server; None where nothing counts as at rest.
    now: float | None = None


def nobody_writes(
    folder: str,
    identity: Identity,
    *,
    in_spool: bool,
    ended: bool = False,
    ignored: Collection[int] = (),
    but_strangers: bool = False,
) -> bool:
    """Whether the processes that may write into a folder have ended.

    ``ended``: somebody who knows of all nodes, Slurm or PostgreSQL, says that the attempt is over.
    ``ignored``: process ids of ours that write nothing there any more. ``but_strangers``: jobs that the run's
    script has submitted may go on, though they have its variables.
    """
    if folders.script_lives(identity):
        return False
    if folders.supervisor_lives(identity) and identity.pid not in ignored:
        return False
    known = ended or identity.closed or folders.was_here(identity)
    if not known and (in_spool or not folders.is_here(identity)):
        return False  # processes of other nodes can't be seen
    users = folders.users(folder, ignored)
    return users is not None and all(but_strangers and folders.is_of_another_job(pid) for pid in users)


def clear(folder: str, keeping: Keeping, prove: Callable[[tail.File], Proof | None]) -> bool:
    """Delete what is proven; whether the folder is gone. Raises OSError if it can't be looked through.

    ``prove`` returns the proof for a file, None if there is none.
    """
    if keeping.over:
        withdraw(folder, in_spool=keeping.in_spool)
    files, is_ours = _contents(folder)
    goes_whole = keeping.over and is_ours
    if not keeping.in_spool and not (
        goes_whole and all(_is_proven(file.path, prove(file)) for file in files)
    ):
        return False
    # One proof at a time: few of many journals are open.
    gone = [_may_go(file, keeping) and _unlink(file.path, prove(file)) for file in files]
    return all(gone) and goes_whole and _remove_rest(folder)


def _contents(folder: str) -> tuple[list[tail.File], bool]:
    """Return the journals in a folder, and whether all that stands beside them is ours. Raises OSError."""
    files, others = [], []
    for name in os.listdir(folder):
        file = tail.parse_name(os.path.join(folder, name))
        if file is not None:
            files.append(file)
        else:
            others.append(name)
    return files, all(map(_OURS.match, others))


def withdraw(folder: str, *, in_spool: bool) -> None:
    """Take the name away by which shells append to a folder's journal: the run is over.

    The journal keeps its own name in the folder. Another file that stands by that name stays, and is not the
    run's (`hpctrack.stream.disk.late`).
    """
    identity = folders.read_identity(folder)
    if identity is None:
        return
    name = runfolder.public_name(folder, identity.base_job_id, identity.task)
    aside = f"{name}.{os.urandom(4).hex()}"
    with contextlib.suppress(OSError):
        if not in_spool and not identity.withdrawn:
            folders.write_identity(folder, identity._replace(withdrawn=True))
        if not appending.leads_into(name, folder):
            return
        os.rename(name, aside)
        if not appending.leads_into(aside, folder):  # it was replaced at this moment
            os.link(aside, name)
        os.unlink(aside)


def remove_part(path: str, proof: Proof) -> bool:
    """Delete a part whose only writer asks for it; whether it is gone."""
    return _unlink(path, proof, alone=True)


def remove_late(path: str, size: int) -> bool:
    """Delete a file that was set aside (`stream.disk.late`), at its size then; whether it is gone."""
    try:
        descriptor = opened.open_own(path)
    except OSError:
        return False
    try:
        return _unlink(path, Proof(descriptor, 0, size))
    finally:
        os.close(descriptor)


def _may_go(file: tail.File, keeping: Keeping) -> bool:
    if keeping.over or not file.whole:
        return True
    try:
        finds_out = file.kind == "log"  # its writer looks; a shell appends to what it has opened
        return finds_out and keeping.now is not None and folders.at_rest(file.path, keeping.now)
    except OSError:
        return False


def _is_proven(path: str, proof: Proof | None) -> bool:
    """Whether a path leads to the file that was read, and all of that is safe."""
    if proof is None:
        return False
    try:
        read, found = os.fstat(proof.descriptor), os.lstat(path)
    except OSError:
        return False
    same = (read.st_dev, read.st_ino) == (found.st_dev, found.st_ino) and stat.S_ISREG(read.st_mode)
    return same and proof.base + read.st_size <= proof.safe


def _unlink(path: str, proof: Proof | None, *, alone: bool = False) -> bool:
    """Delete a file, if that is proven while nobody has it open for writing.

    It loses its name first: who had just opened it by that shows in the lease, and gets it back.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        lease = _Lease(descriptor, needed=not alone)
        if not lease.holds() or not _is_proven(path, proof):
            return False
        aside = f"{path}.{os.urandom(4).hex()}"
        os.rename(path, aside)
        gone = lease.holds() and _is_proven(aside, proof)
        if not gone:
            os.link(aside, path)
        os.unlink(aside)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return gone


class _Lease:
    """The kernel's word that nobody has a file open for writing."""

    def __init__(self, descriptor: int, *, needed: bool) -> None:
        self._descriptor = descriptor
        self._taken = self._refused = False
        if not needed:
            return
        try:
            # Whoever opens the file now makes the kernel send us a signal: one that does nothing.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            self._taken = True
        except OSError as error:
            self._refused = error.errno not in _NO_LEASES

    def holds(self) -> bool:
        """Whether nobody writes, as far as the file system can tell."""
        if self._taken:  # while somebody waits to open it, this says what it would become
            return fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
        return not self._refused


def _remove_rest(folder: str) -> bool:
    """Delete what is left in a folder without journals, and the folder."""
    try:
        for name in sorted(os.listdir(folder), key=_LAST.__eq__):
            path = os.path.join(folder, name)
            if not _OURS.match(name):
                return False
            if name == "python":
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(path, "hpctrack"))
                os.rmdir(path)
            else:
                os.unlink(path)
        os.rmdir(folder)
    except FileNotFoundError:
        return not os.path.lexists(folder)
    except OSError:
        return False
    return True
