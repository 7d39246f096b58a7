"""The collector's side of the wire: bodies of DATA datagrams to arrays. Pure; see docs/wire.md.

A body comes from a node: everything in it is checked, and what it makes us allocate is bounded by its own
size. Arrays are views of the body where they can be.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from hpctrack import errors, model
from hpctrack.script import journal_lines
from hpctrack.store.values import to_json
from hpctrack.stream.wire import layout

if TYPE_CHECKING:
    from collections.abc import Iterator


_MAX_NAME = 4 * journal_lines.MAX_NAME  # bytes of so many characters
_MAX_KIND = 64

#: A journal has no more lines than bytes.
_MOST_LINES = (1 << 48) - 1
#: What decoded things take in CPython: an array 112 bytes and its elements, a string or integer about 64.
_MESSAGE_BYTES, _BLOCK_BYTES, _ROW_BYTES = 256, 1200, 16
_COLUMN_BYTES, _LIST_BYTES, _TEXT_BYTES = 224, 192, 64
#: 0, 1, 2 ...: steps are made from it.
_COUNTED = np.arange(layout.MAX_LINES, dtype=np.int64)
_LAST_FIRST = journal_lines.INT64.stop - (1 << 32)

_Mask: TypeAlias = "model.Mask | None"


class _Shape(NamedTuple):
    """What a column table says; shared by all blocks that have the same one."""

    floats: tuple[str, ...]
    """The columns of 64-bit floats in every row, which come first: one matrix."""
    others: tuple[tuple[str, int, int], ...]
    """Name, type, presence."""
    mixed: bool
    """Whether a name stands for columns of several types."""


class _Reader:
    """A position in one block; never reads beyond its end."""

    __slots__ = ("body", "end", "position")

    def __init__(self, body: bytes, position: int, end: int) -> None:
        self.body, self.position, self.end = body, position, end

    def take(self, size: int) -> int:
        """Step over ``size`` bytes; returns where they begin."""
        start = self.position
        self.position = start + size
        if self.position > self.end:
            _refuse("a block is cut short")
        return start

    def array(self, dtype: str, count: int, size: int) -> np.ndarray:
        return np.frombuffer(self.body, dtype, count, self.take(count * size))

    def bitmap(self, rows: int) -> model.Mask:
        raw = self.array("u1", (rows + 7) // 8, 1)
        bits = np.unpackbits(raw, bitorder="little")
        if bits[rows:].any():
            _refuse("a bitmap names rows that are not there")
        return bits[:rows].view(bool)


def decode(body: bytes) -> model.Contents:
    """Decode the body of one range (its parts joined).

    Raises `errors.WireError`, saying what is wrong, for everything that docs/wire.md does not allow.
    """
    blocks: list[model.Block] = []
    torn = lines = 0
    before: int | None = None
    for kind, start, end in _blocks(body):
        block = _metrics(body, kind, start, end) if kind in (layout.ROWS, layout.SERIES) else None
        lines += 1 if block is None else block.rows
        if lines > layout.MAX_LINES:
            _refuse("too many lines")
        if block is not None:
            blocks.append(block)
        elif kind == layout.MESSAGE:
            blocks.append(_message(body, start, end))
        elif kind == layout.TORN:
            if end - start != 4:
                _refuse("a count of torn lines has a wrong size")
            torn += int.from_bytes(body[start:end], "little")
        elif kind == layout.GAP:
            if end - start != 8:
                _refuse("a count of lines before a gap has a wrong size")
            before = min(int.from_bytes(body[start:end], "little"), _MOST_LINES)
        else:
            blocks.append(model.UnknownBlock(kind, body[start:end]))
    return model.Contents(blocks, torn, before)


def footprint(contents: model.Contents) -> int:
    """Return about how many bytes of memory contents take beside the body that they were decoded from."""
    size = 0
    for block in contents.blocks:
        if isinstance(block, model.NodeMessage):
            size += _MESSAGE_BYTES + 4 * len(block.text)
            continue
        if isinstance(block, model.UnknownBlock):
            size += _MESSAGE_BYTES + len(block.data)
            continue
        size += _BLOCK_BYTES + _ROW_BYTES * block.rows
        for column in block.columns:
            if isinstance(column.values, list):
                size += _LIST_BYTES + block.rows + _TEXT_BYTES * len(column.values)
            else:
                size += _COLUMN_BYTES + block.rows
    return size


def _refuse(why: str) -> NoReturn:
    raise errors.WireError(why)


def _blocks(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, begin and end of each block."""
    position, size = 0, len(body)
    while position < size:
        if position + layout.BLOCK.size > size:
            _refuse("the body is cut short")
        kind, length = layout.BLOCK.unpack_from(body, position)
        start = position + layout.BLOCK.size
        position = start + length
        if position > size:
            _refuse("a block is longer than its body")
        yield kind, start, position


