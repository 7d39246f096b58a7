"""The wire: datagrams, their cipher and MAC, and the columnar body. Standard library only. See docs/wire.md.

A datagram is ``header | content | MAC``, at most `MAX_DATAGRAM` bytes, all numbers little-endian. Only DATA
has a content: a body of rows in clear, every other body encrypted. So an answer is never longer than its
question. The MAC covers header and content under the run's own key; the kind in the header names the
direction, so that nothing can be reflected. Every DATA datagram names the half-open byte range of the journal
that it covers and can be decoded alone. Pure, but for the nonces.

The algorithms stand in `hpctrack.stream.wire.ciphers`, and nowhere else.
"""

from __future__ import annotations

import itertools
import json
import os
import struct

# Not hmac: it loads OpenSSL into every relay.
from _operator import _compare_digest
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import errors
from hpctrack.stream.wire import ciphers, journal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_DATAGRAM = 1400
VERSION = 1
_MAGIC = b"HT"

# Kinds of datagrams. The odd ones go from relay to collector, the even ones back.
DATA = 1
ACK = 2
PING = 3
PONG = 4
HELD = 6

_HEADER = struct.Struct("<2sBB16siHHH8sQQI")
HEADER_SIZE = _HEADER.size
MAC_SIZE = ciphers.MAC_SIZE
NONCE_SIZE = 16
run_key = ciphers.run_key
#: What fits whether or not it is encrypted.
MAX_BODY = MAX_DATAGRAM - HEADER_SIZE - 1 - NONCE_SIZE - MAC_SIZE
#: A row or message may travel in this many parts; what needs more is counted as torn by the relay.
MAX_PARTS = 1024
#: Rows, messages and other blocks in one body: to cut it into lines again and again costs little.
MAX_LINES = 1024

# How the content of DATA holds its body: the first byte.
_CLEAR = b"\0"  # the body
_SHAKE_128 = b"\1"  # nonce, encrypted body
#: Bytes of such a datagram at least.
_LEAST = {
    _CLEAR[0]: HEADER_SIZE + 1 + MAC_SIZE,
    _SHAKE_128[0]: HEADER_SIZE + 1 + NONCE_SIZE + MAC_SIZE,
}

# Kinds of blocks in the body of a DATA datagram: kind (1 byte), length of the rest (4 bytes), the rest.
ROWS = 1
MESSAGE = 2
TORN = 3
GAP = 4
_BLOCK = struct.Struct("<BI")
_TORN = struct.Struct("<BII")
_GAP = struct.Struct("<BIQ")

# Head of a block of rows: rows, modes of steps, progress and times, bytes of the column table: how often
# 65,536, and the rest.
_ROWS = struct.Struct("<HBBBBH")
# Head of an entry of the column table: type, presence, bytes of the name, which follows.
_COLUMN = struct.Struct("<BBH")

# How a block of rows holds its steps, progress and times.
ABSENT = 0
RAW = 1  # a value for each row
SOME = 2  # presence bitmap, then the values of the rows that have one
AFFINE = 3  # steps only: first, stride
DELTAS = 4  # times only: first in microseconds, then unsigned 32-bit microseconds after it

# Presence of a column's values.
EVERY = 0
BITMAP = 1

# Types of a column's values.
FLOAT64 = 1
INT64 = 2
BOOL = 3
JSON = 4  # strings, and integers beyond 64 bits: lengths (4 bytes each), then the UTF-8 texts
_KINDS = {"d": FLOAT64, "q": INT64, "?": BOOL, "s": JSON}
_WIDTH = {"d": 8, "q": 8, "?": 1, "s": 4}
_CLOSE = 4294.0  # seconds: their microseconds fit into 32 bits
_ANY = 1 << 62
_INT64 = range(-(1 << 63), 1 << 63)


class Header(NamedTuple):
    """Header of a datagram.

    For DATA, ``start`` and ``end`` are the range of the journal; a range that needs more than one datagram
    travels as ``parts`` slices of its body, numbered by ``part``. For ACK and PONG, ``start`` is the
    committed watermark, for HELD the end of what has arrived without a gap; ``end`` is the credit: up to
    which offset the collector is willing to take more. ``echo`` is the sender's token, given back unchanged.
    """

    kind: int
    submission: bytes  # 16 bytes, a UUID
    task: int
    attempt: int
    journal: bytes  # 8 bytes
    start: int
    end: int
    echo: int = 0
    part: int = 0
    parts: int = 1


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "little") ^ int.from_bytes(right, "little")).to_bytes(len(left), "little")


