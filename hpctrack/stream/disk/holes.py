"""Holes: acknowledged space inside a journal is freed, and the lines up to its end are counted.

If PostgreSQL is restored from an older dump, freed lines can't be sent again. How many of them are missing
then is the count less the lines that PostgreSQL knows (`hpctrack.store.ingest.progress`). It stands beside
the journal, in ``<16 hex>.<kind>.hole``: the journal's name, the offset from where the lines behind the hole
stand whole, and how many lines end at or before it.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import files
from hpctrack.stream.wire import journal

if TYPE_CHECKING:
    from collections.abc import Callable

    #: Returns up to so many bytes of a journal from an offset on. Raises OSError.
    Read = Callable[[int, int], bytes]

#: fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
_PUNCH_HOLE = 0x01 | 0x02
_CHUNK = 1 << 18
#: Bytes that are counted at most for one answer; where space is given back it is little more than a hole.
_MAX_COUNTED = 1 << 26
_PATTERN = re.compile(rb"([0-9a-f]{16}) (00[0-9]{18}) (00[0-9]{18})\n")
_SIZE = 16 + 1 + 20 + 1 + 20 + 1
#: So many zeros in a row are no writer's.
ZEROS = bytes(64)


class Counted(NamedTuple):
    """How many lines (rows, and what can't be read) end at or before an offset, where a line ends."""

    end: int
    lines: int


class Counts:
    """Counts the lines of a journal from its begin, up to the offsets that are asked for, each line once."""

    def __init__(self, path: str, read: Read) -> None:
        """``path`` is the journal's."""
        self._path = path[: -len("journal")] + "hole"
        self._read = read
        self._counted: Counted | None = None
        #: The end of what was given back.
        self.hole: Counted | None = None

    def load(self, name: bytes) -> None:
        """Take up what was counted of the journal of this name; it begins anew if it has another by now."""
        self.hole = self._load(name)
        self._counted = self.hole or Counted(0, 0)

    def lines(self, end: int) -> int | None:
        """Return how many lines end at or before an offset, where one ends; None if nobody knows.

        Raises OSError.
        """
        if self._counted is None or not 0 <= end - self._counted.end <= _MAX_COUNTED:
            return None
        while self._counted is not None and self._counted.end < end:
            self._counted = self._next(self._counted, end)
        return None if self._counted is None else self._counted.lines

    def _next(self, counted: Counted, end: int) -> Counted | None:
        """Count some more lines; None if what stands there was given back, or is no line."""
        data = self._read(counted.end, min(_CHUNK, end - counted.end))
        size = data.rfind(b"\n") + 1
        if not size or ZEROS in data:
            return None
        return Counted(counted.end + size, counted.lines + journal.count(data[:size]))

    def note(self, name: bytes, end: int) -> None:
        """Write down how many lines end at or before ``end``: the space before it is about to be freed."""
        self.hole = None
        with contextlib.suppress(OSError):  # the number can't be told then, should it ever be asked for
            lines = self.lines(end)
            if lines is None:
                return
            self.hole = Counted(end, lines)
            descriptor = files.open_or_create(self._path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, b"%s %020d %020d\n" % (name.hex().encode(), end, lines), 0)
            finally:
                os.close(descriptor)

    def _load(self, name: bytes) -> Counted | None:
        try:
            match = _PATTERN.match(files.read(self._path, _SIZE))
        except (OSError, ValueError):
            return None
        if match is None or match[1] != name.hex().encode():
            return None
        return Counted(int(match[2]), int(match[3]))


def punch(descriptor: int, offset: int, size: int) -> bool:
    """Free a range of a file (fallocate(2)); False where that can't be done."""
    import ctypes  # late: few journals grow so long

    try:
        libc = ctypes.CDLL(None)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        return bool(libc.fallocate(descriptor, _PUNCH_HOLE, offset, size) == 0)
    except (OSError, AttributeError):
        return False
