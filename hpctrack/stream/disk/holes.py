"""Holes: the space of acknowledged lines in a journal is freed, and the lines up to its end are counted.

If PostgreSQL is restored from an older dump, freed lines can't be sent again. The number of missing lines is
then the count less the lines that PostgreSQL knows (`hpctrack.store.ingest.progress`). A file beside the
journal, ``<16 hex>.<kind>.hole``, has the journal's name, the offset of the first whole line behind the hole,
and how many lines end at or before it.
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
#: Bytes that are counted at most for one answer; between two holes there are far fewer.
_MAX_COUNTED = 1 << 26
_PATTERN = re.compile(rb"([0-9a-f]{16}) (00[0-9]{18}) (00[0-9]{18})\n")
_SIZE = 16 + 1 + 20 + 1 + 20 + 1
#: No writer writes so many zeros: they are a hole.
ZEROS = bytes(64)


class Counted(NamedTuple):
    """How many rows and torn lines end at or before an offset, which is the end of a line."""

    end: int
    lines: int


class Counts:
    """Counts the lines of a journal from its beginning, up to a requested offset; each line is read once."""

    def __init__(self, path: str, read: Read) -> None:
        """``path`` is the journal's."""
        self._path = path[: -len("journal")] + "hole"
        self._read = read
        self._counted: Counted | None = None
        #: The end of the hole, and the lines up to it.
        self.hole: Counted | None = None

    def load(self, name: bytes) -> None:
        """Load the count of a journal; if the file is about another name, counting begins at 0."""
        self.hole = self._load(name)
        self._counted = self.hole or Counted(0, 0)

    def lines(self, end: int) -> int | None:
        """Return how many lines end at or before an offset, the end of a line; None if that is not known.

        Raises OSError.
        """
        if self._counted is None or not 0 <= end - self._counted.end <= _MAX_COUNTED:
            return None
        while self._counted is not None and self._counted.end < end:
            self._counted = self._next(self._counted, end)
        return None if self._counted is None else self._counted.lines

    def _next(self, counted: Counted, end: int) -> Counted | None:
        """Count some more lines; None at a hole, or if no line ends there."""
        data = self._read(counted.end, min(_CHUNK, end - counted.end))
        size = data.rfind(b"\n") + 1
        if not size or ZEROS in data:
            return None
        return Counted(counted.end + size, counted.lines + journal.count(data[:size]))

    def note(self, name: bytes, end: int) -> None:
        """Write down how many lines end at or before ``end``; to be called before that space is freed."""
        self.hole = None
        with contextlib.suppress(OSError):  # then the number is not known, should it be needed
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
    """Free a range of a file (fallocate(2)); False if the file system can't."""
    import ctypes  # late: few journals grow so long

    try:
        libc = ctypes.CDLL(None)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        return bool(libc.fallocate(descriptor, _PUNCH_HOLE, offset, size) == 0)
    except (OSError, AttributeError):
        return False
