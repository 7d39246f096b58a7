"""What is appended late: files that somebody has made by the name by which the shells of a run append.

They are of a run that is over, or lives on another node (`stream.disk.appending`), and never read as the
run's. They stay where they are; their lines are counted, and the run's timeline tells of them, as soon as a
relay, a collector or ``hpctrack sync`` of the user's finds them. The first to find them later than `KEPT`
after the last line removes them. What was told stands in a note in the spool.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import files
from hpctrack.stream.disk import appending, folders, opened, removal, runfolder
from hpctrack.stream.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.stream.disk.folders import Identity

#: The name of a run folder, and of an array task also base job and index, which the folder's does not tell.
_NAME = re.compile(
    r"hpctrack-(\d+)\.(.+\.(\d+)\.[0-9a-f]{8})(?:\.(\d{1,18})_(\d{1,18}))?\.journal(?:\.[0-9a-f]{8})?\Z"
)
_NOTE = ".told"
#: Seconds after the last line: lines are told then; they are removed then, and notes of them.
_REST = 5.0
KEPT = 30 * 86400.0
#: So often each new line is told; after that when there are twice as many bytes, and before they go.
_TOLD_EACH = 10
#: Files of which one pass tells.
_MOST = 256
_CHUNK = 1 << 20
_MAX_NOTE = 256


class _Late(NamedTuple):
    """Such a file, at rest."""

    path: str
    #: The run folder's name.
    folder: str
    #: Which run it is of; None if not of one that this spool knows.
    identity: Identity | None
    size: int
    #: Whether it goes.
    old: bool


class _Note(NamedTuple):
    """What has been told of such a file: lines, bytes, how often."""

    lines: int = 0
    size: int = 0
    times: int = 0


def tell(spool: str, node_dir: str) -> int:
    """Have timelines tell of what was appended late, here and on the shared home; return of how many files.

    A place or a file that can't be looked at, told of or removed is passed over for now.
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
    for parent in [*runfolder.parents(node_dir), lasting]:
        homes = [os.path.join(spool, "journals")] if parent == lasting else runfolder.homes(parent)
        for entry, match in _names(parent):
            with contextlib.suppress(OSError, ValueError):
                late = _late(spool, entry, match)
                if late is not None and not any(_is_taken_in(home, late.folder) for home in homes):
                    yield late


def _names(parent: str) -> Iterator[tuple[os.DirEntry[str], re.Match[str]]]:
    """Yield what stands in a folder by a name of this user's by which shells append."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            match = _NAME.match(entry.name)
            if match is not None and int(match[1]) == os.geteuid():
                yield entry, match


def _late(spool: str, entry: os.DirEntry[str], match: re.Match[str]) -> _Late | None:
    """Return what stands there, if that is its only name, and it is at rest. Raises OSError, ValueError."""
    found = entry.stat(follow_symlinks=False)
    age = abs(time.time() - found.st_mtime)
    if not appending.is_ours(found) or found.st_nlink > 1 or age <= _REST:
        return None
    return _Late(entry.path, match[2], _identity(spool, match), found.st_size, age > KEPT)


def _identity(spool: str, match: re.Match[str]) -> Identity | None:
    """Return which run a name is of; None if it is not of this spool. Raises OSError, ValueError."""
    if match[5] is None:
        identity = folders.guess_identity(spool, os.path.join(spool, match[2]))
    else:
        cluster = match[2].rsplit(".", 3)[0]
        job, task = int(match[4]), int(match[5])
        identity = folders.Identity(None, task, cluster=cluster, base_job_id=job, attempt=int(match[3]))
    record = None if identity is None else folders.find_record(spool, identity)
    if identity is None or record is None:
        return None
    return identity._replace(uuid=record.uuid, host="")  # nothing is known of the run's processes


def _is_taken_in(home: str, folder: str) -> bool:
    """Whether somebody will take it for the run's: its relay, or who delivers what a dead one has left.

    Raises OSError if that can't be told.
    """
    path = os.path.join(home, folder)
    known = folders.read_identity(path)
    waits = known is not None and not known.withdrawn and os.path.basename(home) != "journals"
    return waits or folders.Lock(path).is_held()


def _tell(spool: str, late: _Late) -> bool:
    """Tell what is new in it, if there is enough, and let it go when it is old. Raises OSError."""
    path = os.path.join(spool, runfolder.LASTING, f"{os.path.basename(late.path)}.{folders.host()}{_NOTE}")
    note = _read_note(path)
    if late.size < note.size:
        note = _Note(times=note.times)
    due = note.times < _TOLD_EACH or late.size >= 2 * note.size or late.old
    is_news = late.identity is not None and late.size > note.size and due
    if is_news:
        _post(spool, late, note, path)
    if late.old and removal.remove_late(late.path, late.size):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return is_news


def _post(spool: str, late: _Late, note: _Note, path: str) -> None:
    """Have the run's timeline tell of it, by way of the run's spool folder, and note that. Raises OSError."""
    assert late.identity is not None  # noqa: S101 (that was asked)
    complete, incomplete = _count(late.path, note.size, late.size)
    complete += note.lines
    lines = complete + incomplete
    counted = "1 line was" if lines == 1 else f"{lines} lines were"
    where = f"{folders.host()}:{late.path}"
    text = f"{counted} appended after the end, or by another job: set aside in {where}"
    folder = os.path.join(spool, "journals", late.folder)
    folders.make(folder)
    if folders.read_identity(folder) is None:
        folders.write_identity(folder, late.identity)
    journal = runfolder.create_journal(folder, "relay", late.identity.attempt, 0)
    with open(journal, "ab") as file:
        file.write(messages.line(messages.Event(time.time(), text)))
    files.make_folder(os.path.dirname(path))
    files.replace(path, b"%d %d %d\n" % (complete, late.size, note.times + 1))
    _forget_old(os.path.dirname(path))


def _read_note(path: str) -> _Note:
    try:
        return _Note(*map(int, files.read(path, _MAX_NOTE).split()))
    except (OSError, ValueError, TypeError):
        return _Note()


def _forget_old(folder: str) -> None:
    """Remove notes of files that somebody else has cleaned away. Raises OSError."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_NOTE) and abs(time.time() - entry.stat().st_mtime) > 2 * KEPT:
                os.unlink(entry.path)


def _count(path: str, begin: int, end: int) -> tuple[int, bool]:
    """Return how many lines end between two offsets, and whether one more has begun. Raises OSError."""
    lines, last = 0, b"\n"
    with open(opened.open_own(path), "rb") as file:
        file.seek(begin)
        while begin < end and (chunk := file.read(min(_CHUNK, end - begin))):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
            begin += len(chunk)
    return lines, last != b"\n"
