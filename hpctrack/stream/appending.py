"""The name by which shells append: ``$HPCTRACK_JOURNAL`` of a job, where ``>>`` never fails.

Children of a job inherit the path, and may run on any node, while the job runs and long after it. So the
name stands where each node has a folder: directly in ``/var/tmp``, ``/tmp`` or ``node_dir``, and of a job of
several nodes in ``<spool>/appended/``. While the run lives it is a hard link of the shell journal, so that
appending and reading cost what they cost in the run folder. What a shell puts in its place (``rm``,
``sed -i``, a cleaner of /tmp) is linked into the folder as another journal (`Name.take_in`). When the run is
over the name is taken away (`hpctrack.stream.removal.withdraw`), and who appends later makes a file of its
own there. Such a file is never read as the run's: it stays where it is, its lines are counted, and the run's
timeline tells of them (`tell_late`).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import files
from hpctrack.stream import folders, journal_lines, runfolder, tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.stream.folders import Identity

#: The name of a run folder, and of an array task also base job and index, which the folder's does not tell.
_NAME = re.compile(
    r"hpctrack-(\d+)\.(.+\.(\d+)\.[0-9a-f]{8})(?:\.(\d{1,18})_(\d{1,18}))?\.journal(?:\.[0-9a-f]{8})?\Z"
)
#: Seconds without a new line after which lines are told.
_REST = 5.0
#: So often each new line is told; after that when there are twice as many.
_TOLD_EACH = 10
#: Files of which one pass tells.
_MOST = 256
_CHUNK = 1 << 20
_MAX_STATE = 256


class Name:
    """Such a name, as a relay looks after it."""

    def __init__(self, folder: str, job_id: int | None, task: int) -> None:
        """``folder`` holds the journal."""
        self.folder = folder
        self.path = runfolder.public_name(folder, job_id, task)
        #: Device and inode behind it, when it was looked at.
        self._known: tuple[int, int] | None = None

    def take_in(self) -> bool:
        """Link what a shell has put in the journal's place into its folder; whether it did so.

        Raises FileNotFoundError where there is no such folder any more, OSError.
        """
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return False
        behind = found.st_dev, found.st_ino
        if behind == self._known or not _is_ours(found):
            return False
        new = behind not in _inodes(self.folder)
        if new:
            path = os.path.join(self.folder, f"{os.urandom(8).hex()}.{tail.SHELL}.journal")
            os.link(self.path, path)
            os.chmod(path, 0o600)  # the script's umask may be anything
        self._known = behind
        return new


def leads_into(name: str, folder: str) -> bool:
    """Whether a name is one more of a journal in a folder. Raises OSError."""
    found = os.lstat(name)
    return (found.st_dev, found.st_ino) in _inodes(folder)


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _inodes(folder: str) -> set[tuple[int, int]]:
    """Return devices and inodes of a folder's journals. Raises OSError."""
    found = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".journal"):
                status = entry.stat(follow_symlinks=False)
                found.add((status.st_dev, status.st_ino))
    return found


# ---- what is appended late -------------------------------------------------------------------------------


class _Late(NamedTuple):
    """A file that somebody has made by such a name, of a run that is over or lives on another node."""

    path: str
    folder: str  # the run folder's name
    identity: Identity
    size: int


class _State(NamedTuple):
    """What has been told of such a file: complete lines, bytes, how often."""

    lines: int = 0
    size: int = 0
    times: int = 0


def tell_late(spool: str, node_dir: str) -> int:
    """Have timelines tell of what was appended late, here and on the shared home; return of how many files.

    The files stay as they are. A place that can't be looked through or written is passed over for now.
    """
    told = 0
    for late in _found(spool, node_dir):
        with contextlib.suppress(OSError, ValueError):
            told += _tell(spool, late)
        if told == _MOST:
            break
    return told