def _message(body: bytes, start: int, end: int) -> model.NodeMessage:
    reader = _Reader(body, start, end)
    length = body[reader.take(1)]
    begin = reader.take(length)
    try:
        kind = body[begin : begin + length].decode("ascii")
        text = body[begin + length : end].decode()
    except UnicodeDecodeError:
        _refuse("a message is not text")
    if not kind.isidentifier() or length > _MAX_KIND:
        _refuse("a message has no proper kind")
    return model.NodeMessage(kind, text)


def _metrics(body: bytes, kind: int, start: int, end: int) -> model.MetricBlock:
    reader = _Reader(body, start, end)
    return _rows(reader, _series(reader) if kind == layout.SERIES else None)


def _series(reader: _Reader) -> str:
    (length,) = layout.SERIES_HEAD.unpack_from(reader.body, reader.take(layout.SERIES_HEAD.size))
    if not 0 < length <= journal_lines.MAX_SERIES:
        _refuse("the name of a series is too long, or missing")
    begin = reader.take(length)
    try:
        return reader.body[begin : begin + length].decode().replace("\0", "\ufffd")
    except UnicodeDecodeError:
        _refuse("a name is not text")


def _rows(reader: _Reader, series: str | None) -> model.MetricBlock:
    body = reader.body
    head = layout.ROWS_HEAD.unpack_from(body, reader.take(layout.ROWS_HEAD.size))
    rows, step_mode, progress_mode, time_mode, high, low = head
    size = (high << 16) + low
    if not 0 < rows <= layout.MAX_LINES:
        _refuse("a block has no rows, or too many")
    begin = reader.take(size)
    # What is that long is one row's alone, and not worth its memory.
    shape = (_shape.__wrapped__ if high else _shape)(body[begin : begin + size])
    steps, stepped = _steps(reader, rows, step_mode)
    progress = _progress(reader, rows, progress_mode)
    times, timed = _times(reader, rows, time_mode)
    count = len(shape.floats)
    matrix = reader.array("<f8", count * rows, 8).reshape(count, rows)
    columns = [_column(reader, rows, *entry) for entry in shape.others]
    if reader.position != reader.end:
        _refuse("a block is longer than its rows")
    if shape.mixed:
        _check_disjoint(columns, shape.floats)
    return model.MetricBlock(
        rows, steps, stepped, progress, times, timed, shape.floats, matrix, tuple(columns), series
    )


@functools.lru_cache(maxsize=4096)
def _shape(table: bytes) -> _Shape:
    """Parse a column table. Relays send the same ones again and again."""
    floats: list[str] = []
    others: list[tuple[str, int, int]] = []
    reader = _Reader(table, 0, len(table))
    while reader.position < len(table):
        name, kind, presence = _entry(reader)
        if kind == layout.FLOAT64 and presence == layout.EVERY and not others:
            floats.append(name)
        else:
            others.append((name, kind, presence))
    typed = {(name, layout.FLOAT64) for name in floats} | {(name, kind) for name, kind, _ in others}
    if len(typed) != len(floats) + len(others):
        _refuse("a column stands twice")
    return _Shape(tuple(floats), tuple(others), mixed=len({name for name, _ in typed}) < len(typed))


def _entry(reader: _Reader) -> tuple[str, int, int]:
    """Read an entry of a column table: name, type, presence."""
    kind, presence, length = layout.COLUMN_HEAD.unpack_from(reader.body, reader.take(layout.COLUMN_HEAD.size))
    begin = reader.take(length)
    if not layout.FLOAT64 <= kind <= layout.VALUE or presence not in (layout.EVERY, layout.BITMAP):
        _refuse("a column has an unknown type")
    if length > _MAX_NAME:
        _refuse("a name is too long")
    try:
        # PostgreSQL has no NUL in its texts; a metric is not lost to its name.
        return reader.body[begin : begin + length].decode().replace("\0", "\ufffd"), kind, presence
    except UnicodeDecodeError:
        _refuse("a name is not text")


