"""The wire: datagrams, their MAC, and the columnar body. Pure; standard library only. See docs/wire.md.

A datagram is ``header | body | MAC``, at most `MAX_DATAGRAM` bytes, all numbers little-endian. The MAC is
keyed BLAKE2b over header and body under the run's own key; the kind in the header names the direction, so
that nothing can be reflected. Every DATA datagram names the half-open byte range of the journal that it
covers and can be decoded alone. An answer is never longer than its question: it has no body.
"""

from __future__ import annotations

import json
import struct

# Not hashlib and hmac: those load OpenSSL into every relay.
from _blake2 import blake2b
from _operator import _compare_digest
from array import array
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.stream import journal

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DATAGRAM = 1400
VERSION = 1
_MAGIC = b"HT"

# Kinds of datagrams. The odd ones go from relay to collector, the even ones back.
DATA = 1
ACK = 2
PING = 3
PONG = 4

_HEADER = struct.Struct("<2sBB16siHHH8sQQI")
HEADER_SIZE = _HEADER.size
MAC_SIZE = 16
MAX_BODY = MAX_DATAGRAM - HEADER_SIZE - MAC_SIZE
#: A row or message may travel in this many parts; what needs more is counted as torn by the relay.
MAX_PARTS = 1024

# Kinds of blocks in the body of a DATA datagram: kind (1 byte), length of the rest (4 bytes), the rest.
ROWS = 1
MESSAGE = 2
TORN = 3
_BLOCK = struct.Struct("<BI")

# Head of a block of rows: rows, modes of steps, progress and times, bytes of the column table.
_ROWS = struct.Struct("<HBBBxH")
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
_TYPES = {float: FLOAT64, int: INT64, bool: BOOL, str: JSON}
_INT64 = range(-(1 << 63), 1 << 63)

TASK_NONE = -1
"""The task of a run that is not an array task."""


class Header(NamedTuple):
    """Header of a datagram.

    For DATA, ``start`` and ``end`` are the range of the journal; a range that needs more than one datagram
    travels as ``parts`` slices of its body, numbered by ``part``. For ACK, ``start`` is the committed
    watermark and ``end`` the credit: up to which offset the collector is willing to hold. ``echo`` is the
    sender's token, given back unchanged. PING and PONG carry no range.
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


def run_key(secret: bytes, task: int) -> bytes:
    """Return the key (32 bytes) of one run, derived from its submission's secret."""
    return blake2b(struct.pack("<i", task), key=secret, digest_size=32, person=b"hpctrack run key").digest()


def seal(key: bytes, header: Header, body: bytes = b"") -> bytes:
    """Return the datagram. ``body`` must fit: at most `MAX_BODY` bytes."""
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
    content = head + body
    return content + blake2b(content, key=key, digest_size=MAC_SIZE).digest()


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
    return Header(kind, submission, task, attempt, name, start, end, echo, part, parts)


def verified(key: bytes, datagram: bytes) -> bool:
    """Whether the datagram's MAC is right, compared in constant time."""
    content, mac = datagram[:-MAC_SIZE], datagram[-MAC_SIZE:]
    return _compare_digest(blake2b(content, key=key, digest_size=MAC_SIZE).digest(), mac)


def body(datagram: bytes) -> bytes:
    """Return the body of a datagram, or of one part of it."""
    return datagram[HEADER_SIZE:-MAC_SIZE]


def answer(question: Header, key: bytes, watermark: int, credit: int) -> bytes:
    """Return the acknowledgement of a DATA datagram, or the PONG of a PING."""
    kind = ACK if question.kind == DATA else PONG
    return seal(key, question._replace(kind=kind, start=watermark, end=credit, part=0, parts=1))


def split(key: bytes, header: Header, content: bytes) -> list[bytes]:
    """Return the datagrams of one body: one, or as many parts as it needs.

    Raises `errors.WireError` for a body that needs more than `MAX_PARTS`.
    """
    slices = [content[i : i + MAX_BODY] for i in range(0, len(content), MAX_BODY)] or [b""]
    if len(slices) > MAX_PARTS:
        raise errors.WireError("too long for the wire")
    return [
        seal(key, header._replace(part=part, parts=len(slices)), piece) for part, piece in enumerate(slices)
    ]


def pack(lines: Sequence[journal.Line], budget: int = MAX_BODY) -> tuple[bytes, int]:
    """Pack the first lines into one body of at most ``budget`` bytes.

    Returns the body and how many lines it holds: at least one, even if that alone exceeds the budget.
    """
    count, size = 0, 0
    columns: set[tuple[str, int]] = set()
    for line in lines:
        size += _line_cost(line, columns)
        if size > budget and count:
            break
        count += 1
    # The estimate is an upper bound but for rare mixtures of many sparse columns.
    content = _encode(lines[:count])
    while len(content) > budget and count > 1:
        count = count * 3 // 4
        content = _encode(lines[:count])
    return content, count