def contents(key: bytes, body: bytes) -> list[bytes]:
    """Return what DATA carries of a body: one content, or one for each part that it needs.

    To be made once for what is sent several times.
    """
    pieces = [body[i : i + MAX_BODY] for i in range(0, len(body), MAX_BODY)] or [b""]
    public = _is_public(body)
    return [_CLEAR + piece if public else _conceal(key, piece) for piece in pieces]


def _is_public(body: bytes) -> bool:
    """Whether a body has nothing but metrics, which may cross the network in clear."""
    position, size = 0, len(body)
    while position + _BLOCK.size <= size:
        kind, length = _BLOCK.unpack_from(body, position)
        if kind not in (ROWS, TORN):
            return False
        position += _BLOCK.size + length
    return position == size


def _conceal(key: bytes, piece: bytes) -> bytes:
    nonce = os.urandom(NONCE_SIZE)
    return _SHAKE_128 + nonce + _xor(piece, ciphers.keystream(key, nonce, len(piece)))


def seal(key: bytes, header: Header, body: bytes = b"") -> bytes:
    """Return the datagram. ``body`` is for DATA only and must fit: at most `MAX_BODY` bytes."""
    if header.kind != DATA:
        return sign(key, header, b"")
    return sign(key, header, contents(key, body)[0])


def sign(key: bytes, header: Header, content: bytes) -> bytes:
    """Return the datagram with one of the `contents`, or none."""
    head = _HEADER.pack(
        _MAGIC,
        VERSION,
        header.kind,
        header.submission,
        header.task,
        header.attempt,
        header.part,
        header.parts,
        header.journal,
        header.start,
        header.end,
        header.echo,
    )
    content = head + content
    return content + ciphers.mac(key, content)


def peek(datagram: bytes) -> Header:
    """Read the header of a datagram that is not verified yet: good for finding its key, for nothing else.

    Raises `errors.WireError` for what can't be a datagram of ours.
    """
    if not HEADER_SIZE + MAC_SIZE <= len(datagram) <= MAX_DATAGRAM:
        raise errors.WireError("wrong size")
    magic, version, kind, submission, task, attempt, part, parts, name, start, end, echo = (
        _HEADER.unpack_from(datagram)
    )
    if magic != _MAGIC:
        raise errors.WireError("wrong magic")
    if version != VERSION:
        raise errors.WireError("wrong version")
    if part >= parts or parts > MAX_PARTS:
        raise errors.WireError("wrong part")
    if kind == DATA and not start < end < 1 << 63:
        raise errors.WireError("wrong range")
    if kind == DATA and len(datagram) < _LEAST.get(datagram[HEADER_SIZE], MAX_DATAGRAM + 1):
        raise errors.WireError("wrong cipher")
    return Header(kind, submission, task, attempt, name, start, end, echo, part, parts)


def verified(key: bytes, datagram: bytes) -> bool:
    """Whether the datagram's MAC is right, compared in constant time."""
    return _compare_digest(ciphers.mac(key, datagram[:-MAC_SIZE]), datagram[-MAC_SIZE:])


def body(key: bytes, datagram: bytes) -> bytes:
    """Return the body of a DATA datagram that `peek` took and that is `verified`, or its part of one."""
    if datagram[HEADER_SIZE] == _CLEAR[0]:
        return datagram[HEADER_SIZE + 1 : -MAC_SIZE]
    begin = HEADER_SIZE + 1 + NONCE_SIZE
    hidden = datagram[begin:-MAC_SIZE]
    return _xor(hidden, ciphers.keystream(key, datagram[HEADER_SIZE + 1 : begin], len(hidden)))


def answer(question: Header, key: bytes, watermark: int, credit: int) -> bytes:
    """Return the acknowledgement of a DATA datagram, or the PONG of a PING."""
    kind = ACK if question.kind == DATA else PONG
    return seal(key, question._replace(kind=kind, start=watermark, end=credit, part=0, parts=1))


def held(question: Header, key: bytes, tail: int, credit: int) -> bytes:
    """Return the answer to a DATA datagram that is kept in memory until ranges before it arrive.

    ``tail`` is the end of what has arrived without a gap, committed or not. It promises nothing.
    """
    return seal(key, question._replace(kind=HELD, start=tail, end=credit, part=0, parts=1))