def _steps(reader: _Reader, rows: int, mode: int) -> tuple[np.ndarray | None, _Mask]:
    if mode == layout.AFFINE:
        first, stride = layout.STEPS.unpack_from(reader.body, reader.take(layout.STEPS.size))
        if first + (rows - 1) * stride not in journal_lines.INT64:
            _refuse("steps leave the range of 64 bits")
        return _COUNTED[:rows] * stride + first, None
    return _optional(reader, "<i8", rows, mode)


def _progress(reader: _Reader, rows: int, mode: int) -> np.ndarray | None:
    values, _ = _optional(reader, "<f8", rows, mode)
    if values is None:
        return None
    if np.isnan(values).any():
        _refuse("a progress is not a number")
    return values + 0.0  # -0.0 and 0.0 are one key


def _times(reader: _Reader, rows: int, mode: int) -> tuple[np.ndarray | None, _Mask]:
    if mode != layout.DELTAS:
        return _optional(reader, "<i8", rows, mode)
    (first,) = layout.FIRST_TIME.unpack_from(reader.body, reader.take(layout.FIRST_TIME.size))
    return reader.array("<u4", rows, 4) + np.int64(min(first, _LAST_FIRST)), None


def _optional(reader: _Reader, dtype: str, rows: int, mode: int) -> tuple[np.ndarray | None, _Mask]:
    """Read 8-byte numbers of which some or all rows may have none; those get 0."""
    if mode == layout.ABSENT:
        return None, None
    if mode == layout.RAW:
        return reader.array(dtype, rows, 8), None
    if mode != layout.SOME:
        _refuse("an unknown mode")
    present = reader.bitmap(rows)
    values = np.zeros(rows, dtype)
    values[present] = reader.array(dtype, int(np.count_nonzero(present)), 8)
    return values, present


def _column(reader: _Reader, rows: int, name: str, kind: int, presence: int) -> model.MetricColumn:
    present = reader.bitmap(rows) if presence == layout.BITMAP else None
    count = rows if present is None else int(np.count_nonzero(present))
    if kind == layout.FLOAT64:
        return model.MetricColumn(name, present, reader.array("<f8", count, 8))
    if kind == layout.INT64:
        return model.MetricColumn(name, present, reader.array("<i8", count, 8))
    if kind == layout.BOOL:
        flags = reader.array("u1", count, 1)
        if count and flags.max() > 1:
            _refuse("a boolean is neither 0 nor 1")
        return model.MetricColumn(name, present, flags.view(bool))
    read = _value if kind == layout.VALUE else _text
    return model.MetricColumn(name, present, list(map(read, _texts(reader, count))))


def _texts(reader: _Reader, count: int) -> Iterator[bytes]:
    for length in reader.array("<u4", count, 4).tolist():
        begin = reader.take(length)
        yield reader.body[begin : begin + length]


def _text(text: bytes) -> str | int:
    value = _loads(text)
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        _refuse("a value is neither a string nor an integer")
    return value


def _value(text: bytes) -> str:
    if len(text) > journal_lines.MAX_JSON:
        _refuse("a value is too long")
    value = _loads(text)
    if not isinstance(value, (list, dict)):
        _refuse("a value is neither a list nor an object")
    return journal_lines.Json(to_json(value))


def _loads(text: bytes) -> Any:
    try:
        return json.loads(text.decode(), strict=False)
    except (ValueError, RecursionError):
        _refuse("a value is not JSON")


def _check_disjoint(columns: list[model.MetricColumn], floats: tuple[str, ...]) -> None:
    """Refuse rows with two values of one name."""
    seen: dict[str, model.Mask] = {}
    for column in columns:
        taken = seen.get(column.name)
        if column.name in floats or (
            taken is not None and (column.present is None or bool((taken & column.present).any()))
        ):
            _refuse("a row has two values of one name")
        present = column.present
        if present is None:
            present = np.ones(len(column.values), dtype=bool)
        seen[column.name] = present if taken is None else taken | present