def _found(spool: str, node_dir: str) -> Iterator[_Late]:
    lasting = os.path.join(spool, runfolder.LASTING)
    homes = runfolder.homes(node_dir)
    for parent in [*runfolder.parents(node_dir), lasting]:
        homes_here = [os.path.join(spool, "journals")] if parent == lasting else homes
        with contextlib.suppress(OSError), os.scandir(parent) as entries:
            for entry in entries:
                match = _NAME.match(entry.name)
                if match is None or int(match[1]) != os.geteuid():
                    continue
                late = _late(spool, entry, match)
                if late is not None and not _is_taken_in(late, homes_here):
                    yield late


def _late(spool: str, entry: os.DirEntry[str], match: re.Match[str]) -> _Late | None:
    """Return what stands there, if it has a name of its own only, and is at rest."""
    with contextlib.suppress(OSError):
        found = entry.stat(follow_symlinks=False)
        resting = abs(time.time() - found.st_mtime) > _REST
        if _is_ours(found) and found.st_nlink == 1 and found.st_size and resting:
            identity = _identity(spool, match)
            return None if identity is None else _Late(entry.path, match[2], identity, found.st_size)
    return None


def _identity(spool: str, match: re.Match[str]) -> Identity | None:
    """Return which run a name is of; None if it is not of this spool."""
    if match[5] is None:
        identity = folders.guess_identity(spool, os.path.join(spool, match[2]))
    else:
        cluster = match[2].rsplit(".", 3)[0]
        job, task = int(match[4]), int(match[5])
        identity = folders.Identity(None, task, cluster=cluster, job_id=job, attempt=int(match[3]))
    if identity is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        record = folders.find_record(spool, identity)
        if record is not None:  # nothing is known of the run's processes, nor of their host
            return identity._replace(uuid=record.uuid, host="")
    return None


def _is_taken_in(late: _Late, homes: list[str]) -> bool:
    """Whether somebody will take it for the run's: its relay, or who delivers what a dead one has left."""
    for home in homes:
        folder = os.path.join(home, late.folder)
        known = folders.read_identity(folder)
        waits = known is not None and not known.withdrawn and os.path.basename(home) != "journals"
        if waits or folders.Lock(folder).is_held():
            return True
    return False


def _tell(spool: str, late: _Late) -> bool:
    """Count what is new in it, and write to the spool what the timeline is to tell. Raises OSError."""
    noted = os.path.join(spool, runfolder.LASTING, f"{os.path.basename(late.path)}.{folders.host()}.told")
    state = _read_state(noted)
    if late.size < state.size:
        state = _State(times=state.times)
    if late.size == state.size:
        return False
    complete, incomplete = _count(late.path, state.size, late.size)
    complete += state.lines
    if state.times >= _TOLD_EACH and complete < 2 * state.lines:
        return False
    lines = complete + incomplete
    counted = "1 line was" if lines == 1 else f"{lines} lines were"
    where = f"{folders.host()}:{late.path}"
    _post(spool, late, f"{counted} appended after the end, or by another job: set aside in {where}")
    files.make_folder(os.path.dirname(noted))
    files.replace(noted, b"%d %d %d\n" % (complete, late.size, state.times + 1))
    return True


def _read_state(path: str) -> _State:
    try:
        return _State(*map(int, files.read(path, _MAX_STATE).split()))
    except (OSError, ValueError, TypeError):
        return _State()


def _count(path: str, begin: int, end: int) -> tuple[int, bool]:
    """Return how many lines end between two offsets, and whether one more has begun. Raises OSError."""
    lines, last = 0, b"\n"
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        file.seek(begin)
        while begin < end and (chunk := file.read(min(_CHUNK, end - begin))):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
            begin += len(chunk)
    return lines, last != b"\n"


def _post(spool: str, late: _Late, text: str) -> None:
    """Write an event to the run's spool folder, from where it is delivered. Raises OSError."""
    folder = os.path.join(spool, "journals", late.folder)
    folders.make(folder)
    if folders.read_identity(folder) is None:
        folders.write_identity(folder, late.identity)
    path = runfolder.create_journal(folder, "relay", late.identity.attempt, 0)
    with open(path, "ab") as file:
        file.write(journal_lines.format_message("event", {"time": time.time(), "name": text}))