def _line_cost(line: journal.Line, columns: set[tuple[str, int]]) -> int:
    if isinstance(line, journal.Message):
        return _BLOCK.size + 1 + len(line.kind) + len(line.text.encode())
    if isinstance(line, journal.Torn):
        return 0 if columns else _BLOCK.size + 4
    cost = 13 if columns else 64
    for name, value in line.values.items():
        column = (name, _TYPES[type(value)])
        if column not in columns:
            columns.add(column)
            cost += 6 + 16 + len(name.encode("utf-8", "replace"))
        cost += 8 if column[1] != JSON else 6 + 2 * len(str(value).encode("utf-8", "replace"))
    return cost + len(columns) // 8


def _encode(lines: Sequence[journal.Line]) -> bytes:
    """Encode lines as blocks, in their order; torn lines are counted in one block at the end."""
    blocks: list[bytes] = []
    rows: list[journal.Row] = []
    torn = 0
    for line in lines:
        if isinstance(line, journal.Row):
            rows.append(line)
            continue
        if isinstance(line, journal.Torn):
            torn += 1
            continue
        if rows:
            blocks.append(_block(ROWS, encode_rows(rows)))
            rows = []
        kind = line.kind.encode()
        blocks.append(_block(MESSAGE, bytes((len(kind),)) + kind + line.text.encode("utf-8", "replace")))
    if rows:
        blocks.append(_block(ROWS, encode_rows(rows)))
    if torn:
        blocks.append(_block(TORN, struct.pack("<I", torn)))
    return b"".join(blocks)


def _block(kind: int, content: bytes) -> bytes:
    return _BLOCK.pack(kind, len(content)) + content


def encode_rows(rows: Sequence[journal.Row]) -> bytes:
    """Encode rows as columns; the columns that every row has in 64-bit floats come first."""
    steps, step_data = _encode_steps([row.step for row in rows])
    progress, progress_data = _encode_optional("d", [row.progress for row in rows])
    times, time_data = _encode_times([row.time for row in rows])
    columns: dict[tuple[str, int], tuple[list[int], list[journal.Value]]] = {}
    for index, row in enumerate(rows):
        for name, value in row.values.items():
            kind = _TYPES[type(value)]
            if kind == INT64 and value not in _INT64:
                kind = JSON
            column = columns.get((name, kind))
            if column is None:
                column = columns[name, kind] = ([], [])
            column[0].append(index)
            column[1].append(value)
    table, data = [], []
    for (name, kind), (indexes, values) in sorted(
        columns.items(), key=lambda item: (item[0][1] != FLOAT64, len(item[1][0]) != len(rows))
    ):
        encoded = name.encode("utf-8", "replace")
        every = len(indexes) == len(rows)
        table.append(_COLUMN.pack(kind, EVERY if every else BITMAP, len(encoded)) + encoded)
        if not every:
            data.append(_bitmap(indexes, len(rows)))
        data.append(_encode_values(kind, values))
    names = b"".join(table)
    head = _ROWS.pack(len(rows), steps, progress, times, len(names))
    return b"".join((head, names, step_data, progress_data, time_data, *data))


def _bitmap(indexes: Sequence[int], count: int) -> bytes:
    """Return which of ``count`` rows have a value: a bit for each, least significant first."""
    bits = bytearray((count + 7) // 8)
    for index in indexes:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def _encode_optional(typecode: str, values: Sequence[float | None]) -> tuple[int, bytes]:
    indexes = [index for index, value in enumerate(values) if value is not None]
    if not indexes:
        return ABSENT, b""
    present = array(typecode, [value for value in values if value is not None]).tobytes()
    if len(indexes) == len(values):
        return RAW, present
    return SOME, _bitmap(indexes, len(values)) + present


def _encode_steps(steps: list[int | None]) -> tuple[int, bytes]:
    first = steps[0]
    if first is not None and None not in steps:
        stride = (steps[1] or 0) - first if len(steps) > 1 else 0
        # A stride of zero takes part: several rows of one step.
        if stride in _INT64 and steps == [first + i * stride for i in range(len(steps))]:
            return AFFINE, struct.pack("<qq", first, stride)
    return _encode_optional("q", steps)


def _encode_times(times: Sequence[float | None]) -> tuple[int, bytes]:
    """Encode times as microseconds since the epoch, clipped to what PostgreSQL's timestamps can hold."""
    stamps = [None if time is None else round(min(max(time, -2e11), 9e12) * 1e6) for time in times]
    first = stamps[0]
    if first is not None:
        deltas = [stamp - first for stamp in stamps if stamp is not None]
        if len(deltas) == len(stamps) and min(deltas) >= 0 and max(deltas) < 1 << 32:
            return DELTAS, struct.pack("<q", first) + array("I", deltas).tobytes()
    return _encode_optional("q", stamps)


def _encode_values(kind: int, values: Sequence[journal.Value]) -> bytes:
    if kind == FLOAT64:
        return array("d", values).tobytes()  # type: ignore[type-var]
    if kind == INT64:
        return array("q", values).tobytes()  # type: ignore[type-var]
    if kind == BOOL:
        return bytes(values)  # type: ignore[arg-type]
    texts = [json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") for value in values]
    return array("I", [len(text) for text in texts]).tobytes() + b"".join(texts)


if array("H", [1]).tobytes() != b"\x01\x00" or array("I").itemsize != 4:  # pragma: no cover
    raise ImportError("hpctrack's wire format is written for little-endian machines")