def pack(lines: Iterable[journal.Line], budget: int = MAX_BODY) -> tuple[bytes, int]:
    """Pack the first lines into one body of at most ``budget`` bytes.

    Returns the body and how many lines it holds: at least one, even if that alone exceeds the budget. A gap
    travels alone.
    """
    blocks: list[bytes] = []
    rows = Rows()
    count, torn, room = 0, 0, budget
    for line in itertools.islice(lines, MAX_LINES):
        if isinstance(line, journal.Row):
            if not rows.append(line, room if count else _ANY):
                break
        elif isinstance(line, journal.Torn):
            room -= 0 if torn else _TORN.size
            if rows.size() > room and count:
                break
            torn += 1
        elif isinstance(line, journal.Gap):
            if not count:
                return _GAP.pack(GAP, 8, line.lines), 1
            break
        else:
            message = _encode_message(line)
            room -= rows.size() + len(message)
            if room < 0 and count:
                break
            blocks += (rows.encode(), message)
            rows = Rows()
        count += 1
    blocks.append(rows.encode())
    if torn:
        blocks.append(_TORN.pack(TORN, 4, torn))
    return b"".join(blocks), count


def _encode_message(line: journal.Message) -> bytes:
    kind = line.kind.encode()
    content = bytes((len(kind),)) + kind + line.text.encode("utf-8", "replace")
    return _BLOCK.pack(MESSAGE, len(content)) + content


class _Run(NamedTuple):
    """Consecutive rows of a block that have the same metrics and types."""

    shape: journal.Shape
    columns: tuple[tuple[str, int], ...]
    width: int  # bytes of a row's values, without their texts
    first: int
    rows: list[tuple[Any, ...]]


class Rows:
    """A block of rows in the making. Knows its size, so that datagrams are full."""

    def __init__(self) -> None:
        self._rows: list[journal.Row] = []
        self._runs: list[_Run] = []
        self._shape: journal.Shape | None = None  # of the last row; None if its width is not that of others
        self._width = 0
        self._columns: set[tuple[str, int]] = set()
        self._sparse: set[tuple[str, int]] = set()
        self._table = 0  # bytes of the column table
        self._cells = 0  # bytes of the columns' values
        self._affine = True  # the steps are equally spaced
        self._stride = 0
        self._next_step: int | None = None
        self._progressed = False  # a row has progress
        self._times = 0  # bytes of a time: 0, 4 or 8
        self._sure = 0  # how many more rows like the last one surely fit

    def append(self, row: journal.Row, room: int) -> bool:
        """Add a row if the block then takes at most ``room`` bytes; say whether it did.

        After a refusal the block can only be encoded.
        """
        _, step, progress, time, shape, cells = row
        if shape is self._shape:
            self._runs[-1].rows.append(cells)
            self._cells += self._width
        else:
            self._append_other(shape, cells)
            self._sure = 0
        self._rows.append(row)
        if self._affine:
            if step is not None and step == self._next_step:
                self._next_step = step + self._stride
            else:
                self._space(step)
        if progress is not None and not self._progressed:
            self._progressed, self._sure = True, 0
        if time is None:
            self._times = self._times and 8
        elif self._times < 8:
            first = self._rows[0].time
            self._times = 4 if first is not None and 0 <= time - first < _CLOSE else 8
        self._sure -= 1
        return self._sure >= 0 or self._fits(room)

    def _space(self, step: int | None) -> None:
        """Look at a step that does not follow from the ones before."""
        self._sure = 0
        if step is None or len(self._rows) > 2:
            self._affine = False
        elif len(self._rows) == 2:
            first = self._rows[0].step
            self._stride = step - (first or 0)
            self._affine = first is not None and self._stride in _INT64
            self._next_step = step + self._stride

    def _fits(self, room: int) -> bool:
        """Look at the size of the block; drop the last row if it is too much."""
        size = self.size()
        if size > room:
            self._rows.pop()
            self._runs[-1].rows.pop()
            return False
        if room == _ANY:  # the first row has to go, however long: what follows has not
            self._sure = 0
            return True
        # A row takes at most this: its values, step, progress and time, and bits in the bitmaps.
        self._sure = (room - size) // (self._width + 24 + (len(self._sparse) + 10) // 8) - 1
        return True

    def _append_other(self, shape: journal.Shape, cells: tuple[Any, ...]) -> None:
        """Add the values of a row that differs from the one before, or whose width is its own."""
        if not self._runs or self._runs[-1].shape is not shape:
            self._open_run(shape)
        self._width = self._runs[-1].width
        self._shape = shape
        if "s" in shape.codes:
            cells = tuple(map(_encode_cell, shape.codes, cells))
            self._width += sum(len(cell) for cell in cells if type(cell) is bytes)
            self._shape = None
        self._runs[-1].rows.append(cells)
        self._cells += self._width

    def _open_run(self, shape: journal.Shape) -> None:
        columns = tuple(zip(shape.names, map(_KINDS.__getitem__, shape.codes), strict=True))
        fresh = [column for column in columns if column not in self._columns]
        self._table += sum(_COLUMN.size + len(name.encode("utf-8", "replace")) for name, _ in fresh)
        if self._runs:
            self._sparse.update(self._columns.difference(columns), fresh)
        self._columns.update(fresh)
        width = sum(_WIDTH[code] for code in shape.codes)
        self._runs.append(_Run(shape, columns, width, len(self._rows), []))

    def size(self) -> int:
        """Return the bytes of the encoded block: exact, but a bound if only some rows have a step or time."""
        count = len(self._rows)
        if not count:
            return 0
        bitmap = (count + 7) >> 3
        size = _BLOCK.size + _ROWS.size + self._table + self._cells + bitmap * len(self._sparse)
        size += 16 if self._affine else 8 * count + bitmap
        if self._progressed:
            size += 8 * count + bitmap
        return size + (0, 8 + 4 * count, 8 * count + bitmap)[self._times >> 2]

    def encode(self) -> bytes:
        """Return the block; nothing without rows. The columns of floats that every row has come first."""
        count = len(self._rows)
        if not count:
            return b""
        gathered: dict[tuple[str, int], tuple[int, list[Any]]] = {}
        for run in self._runs:
            bits = ((1 << len(run.rows)) - 1) << run.first
            for column, cells in zip(run.columns, zip(*run.rows, strict=True), strict=False):
                before, values = gathered.get(column, (0, []))
                gathered[column] = before | bits, [*values, *cells]
        every = (1 << count) - 1
        table, data = [], []
        for (name, kind), (bits, values) in sorted(
            gathered.items(), key=lambda item: (item[0][1] != FLOAT64, item[1][0] != every)
        ):
            encoded = name.encode("utf-8", "replace")
            table.append(_COLUMN.pack(kind, EVERY if bits == every else BITMAP, len(encoded)) + encoded)
            if bits != every:
                data.append(bits.to_bytes((count + 7) >> 3, "little"))
            data.append(_encode_values(kind, values))
        names = b"".join(table)
        steps, step_data = _encode_steps([row.step for row in self._rows])
        progress, progress_data = _encode_optional("d", [row.progress for row in self._rows])
        times, time_data = _encode_times([row.time for row in self._rows])
        head = _ROWS.pack(count, steps, progress, times, *divmod(len(names), 1 << 16))
        content = b"".join((head, names, step_data, progress_data, time_data, *data))
        return _BLOCK.pack(ROWS, len(content)) + content


