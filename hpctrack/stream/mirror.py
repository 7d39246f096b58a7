"""The mirror: what nobody acknowledges is copied from the node to the run's spool folder, each byte once.

A part is named by the offset of its first byte and only ever appended to, up to the end of a complete line.
Once the watermark has passed a part it is deleted.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from hpctrack.stream import folders, journal_lines

if TYPE_CHECKING:
    from hpctrack.stream.tail import Tail

_CHUNK = 1 << 18


class _Part:
    """A part that is being written."""

    def __init__(self, path: str, base: int) -> None:
        self.path = path
        self.end = base
        self.descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
        )

    def is_gone(self) -> bool:
        """Whether somebody (``hpctrack sync``) has delivered and deleted it."""
        try:
            return os.fstat(self.descriptor).st_nlink == 0
        except OSError:  # on a network file system
            return True

    def close(self) -> None:
        os.close(self.descriptor)


class Mirror:
    """The run's spool folder, as its relay uses it."""

    def __init__(self, folder: str, identity: folders.Identity) -> None:
        self.folder = folder
        self.identity = identity
        self._parts: dict[bytes, _Part] = {}
        self._lock: folders.Lock | None = None

    def copy(self, tail: Tail, watermark: int, limit: int) -> int:
        """Copy up to about ``limit`` bytes of what is not acknowledged and not copied yet; returns how many.

        Raises OSError if the spool can't be written.
        """
        part = self._part(tail, watermark)
        copied = 0
        while copied < limit:
            data = _complete_lines(tail, part.end)
            if not data:
                break
            written = os.write(part.descriptor, data)
            part.end += written
            copied += written
            if written < len(data):
                break
        return copied

    def _part(self, tail: Tail, watermark: int) -> _Part:
        part = self._parts.get(tail.name)
        if part is not None and (part.end < watermark or part.is_gone()):
            self._drop(tail)
            part = None
        if part is None:
            self.claim()
            path = os.path.join(self.folder, f"{tail.name.hex()}.{tail.kind}.{watermark}.part")
            part = self._parts[tail.name] = _Part(path, watermark)
        return part

    def claim(self) -> None:
        """Make the folder, if it is not there, and say whose it is. Raises OSError."""
        if self._lock is None:
            folders.make(self.folder)
            lock = folders.Lock(self.folder)
            if not lock.take():
                raise OSError("another process works in " + self.folder)
            self._lock = lock
            folders.write_identity(self.folder, self.identity)

    def end(self, tail: Tail) -> int:
        """Return up to which offset a journal is here; 0 if nothing of it is."""
        part = self._parts.get(tail.name)
        return part.end if part is not None and not part.is_gone() else 0

    def refresh(self) -> None:
        """Give a sign of life."""
        if self._lock is not None:
            self._lock.refresh()

    def forget(self, tail: Tail, watermark: int) -> None:
        """Delete the part of a journal if the watermark has passed it."""
        part = self._parts.get(tail.name)
        if part is not None and part.end <= watermark:
            self._drop(tail)

    def _drop(self, tail: Tail) -> None:
        part = self._parts.pop(tail.name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part.path)
        part.close()

    def close(self) -> None:
        """Leave the spool folder to whoever delivers from it; delete it if there is nothing in it."""
        for part in self._parts.values():
            os.fsync(part.descriptor)
            part.close()
        if self._lock is not None:
            folders.write_identity(self.folder, self.identity._replace(closed=True))
            self._lock.release()
        remove_if_empty(self.folder)
        self._parts.clear()
        self._lock = None


def remove_if_empty(folder: str) -> bool:
    """Delete a spool folder that holds no journal any more."""
    from hpctrack.stream import tail

    if tail.find(folder):
        return False
    with contextlib.suppress(OSError):
        folders.remove(folder)
        return True
    return False


def _complete_lines(tail: Tail, offset: int) -> bytes:
    """Return what may be copied next. A line too long to be read is copied in pieces: it is torn anyway."""
    data = tail.raw(offset, _CHUNK)
    end = data.rfind(b"\n") + 1
    if not end and len(data) == _CHUNK:
        data = tail.raw(offset, journal_lines.MAX_LINE + 1)
        end = data.find(b"\n") + 1 or (len(data) if len(data) > journal_lines.MAX_LINE else 0)
    return data[:end]
