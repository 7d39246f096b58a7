"""Removal: the only module that deletes journals and the folders that hold them.

A file is deleted only if four things are proven at that moment:

1. **Its bytes are safe.** The watermark that the collector acknowledged under the run's key is at or beyond
   the size of the file, as the descriptor through which it was read tells it (`Proof`; comments and blanks
   after the last row count as safe). A run folder's relay may prove it by the spool instead of PostgreSQL:
   by the bytes that it has copied there and fsync(2) has confirmed. If the run was deleted from PostgreSQL
   all bytes count as safe: they can't be delivered any more.
2. **It is that file.** The path still leads to the device and inode of the descriptor.
3. **No process has it open for writing.** The kernel grants a read lease (fcntl(2), F_SETLEASE) only while no
   process of this host has, and the lease is held until the file is gone. On file systems without leases
   the next point has to do.
4. **No process will open it.** `over`: the run's processes that may know the path have ended
   (`nobody_writes`). Two kinds of files in the spool need no such proof: parts, whose only writer is a relay
   that has released the folder; and journals at rest of processes on other nodes, since `hpctrack.log`
   notices that its file is gone and begins another.

A run folder is deleted as a whole or not at all, since the script may append to its journals by their names;
and only if all files in it are hpctrack's. In a spool folder files are deleted one by one, the folder after
the last of them. A file stays if it can't be opened, read, listed or asked about.

Who brings which proof:

========================================  ==================================================================
the relay, when its run ends              watermarks and the spool; it sees whether processes go on
the relay of the next attempt             watermarks; Slurm starts an attempt when the one before is over
``hpctrack sync``, the collector          watermarks; the processes of this host, or that the run ended
                                          some minutes ago according to PostgreSQL
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

from hpctrack.script import journal_lines
from hpctrack.stream.disk import appending, folders, opened, runfolder, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from hpctrack.stream.disk.folders import Identity

#: A `Proof.safe` for all bytes, since the run is deleted.
EVERYTHING = 1 << 63
#: hpctrack's files in such folders, besides journals.
_OURS = re.compile(
    r"([0-9a-f]{16}\.(shell\.mark|[a-z]+\.hole)"
    rf"|{re.escape(journal_lines.IDENTITY)}(\.[0-9a-f]{{8}})?"
    r"|lock|told|silent|slurm_script|relay\.log)\Z"
)
#: Errors of fcntl(2) on a file system without leases.
_NO_LEASES = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class Proof(NamedTuple):
    """A journal's file as it was read, and the offset up to which its bytes are safe."""

    #: The descriptor through which it was read.
    descriptor: int
    #: Offset of its first byte in the journal, and the offset up to which the journal is safe.
    base: int
    safe: int


class Keeping(NamedTuple):
    """The facts that decide which files of a folder may be deleted."""

    in_spool: bool
    #: Whether no process will write there any more.
    over: bool
    #: The time by the folder's server; None: no file counts as at rest.
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

    ``ended``: according to Slurm or PostgreSQL, who know of all nodes, the attempt is over. ``ignored``: ids
    of our processes that no longer write there. ``but_strangers``: processes of jobs that the run's script
    has submitted may go on, though they have its variables.
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
    """Delete the files with a proof; return whether the folder is gone. Raises OSError if it can't be listed.

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
    """Return the journals in a folder, and whether all other files are hpctrack's. Raises OSError."""
    files, others = [], []
    for name in os.listdir(folder):
        file = tail.parse_name(os.path.join(folder, name))
        if file is not None:
            files.append(file)
        else:
            others.append(name)
    return files, all(map(_OURS.match, others))


def withdraw(folder: str, *, in_spool: bool) -> None:
    """Remove the public name of a folder's shell journal, because the run is over.

    The journal keeps its name in the folder. If the public name leads to another file, that stays; it is not
    the run's (`hpctrack.stream.disk.late`).
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
    """Delete a part for its only writer; return whether it is gone."""
    return _unlink(path, proof, alone=True)


def remove_late(path: str, size: int) -> bool:
    """Delete a late file (`stream.disk.late`) if it still has this size; return whether it is gone."""
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
    """Whether a path leads to the file that was read, and all its bytes are safe."""
    if proof is None:
        return False
    try:
        read, named = os.fstat(proof.descriptor), os.lstat(path)
    except OSError:
        return False
    same = (read.st_dev, read.st_ino) == (named.st_dev, named.st_ino) and stat.S_ISREG(read.st_mode)
    return same and proof.base + read.st_size <= proof.safe


def _unlink(path: str, proof: Proof | None, *, alone: bool = False) -> bool:
    """Delete a file if its proof holds and no process has it open for writing; return whether it is gone.

    It is renamed first. If a process opened it by its name just before, the lease tells, and the file gets
    its name back.
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
    """A read lease (fcntl(2)): while it holds, no process has the file open for writing."""

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
        """Whether no process has it open for writing, as far as the file system can tell."""
        if self._taken:  # while a process waits to open the file, the kernel names the lease that follows
            return fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
        return not self._refused


def _remove_rest(folder: str) -> bool:
    """Delete the other files of a folder without journals, and the folder; return whether it is gone."""
    try:
        for name in sorted(os.listdir(folder), key=journal_lines.IDENTITY.__eq__):  # it goes last
            path = os.path.join(folder, name)
            if not _OURS.match(name):
                return False
            os.unlink(path)
        os.rmdir(folder)
    except FileNotFoundError:
        return not os.path.lexists(folder)
    except OSError:
        return False
    return True
