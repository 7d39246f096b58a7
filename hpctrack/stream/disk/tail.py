"""Journals on disk: `find` and `Watch` find them, `Tail` reads one as it grows and frees acknowledged space.

If a journal can't be opened or read, `Tail.trouble` says why, and each look tries again: nothing is concluded
from bytes that could not be seen.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.script import journal_lines
from hpctrack.stream.disk import holes, marks, opened
from hpctrack.stream.wire import journal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hpctrack.stream.wire.doubts import Doubts

_NAME = re.compile(r"([0-9a-f]{16})\.([a-z]+)\.(?:journal|([0-9]{1,18})(?:\.([0-9]{1,18}))?\.part)\Z")
_CHUNK = 1 << 16
#: Acknowledged bytes after which their space is freed.
_PUNCH = 1 << 20
_PAGE = 4096
#: Nanoseconds within which a folder may change without another time of change.
_SETTLED = 2_000_000_000
#: Bytes before the offset that are compared at each read: if they differ, the journal was overwritten.
_SEAM = 64
#: The kind of journals that shells append to.
SHELL = "shell"
_REPLACED = "another file has its name"
_IRREGULAR = "This is no regular file: move it away"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class File(NamedTuple):
    """A file that holds a journal, or the part of it from offset ``base`` on."""

    path: str
    journal: bytes  # 8 bytes
    kind: str
    base: int
    whole: bool
    #: How many lines end at or before ``base``; None: not known.
    lines: int | None = None


def parse_name(path: str) -> File | None:
    """Return the journal's file that a path names; None for other files."""
    match = _NAME.match(os.path.basename(path))
    if match is None:
        return None
    name, kind, base, lines = match.groups()
    known = None if lines is None else int(lines)
    return File(path, bytes.fromhex(name), kind, int(base or 0), base is None, known)


def part_name(name: bytes, kind: str, base: int, lines: int | None) -> str:
    """Return the name of a file that holds a journal from ``base`` on; `parse_name` reads it."""
    counted = "" if lines is None else f".{lines}"
    return f"{name.hex()}.{kind}.{base}{counted}.part"


def find(folder: str) -> list[File]:
    """Return the files of journals in a folder; none if the folder does not exist.

    Raises OSError if it can't be listed to its end.
    """
    try:
        return [file for file, _ in _scan(folder)]
    except FileNotFoundError:
        return []


def _scan(folder: str) -> list[tuple[File, int]]:
    with os.scandir(folder) as entries:
        files = [(parse_name(entry.path), entry.inode()) for entry in entries]
    return sorted((file, inode) for file, inode in files if file is not None)


