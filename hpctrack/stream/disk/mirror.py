"""The mirror copies bytes that are not acknowledged from the node to the run's spool folder, each byte once.

A part's name holds the offset of its first byte. Parts are only appended to, up to the end of a complete
line. A part is deleted once the watermark has passed its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from hpctrack import files
from hpctrack.script import journal_lines
from hpctrack.stream.disk import folders, removal
from hpctrack.stream.disk.tail import SHELL, part_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpctrack.stream.disk.tail import File, Tail

_CHUNK = 1 << 18
#: Copied bytes after which fsync(2) is called.
_SETTLE = 1 << 20
#: Bytes at a copy's end that are compared with the journal before more is copied.
_COMPARED = 1 << 16


class _Part:
    """A part that is being written. It is open only during a write: a job may have very many parts."""

    def __init__(self, path: str, base: int) -> None:
        self.path = path
        self.base = self.end = base
        #: The offset up to which the disk has it for sure.
        self.synced = base
        #: Whether the file still holds bytes behind `end`, which were taken back and are yet to be cut off.
        self._overhangs = False
        descriptor = files.create(path, append=True)
        try:
            status = os.fstat(descriptor)
            self._identity = status.st_dev, status.st_ino
        finally:
            os.close(descriptor)

    def open(self, flags: int = os.O_RDONLY) -> int:
        """Open the file that we made. Raises OSError if it is gone, replaced or changed."""
        self._cut()
        return self._open(flags)

    def _open(self, flags: int) -> int:
        descriptor = os.open(self.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        if self._is_ours(os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "another file has its name", self.path)

    def _is_ours(self, status: os.stat_result) -> bool:
        """Whether a file is the one that we made, and ends where we left it, unless it is yet to be cut."""
        same = (status.st_dev, status.st_ino) == self._identity
        return same and (self._overhangs or self.base + status.st_size == self.end)

    def is_gone(self) -> bool:
        """Whether somebody (``hpctrack sync``) has delivered and deleted it, or changed it."""
        try:
            return not self._is_ours(os.lstat(self.path))
        except FileNotFoundError:
            return True
        except OSError:  # not known
            return False

    def append(self, descriptor: int, data: bytes) -> bool:
        """Append; False if not all of it could be."""
        written = os.write(descriptor, data)
        self.end += written
        return written == len(data)

    def sync(self) -> int:
        """Write all of it to the disk; return the offset up to which the disk has it. Raises OSError."""
        self._cut()
        if self.synced < self.end:
            descriptor = self.open()
            try:
                os.fsync(descriptor)
            except OSError:
                self.take_back(self.synced)  # a second fsync(2) may succeed although data was lost
                raise
            finally:
                os.close(descriptor)
            self.synced = self.end
        return self.synced

    def take_back(self, end: int) -> None:
        """Cut off the bytes from ``end`` on: a server or a quota refused them after write(2) had taken them.

        The bytes before may exist nowhere else by now, so the file stays. If it can't be cut now, that is
        tried again before the next use of it.
        """
        self.end, self.synced, self._overhangs = end, min(self.synced, end), True
        with contextlib.suppress(OSError):
            self._cut()

    def _cut(self) -> None:
        if not self._overhangs:
            return
        descriptor = self._open(os.O_WRONLY)
        try:
            os.ftruncate(descriptor, self.end - self.base)
            self._overhangs = False
        finally:
            os.close(descriptor)


class Mirror:
    """The run's spool folder, as its relay uses it."""

    def __init__(self, folder: str, identity: folders.Identity) -> None:
        self.folder = folder
        self.identity = identity
        self._parts: dict[bytes, _Part] = {}
        self._lock: folders.Lock | None = None

    def copy(self, tail: Tail, watermark: int, limit: int) -> int:
        """Copy about ``limit`` bytes at most that are neither acknowledged nor copied; return how many.

        Raises OSError if the spool can't be written.
        """
        part = self._part(tail, watermark)
        before = part.end
        descriptor = part.open(os.O_WRONLY | os.O_APPEND)
        try:
            while part.end - before < limit:
                data = _complete_lines(tail, part.end)
                tail.note(part.end + len(data))
                if not data or not part.append(descriptor, data):
                    break
        finally:
            try:
                os.close(descriptor)
            except OSError:
                part.take_back(before)
                raise
        return part.end - before

    def is_true(self, tail: Tail) -> bool:
        """Whether a journal still holds the bytes that were copied last; if not, a shell has cut it.

        Raises OSError if the copy can't be read. If the journal can't be read the answer is True.
        """
        part = self._parts.get(tail.name)
        if tail.kind != SHELL or part is None or part.is_gone():
            return True
        begin = max(part.base, part.end - _COMPARED)
        descriptor = part.open()
        try:
            copy = os.pread(descriptor, part.end - begin, begin - part.base)
        finally:
            os.close(descriptor)
        try:
            return tail.compare(copy, begin)
        except OSError:
            return True

    def _part(self, tail: Tail, watermark: int) -> _Part:
        part = self._parts.get(tail.name)
        if part is not None and (part.end < watermark or part.is_gone()):
            self.forget(tail, watermark)
            self._parts.pop(tail.name, None)
            part = None
        if part is None:
            self.claim()
            name = part_name(tail.name, tail.kind, watermark, tail.lines_before(watermark))
            part = self._parts[tail.name] = _Part(os.path.join(self.folder, name), watermark)
        return part

    def claim(self) -> None:
        """Make the folder if it is missing, lock it, and write its identity. Raises OSError."""
        if self._lock is None:
            folders.make(self.folder)
            lock = folders.Lock(self.folder)
            if not lock.take():
                raise OSError("another process works in " + self.folder)
            self._lock = lock
            folders.write_identity(self.folder, self.identity)

    def end(self, tail: Tail) -> int:
        """Return the offset up to which a journal is copied; 0 if nothing of it is."""
        part = self._parts.get(tail.name)
        return part.end if part is not None and not part.is_gone() else 0

    def refresh(self) -> None:
        """Refresh the lock, to be called within each minute."""
        if self._lock is not None:
            self._lock.refresh()

    def synced(self, tail: Tail) -> int:
        """Write a journal's copy to the spool's disk; return the offset up to which it is. Raises OSError."""
        part = self._parts.get(tail.name)
        return part.sync() if part is not None and not part.is_gone() else 0

    def settled(self, tail: Tail) -> int:
        """Return what `synced` last returned; calls fsync(2) only for each `_SETTLE` bytes."""
        part = self._parts.get(tail.name)
        if part is None or part.is_gone():
            return 0
        with contextlib.suppress(OSError):
            if part.end - part.synced >= _SETTLE:
                part.sync()
        return part.synced

    def forget(self, tail: Tail, watermark: int) -> None:
        """Delete the part of a journal if the watermark has passed it."""
        part = self._parts.get(tail.name)
        if part is None or part.end > watermark:
            return
        del self._parts[tail.name]
        with contextlib.suppress(OSError):
            descriptor = part.open()
            try:
                removal.remove_part(part.path, removal.Proof(descriptor, part.base, watermark))
            finally:
                os.close(descriptor)

    def close(self, *, over: bool, prove: Callable[[File], removal.Proof | None]) -> None:
        """Delete files that are proven to be delivered, and release the folder to later deliveries.

        ``over``: no process will write there any more. Raises OSError.
        """
        for part in self._parts.values():
            if not part.is_gone():
                part.sync()
        self._parts.clear()
        if self._lock is None and os.path.isdir(self.folder):
            with contextlib.suppress(OSError):
                self.claim()  # a process on another node made it
        if self._lock is not None:
            lock, self._lock = self._lock, None
            folders.write_identity(self.folder, self.identity._replace(closed=over))
            removal.clear(self.folder, removal.Keeping(in_spool=True, over=over), prove)
            lock.release()


def _complete_lines(tail: Tail, offset: int) -> bytes:
    """Return the next bytes to copy: complete lines, or a piece of a line that is too long to be read."""
    data = tail.raw(offset, _CHUNK)
    end = data.rfind(b"\n") + 1
    if not end and len(data) == _CHUNK:
        data = tail.raw(offset, journal_lines.MAX_LINE + 1)
        end = data.find(b"\n") + 1 or (len(data) if len(data) > journal_lines.MAX_LINE else 0)
    return data[:end]
