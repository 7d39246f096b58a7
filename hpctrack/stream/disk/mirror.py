"""The mirror: what is not acknowledged is copied from the node to the run's spool folder, each byte once.

A part is named by the offset of its first byte and only ever appended to, up to the end of a complete line.
Once the watermark has passed a part it is deleted.
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
#: Bytes after which it is worth asking the disk whether it has them.
_SETTLE = 1 << 20
#: Bytes of a copy that are compared with the journal before more is copied.
_COMPARED = 1 << 16


class _Part:
    """A part that is being written; it is open while it is, for a job may have very many."""

    def __init__(self, path: str, base: int) -> None:
        self.path = path
        self.base = self.end = base
        #: Up to which offset the disk has it for sure.
        self.synced = base
        #: Whether the file goes on behind `end`, with what the disk may not have.
        self._overhangs = False
        descriptor = files.create(path, append=True)
        try:
            found = os.fstat(descriptor)
            self._identity = found.st_dev, found.st_ino
        finally:
            os.close(descriptor)

    def open(self, flags: int = os.O_RDONLY) -> int:
        """Open the file that we made. Raises OSError if it is gone, or is no longer what we made of it."""
        self._cut()
        return self._open(flags)

    def _open(self, flags: int) -> int:
        descriptor = os.open(self.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        if self._is_ours(os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "another file has its name", self.path)

    def _is_ours(self, found: os.stat_result) -> bool:
        """Whether a file is the one that we made, and ends where we left it, or behind what is to be cut."""
        same = (found.st_dev, found.st_ino) == self._identity
        return same and (self._overhangs or self.base + found.st_size == self.end)

    def is_gone(self) -> bool:
        """Whether somebody (``hpctrack sync``) has delivered and deleted it, or changed it."""
        try:
            return not self._is_ours(os.lstat(self.path))
        except FileNotFoundError:
            return True
        except OSError:  # nobody knows
            return False

    def append(self, descriptor: int, data: bytes) -> bool:
        """Append; False if not all of it could be."""
        written = os.write(descriptor, data)
        self.end += written
        return written == len(data)

    def sync(self) -> int:
        """Have the disk take all of it; return up to which offset it has. Raises OSError."""
        self._cut()
        if self.synced < self.end:
            descriptor = self.open()
            try:
                os.fsync(descriptor)
            except OSError:
                self.take_back(self.synced)  # asked again, the kernel may say that all is well
                raise
            finally:
                os.close(descriptor)
            self.synced = self.end
        return self.synced

    def take_back(self, end: int) -> None:
        """Cut off what the disk may not have: servers, and quotas, refuse what was written long ago.

        What stands before may be nowhere else by now, so the file stays; if it can't be cut, that is tried
        again before anything else is done with it.
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
        """Copy up to about ``limit`` bytes of what is not acknowledged and not copied yet; returns how many.

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
        """Whether what was copied of a journal last still stands there: a shell may have cut it.

        Raises OSError if the copy can't be read; a journal that can't be waits.
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

    def synced(self, tail: Tail) -> int:
        """Return up to which offset the spool's disk has a journal for sure. Raises OSError."""
        part = self._parts.get(tail.name)
        return part.sync() if part is not None and not part.is_gone() else 0

    def settled(self, tail: Tail) -> int:
        """Return what `synced` did, without having the disk asked for each line."""
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
        """Leave the spool folder to whoever delivers from it; delete what is proven to be delivered.

        ``over``: nobody will write there any more. Raises OSError.
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
    """Return what may be copied next. A line too long to be read is copied in pieces: it is torn anyway."""
    data = tail.raw(offset, _CHUNK)
    end = data.rfind(b"\n") + 1
    if not end and len(data) == _CHUNK:
        data = tail.raw(offset, journal_lines.MAX_LINE + 1)
        end = data.find(b"\n") + 1 or (len(data) if len(data) > journal_lines.MAX_LINE else 0)
    return data[:end]