class Watch:
    """Notices new journals in a folder; a look at an unchanged folder costs one stat(2)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: dict[str, int] = {}  # paths, and the inodes behind them
        self._changed = -1
        #: Why the last look failed.
        self.trouble: OSError | None = None

    def new(self, now_ns: int) -> list[File]:
        """Return the files that are new since the last look; a new file may have an old one's name.

        ``now_ns``: nanoseconds since the epoch.
        """
        self.trouble = None
        try:
            changed = os.stat(self._folder).st_mtime_ns
            if changed == self._changed:
                return []
            scanned = _scan(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:  # not known: the next look lists it again
            self._changed, self.trouble = -1, error
            return []
        self._changed = changed if changed < now_ns - _SETTLED else -1
        fresh = []
        for file, inode in scanned:
            if self._seen.get(file.path) != inode:
                self._seen[file.path] = inode
                fresh.append(file)
        return fresh


class Tail:
    """Reads the complete lines of one journal, from the files that hold it."""

    def __init__(self, files: Iterable[File], name: bytes | None = None) -> None:
        """``files`` hold the same journal, wholly or in parts; ``name``: its name, if it is known."""
        self.files = sorted(files, key=lambda file: (file.base, not file.whole))
        self.name = name or self.files[0].journal
        self.kind = self.files[0].kind
        #: The bytes before it have been read.
        self.offset = self.files[0].base
        #: The journal's end, when it was last looked at.
        self.end = self.offset
        #: Lines that the writer could not append, and the attempt it belongs to.
        self.lost = 0
        self.attempt = 0
        #: Masks secrets in strings and messages; to be set before the first read.
        self.redactor: journal.Redactor | None = None
        #: Collects values that look like numbers and are none.
        self.doubts: Doubts | None = None
        #: Why the last look or read failed.
        self.trouble: OSError | None = None
        self._opened = {file.path: opened.Opened(file.path) for file in self.files}
        self._ends: dict[str, int] = {}
        self._time: float | None = None
        self._skipping = False
        self._incomplete = -1
        #: The last line has no end and gets none, and the file can't be written to void it.
        self._void = False
        #: The error for a journal that a newer hpctrack wrote.
        self._newer: OSError | None = None
        self._punched = _PAGE
        #: Offset and contents of some bytes before `offset`.
        self._seam = 0, b""
        self._stamp = 0
        self._overwritten = self._zeros = False
        #: Whether it was cut since any process last read it.
        self.was_cut = False
        whole = next((file for file in self.files if file.whole), None)
        self._marks = None if whole is None or whole.kind != SHELL else self._marks_of(whole)
        self._counts = holes.Counts(whole.path, functools.partial(self._bytes, whole)) if whole else None
        self.look()
        self.read_header()
        if name is None and len(self.files) == 1:
            self._find_name(self.files[0])
        if self._counts is not None:
            self._counts.load(self.name)

    def _marks_of(self, file: File) -> marks.Marks:
        return marks.Marks(file.path, lambda offset, size: self._bytes(file, offset, size))

    def _find_name(self, file: File) -> None:
        """Give a journal the next name if it was cut or replaced: PostgreSQL has other lines by the old name.

        A ``>`` of a shell cuts only shell journals, but any file may be removed and written anew.
        """
        if file.whole and parse_name(file.path) == file:
            with contextlib.suppress(OSError):
                self.name, self.was_cut = self._marks_of(file).name(file.journal)

    def begin_anew(self) -> None:
        """Read from the beginning, under the next name: the journal was cut, and now holds other lines."""
        self.name = marks.next_name(self.name)
        self.seek(0)
        if self._counts is not None:
            self._counts.load(self.name)

    def note(self, offset: int) -> None:
        """Remember that it is read up to an offset; to be called before any of that is sent or copied."""
        if self._marks is not None:
            self._marks.note(self.name, offset)

    def close(self) -> None:
        """Close the files."""
        for opened_file in self._opened.values():
            opened_file.close()

    def look(self) -> bool:
        """Look how far the journal has grown; return whether there may be a new line."""
        self.trouble = None
        for file in self.files:
            try:
                status = self._opened[file.path].status()
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, _IRREGULAR, file.path)
                self._take(file, status)
            except OSError as error:
                self._miss(file, error)
        self.end = max(self._ends.values(), default=self.offset)
        if self._newer is not None:
            self.trouble = self._newer
            return False
        return self.end > max(self.offset, self._incomplete)

    def _take(self, file: File, status: os.stat_result) -> None:
        self._ends[file.path] = file.base + status.st_size
        self._time = status.st_mtime
        grown = status.st_size > self.offset and self.kind == SHELL
        if status.st_mtime_ns != self._stamp and (status.st_size == self.offset or grown):
            self._check_seam(self._bytes(file, *self._seam_range(0)))
        self._stamp = status.st_mtime_ns

    def _miss(self, file: File, error: OSError) -> None:
        """Remember that a file could not be seen. If it is gone, the journal ends where it was read to."""
        if isinstance(error, FileNotFoundError):
            self._ends[file.path] = min(self._ends.get(file.path, file.base), max(self.offset, file.base))
        else:
            self.trouble = error
            self._opened[file.path].close()  # the next look opens it again: a server may have come back

    def compare(self, copy: bytes, begin: int) -> bool:
        """Whether the journal still holds a copy's bytes at ``begin``; if not, it was cut. Raises OSError."""
        if self.raw(begin, len(copy)) != copy:
            self._overwritten = True
        return not self._overwritten

    @property
    def shrunk(self) -> bool:
        """Whether the journal was cut or overwritten, as by ``>`` in place of ``>>``."""
        return self._overwritten or (self.end < self.offset and self.files[-1].whole)

    def _seam_range(self, more: int) -> tuple[int, int]:
        """Return offset and size to read so that it covers the seam and ``more`` bytes behind the offset."""
        begin = self._seam[0] if self._seam[1] else self.offset
        return begin, self.offset - begin + more

    def _check_seam(self, data: bytes) -> bool:
        standing, seam = data[: len(self._seam[1])], self._seam[1]
        if standing != seam and standing.strip(b"\0"):  # freed space reads as zeros
            self._overwritten = True
        return not self._overwritten

    def _remember(self, data: bytes, begin: int) -> None:
        """Keep the bytes before the offset, without the header's count of lost lines, which may change."""
        if len(self.files) > 1 or not self.files[0].whole:
            return
        first, last = max(begin, self.offset - _SEAM, journal_lines.HEADER_SIZE), self.offset
        if last - first < _SEAM // 2:
            first, last = begin, min(self.offset, max(begin, journal_lines.LOST_OFFSET))
        self._seam = first, data[first - begin : last - begin]

    def read_header(self) -> None:
        """Read the journal's first line again: the count of lost lines is kept up to date there."""
        first = self.files[0]
        if first.base == 0:
            with contextlib.suppress(OSError):
                data = self._bytes(first, 0, journal_lines.HEADER_SIZE)
                header = journal.parse_header(data)
                if header is not None:
                    self.attempt, _, self.lost = header
                elif (version := journal.version(data)) > journal.VERSION:
                    told = (
                        f"a newer hpctrack wrote it (journal {version}): update hpctrack where this is said"
                    )
                    self.trouble = self._newer = OSError(errno.EPROTONOSUPPORT, told, first.path)

    @property
    def is_blank(self) -> bool:
        """Whether it holds nothing but its header, and no line was lost, so that it may be deleted."""
        try:
            data = self._bytes(self.files[0], 0, journal_lines.HEADER_SIZE + 1)
        except OSError:
            return False
        header = journal.parse_header(data)
        blank = not data or (
            len(data) == journal_lines.HEADER_SIZE and header is not None and not header.lost
        )
        return blank and not self.files[0].base

    def seek(self, offset: int) -> None:
        """Go on reading at an offset, which must be the beginning of a line."""
        self.offset = offset
        self._skipping = self._overwritten = False
        self._incomplete = -1
        self._seam = 0, b""
        if offset and len(self.files) == 1 and self.files[0].whole:
            self._seam = offset - 1, b"\n"

    def read(self) -> list[journal.Line]:
        """Read some more lines; none if no complete line is left, or if they can't be read now."""
        if self._newer is not None:
            return []
        try:
            lines = self._read()
        except OSError as error:
            self.trouble = error
            return []
        if lines:
            self.note(self.offset)
        return lines

    def _read(self) -> list[journal.Line]:
        while self.offset < self.end:
            left = [file for file in self.files if self._ends.get(file.path, 0) > self.offset]
            # Parts come first: space of the whole file may be freed, and the parts hold the same bytes.
            for file in sorted(left, key=lambda file: (max(file.base, self.offset), file.whole)):
                if self.offset < file.base:  # acknowledged and deleted; PostgreSQL is an older dump's now
                    self.seek(file.base)
                    return [self._gap(file.base, file.lines)]
                lines = self._read_some(file)
                if lines:
                    return lines
                if lines is not None:
                    break
            else:
                break
        return []

    def _read_some(self, file: File) -> list[journal.Line] | None:
        """Read a chunk, which may hold no line; None if no complete line is left in this file."""
        begin, size = self._seam_range(_CHUNK)
        read = self._bytes(file, begin, size)
        if not self._check_seam(read):
            return None
        data = read[self.offset - begin :]
        zeros = data.find(holes.ZEROS)
        hole = self._hole() if zeros >= 0 else None
        if hole is not None:
            data = data[: data.rfind(b"\n", 0, zeros) + 1]
            if not data:
                self.seek(hole.end)
                return [self._gap(*hole)]
        elif zeros >= 0:
            self._note_zeros()
        newline = data.rfind(b"\n")
        if newline < 0 and not self._skipping:
            data = self._bytes(file, self.offset, journal_lines.MAX_LINE + 1)
            newline = data.rfind(b"\n")
        if newline < 0:
            return self._read_without_end(data)
        if self._skipping:
            self._skipping = False
            self.offset += data.index(b"\n") + 1
            return [journal.Torn(self.offset)]
        lines = list(journal.parse(data, self.offset, self.redactor, self.doubts))
        if len(data) <= _CHUNK:
            self.offset += newline + 1
            self._remember(read, begin)
        else:
            self.seek(self.offset + newline + 1)
        self._date(lines)
        return lines

    def _read_without_end(self, data: bytes) -> list[journal.Line] | None:
        """Deal with bytes that hold no line's end: a line that is incomplete, or too long."""
        if len(data) > journal_lines.MAX_LINE or self._skipping:
            return self._skip(data)
        if data and self._void:
            self._note_torn(data + journal_lines.CANCEL)
            self.offset += len(data)
            return [journal.Torn(self.offset)]
        self._incomplete = self.end
        return None

    def _skip(self, data: bytes) -> list[journal.Line] | None:
        """Skip a part of a line that is too long to be read; the line counts as torn."""
        if data and not self._skipping:
            self._note_torn(data)
        self._skipping = True
        self._seam = 0, b""
        self.offset += len(data)
        return [] if data else None

    def _date(self, lines: list[journal.Line]) -> None:
        """Give each row without a time the time of the file's last change: it was written about then."""
        for index, line in enumerate(lines):
            if isinstance(line, journal.Row) and line.time is None:
                lines[index] = line._replace(time=self._time)

    def _hole(self) -> holes.Counted | None:
        """Return the hole if it is still to be read: PostgreSQL was restored from an older dump."""
        hole = self._counts.hole if self._counts is not None else None
        return hole if hole is not None and self.offset < hole.end <= self.end else None

    def _note_torn(self, line: bytes) -> None:
        if self.doubts is not None and self.doubts.wants_torn:
            journal.note_torn(self.doubts, line, self.redactor)

    def _note_zeros(self) -> None:
        """Tell once that it is not known how many rows were where there are zeros."""
        if self.doubts is not None and not self._zeros:
            self._zeros = True
            self.doubts.note_gap()

    def _gap(self, end: int, lines: int | None) -> journal.Line:
        if lines is not None:
            return journal.Gap(end, lines)
        if self.doubts is not None:
            self.doubts.note_gap()
        return journal.Torn(end)

    def _bytes(self, file: File, offset: int, size: int) -> bytes:
        return os.pread(self._opened[file.path].descriptor(), size, offset - file.base)

    def raw(self, offset: int, size: int) -> bytes:
        """Return bytes of the journal's first file. Raises OSError."""
        return self._bytes(self.files[0], offset, size)

    def descriptor(self, file: File) -> int:
        """Return the descriptor through which a file of the journal is read. Raises OSError."""
        return self._opened[file.path].descriptor()

    @property
    def is_read(self) -> bool:
        """Whether all bytes that its files hold now have been read."""
        ends = []
        for file in self.files:
            try:
                ends.append(file.base + self._opened[file.path].status().st_size)
            except FileNotFoundError:
                continue
            except OSError as error:
                self.trouble = error
        end = max(ends, default=self.offset)
        cut = end < self.offset and self.files[-1].whole
        return self.trouble is None and not (cut or self.shrunk) and end <= self.offset

    def close_line(self) -> None:
        """Void a last line without an end: its writer is gone, and half a line must not be read."""
        self.look()
        if self._newer is not None:
            return
        last = self.files[-1]
        try:
            if last.whole and self.end and self._bytes(last, self.end - 1, 1) not in (b"\n", b""):
                self._void_line(last)
        except OSError as error:
            self.trouble = error

    def _void_line(self, file: File) -> None:
        try:
            descriptor = self._opened[file.path].open_to_write()
            try:
                os.write(descriptor, journal_lines.CANCEL + b"\n")
            finally:
                os.close(descriptor)
        except OSError:  # a full disk, or one that is only read
            self._void = True

    def give_back(self, watermark: int) -> None:
        """Free the disk space of acknowledged bytes, if the file system can."""
        end = max(0, watermark - marks.BLOCK) // _PAGE * _PAGE
        if end - self._punched < _PUNCH or not self.files[0].whole:
            return
        try:
            descriptor = self._opened[self.files[0].path].open_to_write()
        except OSError:  # another file has its name, or none: there is no space to free
            return
        self._note_hole(end, watermark)
        punched = holes.punch(descriptor, self._punched, end - self._punched)
        os.close(descriptor)
        self._punched = end if punched else 1 << 62

    def _note_hole(self, end: int, watermark: int) -> None:
        """Write down how many lines can't be read again; the last of them ends behind the freed space."""
        if self._counts is not None:
            with contextlib.suppress(OSError):
                data = self.raw(end, watermark - end)
                self._counts.note(self.name, end + data.find(b"\n") + 1)

    def lines_before(self, offset: int) -> int | None:
        """Return how many rows and torn lines end at or before an offset; None if that is not known."""
        with contextlib.suppress(OSError):
            return None if self._counts is None else self._counts.lines(offset)
        return None