def _encode_optional(typecode: str, values: Sequence[float | None]) -> tuple[int, bytes]:
    present = [value for value in values if value is not None]
    if not present:
        return ABSENT, b""
    data = array(typecode, present).tobytes()
    if len(present) == len(values):
        return RAW, data
    bits = sum(1 << index for index, value in enumerate(values) if value is not None)
    return SOME, bits.to_bytes((len(values) + 7) >> 3, "little") + data


def _encode_steps(steps: Sequence[int | None]) -> tuple[int, bytes]:
    first = steps[0]
    if first is not None and None not in steps:
        stride = (steps[1] or 0) - first if len(steps) > 1 else 0
        # A stride of zero takes part: several rows of one step.
        if stride in _INT64 and steps == [first + i * stride for i in range(len(steps))]:
            return AFFINE, struct.pack("<qq", first, stride)
    return _encode_optional("q", steps)


def _encode_times(times: Sequence[float | None]) -> tuple[int, bytes]:
    """Encode times as microseconds since the epoch, clipped to what PostgreSQL's timestamps can hold."""
    present = [time for time in times if time is not None]
    if present and len(present) == len(times) and min(present) > -2e11 and max(present) < 9e12:
        stamps = [round(time * 1e6) for time in present]
        first = stamps[0]
        if min(stamps) == first and max(stamps) - first < 1 << 32:
            return DELTAS, struct.pack("<q", first) + array(
                "I", [stamp - first for stamp in stamps]
            ).tobytes()
    return _encode_optional(
        "q", [None if time is None else round(min(max(time, -2e11), 9e12) * 1e6) for time in times]
    )


def _encode_cell(code: str, cell: Any) -> Any:
    """Return a value as it is, or as the text that stands for it."""
    return json.dumps(cell, ensure_ascii=False).encode("utf-8", "replace") if code == "s" else cell


def _encode_values(kind: int, values: list[Any]) -> bytes:
    if kind == FLOAT64:
        return array("d", values).tobytes()
    if kind == INT64:
        return array("q", values).tobytes()
    if kind == BOOL:
        return bytes(values)
    return array("I", [len(text) for text in values]).tobytes() + b"".join(values)


if array("H", [1]).tobytes() != b"\x01\x00" or array("I").itemsize != 4:  # pragma: no cover
    raise ImportError("hpctrack's wire format is written for little-endian machines")
