"""Late files: files that shells make by a run's public name, after the run's end or on another node.

See `stream.disk.appending`. Late files are never read as the run's journals, and stay where they are. When a
relay, a collector or ``hpctrack sync`` of the user finds one, it counts the lines, and the run's timeline
tells of them. The first of these that comes later than `KEPT` after the last line removes the file. A note in
the spool says what was told.
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

#: A public name: the run folder's name; for an array task also base job and index, which that does not tell.
_NAME = re.compile(
    r"hpctrack-(\d+)\.(.+\.(\d+)\.[0-9a-f]{8})(?:\.(\d{1,18})_(\d{1,18}))?\.journal(?:\.[0-9a-f]{8})?\Z"
)
_NOTE = ".told"
#: Seconds after the last line until the timeline tells of a file.
_REST = 5.0
#: Seconds after the last line until the file is removed; its note goes after twice that time.
KEPT = 30 * 86400.0
#: So many times any new line is told; later only if the size has doubled, and before the file is removed.
_TOLD_EACH = 10
#: Files that one pass tells of.
_MOST = 256
_CHUNK = 1 << 20
_MAX_NOTE = 256


class _Late(NamedTuple):
    """A late file to which nobody has appended for `_REST` seconds."""

    path: str
    #: The run folder's name.
    folder: str
    #: The run whose name it has; None if this spool does not know the run.
    identity: Identity | None
    size: int
    #: Whether it is to be removed.
    old: bool


class _Note(NamedTuple):
    """What the timeline was told of a late file: lines, bytes, how often."""

    lines: int = 0
    size: int = 0
    times: int = 0


def tell(spool: str, node_dir: str) -> int:
    """Have timelines tell of late files, on this host and on the shared home; return the number of files.

    A folder or file that can't be read, told of or removed is skipped until the next call.
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
    """Yield the entries of a folder that have a public name of this user."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            match = _NAME.match(entry.name)
            if match is not None and int(match[1]) == os.geteuid():
                yield entry, match


def _late(spool: str, entry: os.DirEntry[str], match: re.Match[str]) -> _Late | None:
    """Return an entry's late file, if it has no other name and is at rest. Raises OSError, ValueError."""
    status = entry.stat(follow_symlinks=False)
    age = abs(time.time() - status.st_mtime)
    if not appending.is_ours(status) or status.st_nlink > 1 or age <= _REST:
        return None
    return _Late(entry.path, match[2], _identity(spool, match), status.st_size, age > KEPT)


def _identity(spool: str, match: re.Match[str]) -> Identity | None:
    """Return the run of a public name; None if this spool does not know it. Raises OSError, ValueError."""
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
    """Whether the file will be taken in as the run's, by its relay or by a delivery after a dead relay.

    Raises OSError if that is not known.
    """
    path = os.path.join(home, folder)
    known = folders.read_identity(path)
    waits = known is not None and not known.withdrawn and os.path.basename(home) != "journals"
    return waits or folders.Lock(path).is_held()


def _tell(spool: str, late: _Late) -> bool:
    """Tell of new lines, if it is time to; remove the file if it is old. Raises OSError."""
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
    """Write an event for the timeline into the run's spool folder, and the note. Raises OSError."""
    assert late.identity is not None  # noqa: S101 (the caller has checked)
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
    """Remove notes of late files that others have removed. Raises OSError."""
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
