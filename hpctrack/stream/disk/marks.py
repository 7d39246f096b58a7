"""Marks: the name under which a shell journal is sent, and checksums of what was already read of it.

If a shell writes ``>`` in place of ``>>``, the file holds another journal, of which PostgreSQL knows nothing;
yet it is the same file, and may be as long as before. A living relay sees that (`tail`). For later readers
there is a mark beside the journal, ``<16 hex>.shell.mark``: the name, the offset up to which the journal was
read, and checksums of the first and the last block before that offset. The mark is written before anything
that was read is sent: in place and with a fixed size, so that it can be written on a full disk, too.
"""

from __future__ import annotations

import contextlib
import os
import re
from binascii import crc32
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import files
from hpctrack.script import journal_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    #: Returns up to so many bytes of a journal from an offset on. Raises OSError.
    Read = Callable[[int, int], bytes]

#: Size of the blocks with a checksum: at the beginning, and before the offset. `tail` frees neither.
BLOCK = 4096
_PATTERN = re.compile(rb"([0-9a-f]{16}) (00[0-9]{18}) ([0-9a-f]{8}) ([0-9a-f]{8})\n")
_SIZE = 16 + 1 + 20 + 1 + 8 + 1 + 8 + 1


class _Mark(NamedTuple):
    name: bytes
    offset: int
    sums: tuple[int, int]


def next_name(name: bytes) -> bytes:
    """Return the name of the journal that follows in the same file, after a cut or a replacement."""
    return ((int.from_bytes(name, "big") + 1) % (1 << 64)).to_bytes(8, "big")


def begin(path: str) -> None:
    """Mark a file that a shell made as uncut: it has no header, like a journal that was cut."""
    name = os.path.basename(path).partition(".")[0]
    if not os.path.lexists(_of(path)):
        Marks(path, lambda _offset, _size: b"").note(bytes.fromhex(name), 0)


def _of(path: str) -> str:
    return path[: -len("journal")] + "mark"


class Marks:
    """The mark of one journal."""

    def __init__(self, path: str, read: Read) -> None:
        """``path`` is the journal's."""
        self._journal = path
        self._path = _of(path)
        self._read = read
        self._noted: tuple[bytes, int] | None = None

    def name(self, journal: bytes) -> tuple[bytes, bool]:
        """Return the name under which a journal's lines are sent, and whether it was cut since the mark.

        ``journal`` is the name of its file. Raises OSError if it can't be read.
        """
        mark = self._load()
        if mark is not None:
            same = mark.sums == self._sums(mark.offset)
            return (mark.name, False) if same else (next_name(mark.name), True)
        data = self._read(0, journal_lines.HEADER_SIZE)
        if not data or data.startswith(journal_lines.MAGIC):
            return journal, False
        return next_name(journal), True

    def note(self, name: bytes, offset: int) -> None:
        """Write a journal's name and the offset up to which it is read. If that fails, a later call does it.

        Nothing is written if the journal is gone: its folder may be under removal.
        """
        if self._noted == (name, offset) or not os.path.lexists(self._journal):
            return
        with contextlib.suppress(OSError):  # harmless, unless the relay dies and then the journal is cut
            first, last = self._sums(offset)
            line = b"%s %020d %08x %08x\n" % (name.hex().encode(), offset, first, last)
            descriptor = files.open_or_create(self._path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, line, 0)
            finally:
                os.close(descriptor)
            self._noted = name, offset

    def _sums(self, offset: int) -> tuple[int, int]:
        size = min(offset, BLOCK)
        return crc32(self._read(0, size)), crc32(self._read(offset - size, size))

    def _load(self) -> _Mark | None:
        try:
            match = _PATTERN.match(files.read(self._path, _SIZE))
        except (OSError, ValueError):
            return None
        if match is None:
            return None
        name, offset, first, last = match.groups()
        return _Mark(bytes.fromhex(name.decode()), int(offset), (int(first, 16), int(last, 16)))
