"""Bodies: lines of a journal, packed into blocks of columns. Pure. See docs/wire.md.

`pack` fills one body with the first lines that fit; the caller goes on with those that are left. Rows become
columns in `Rows`, which knows its size before it is encoded. `hpctrack.stream.collector.arrays` reads bodies.
"""

from __future__ import annotations

import itertools
import json
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack.script import journal_lines
from hpctrack.stream.wire import journal, layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_KINDS = {"d": layout.FLOAT64, "q": layout.INT64, "?": layout.BOOL, "s": layout.JSON, "j": layout.VALUE}
_WIDTH = {"d": 8, "q": 8, "?": 1, "s": 4, "j": 4}
_CLOSE = 4294.0  # seconds: their microseconds fit into 32 bits
#: Seconds since the epoch that PostgreSQL's timestamps can hold.
_FIRST_TIME, _LAST_TIME = -2e11, 9e12
_ANY = 1 << 62


def pack(lines: Iterable[journal.Line], budget: int = layout.MAX_BODY) -> tuple[bytes, int]:
    """Pack the first lines into one body of at most ``budget`` bytes.

    Returns the body and how many lines it holds: at least one, even if that alone exceeds the budget. A gap
    travels alone.
    """
    body = _Body(budget)
    rows, room, count = body.rows, body.room, 0
    for line in itertools.islice(lines, layout.MAX_LINES):
        if isinstance(line, journal.Row):
            if line.series != rows.series:
                body.turn_to(line.series)
                rows, room = body.rows, body.room
            if not rows.append(line, room if count else _ANY):
                break
        elif isinstance(line, journal.Gap):
            return (body.encode(), count) if count else (_encode_gap(line), 1)
        elif body.append(line, is_first=not count):
            rows, room = body.rows, body.room
        else:
            break
        count += 1
    return body.encode(), count


class _Body:
    """A body in the making. Lines come in their order; torn ones are only counted.

    Rows since the last message are in one block for each series, and one for those of none.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        """Bytes for `rows`."""
        self.rows = Rows()
        """Those that the next row belongs to."""
        self._others: dict[str | None, Rows] = {}
        self._blocks: list[bytes] = []
        self._torn = 0

    def turn_to(self, series: str | None) -> None:
        """The next row is of this series."""
        self._others[self.rows.series] = self.rows
        self.room -= self.rows.size()
        self.rows = self._others.pop(series) if series in self._others else Rows(series)
        self.room += self.rows.size()

    def append(self, line: journal.Torn | journal.Message, *, is_first: bool) -> bool:
        """Add a line that is no row if there is room for it, or if it is the first; say whether it was added.

        After a refusal the body can only be encoded.
        """
        if isinstance(line, journal.Torn):
            return self._append_torn(is_first=is_first)
        message = _encode_message(line)
        room = self.room - self.rows.size() - len(message)
        if room < 0 and not is_first:
            return False
        self._blocks += (*self._encode_rows(), message)
        self.room, self.rows, self._others = room, Rows(), {}
        return True

    def _append_torn(self, *, is_first: bool) -> bool:
        self.room -= 0 if self._torn else layout.TORN_BLOCK.size
        if self.rows.size() > self.room and not is_first:
            return False
        self._torn += 1
        return True

    def encode(self) -> bytes:
        """Return the body."""
        torn = layout.TORN_BLOCK.pack(layout.TORN, 4, self._torn) if self._torn else b""
        return b"".join((*self._blocks, *self._encode_rows(), torn))

    def _encode_rows(self) -> list[bytes]:
        return [rows.encode() for rows in (*self._others.values(), self.rows)]


def _encode_gap(line: journal.Gap) -> bytes:
    return layout.GAP_BLOCK.pack(layout.GAP, 8, line.lines)


def _encode_message(line: journal.Message) -> bytes:
    kind = line.kind.encode()
    content = bytes((len(kind),)) + kind + line.text.encode("utf-8", "replace")
    return layout.BLOCK.pack(layout.MESSAGE, len(content)) + content


class _Run(NamedTuple):
    """Consecutive rows of a block that have the same metrics and types."""

    shape: journal.Shape
    columns: tuple[tuple[str, int], ...]
    width: int  # bytes of a row's values, without their texts
    first: int
    rows: list[tuple[Any, ...]]


class Rows:
    """A block of rows in the making. Knows its size, so that datagrams are full."""

    def __init__(self, series: str | None = None) -> None:
        self.series = series
        self._head = b"" if series is None else _encode_series(series)
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
        self._first_time = float("nan")  # of the first row; nan, near which no time is, if that has none
        self._sure = 0  # how many more rows like the last one surely fit

    def append(self, row: journal.Row, room: int) -> bool:
        """Add a row if the block then takes at most ``room`` bytes; say whether it did.

        After a refusal the block can only be encoded.
        """
        _, step, progress, time, shape, cells, _ = row
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
        elif not 0 <= time - self._first_time < _CLOSE:
            self._note_time(time)
        self._sure -= 1
        return self._sure >= 0 or self._fits(room)

    def _note_time(self, time: float) -> None:
        """Look at the time of the first row, or one that is not close to it."""
        if len(self._rows) == 1:
            self._first_time, self._times = time, 4
        else:
            self._times = 8

    def _space(self, step: int | None) -> None:
        """Look at a step that does not follow from the ones before."""
        self._sure = 0
        if step is None or len(self._rows) > 2:
            self._affine = False
        elif len(self._rows) == 2:
            first = self._rows[0].step
            self._stride = step - (first or 0)
            self._affine = first is not None and self._stride in journal_lines.INT64
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
        if "s" in shape.codes or "j" in shape.codes:
            cells = tuple(map(_encode_cell, shape.codes, cells))
            self._width += sum(len(cell) for cell in cells if type(cell) is bytes)
            self._shape = None
        self._runs[-1].rows.append(cells)
        self._cells += self._width

    def _open_run(self, shape: journal.Shape) -> None:
        columns = tuple(zip(shape.names, map(_KINDS.__getitem__, shape.codes), strict=True))
        fresh = [column for column in columns if column not in self._columns]
        self._table += sum(
            layout.COLUMN_HEAD.size + len(name.encode("utf-8", "replace")) for name, _ in fresh
        )
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
        size = layout.BLOCK.size + len(self._head) + layout.ROWS_HEAD.size
        size += self._table + self._cells + bitmap * len(self._sparse)
        size += 16 if self._affine else 8 * count + bitmap
        if self._progressed:
            size += 8 * count + bitmap
        return size + (0, 8 + 4 * count, 8 * count + bitmap)[self._times >> 2]

    def encode(self) -> bytes:
        """Return the block; nothing without rows."""
        count = len(self._rows)
        if not count:
            return b""
        table, data = self._encode_columns(count)
        steps, step_data = _encode_steps([row.step for row in self._rows])
        progress, progress_data = _encode_optional("d", [row.progress for row in self._rows])
        times, time_data = _encode_times([row.time for row in self._rows])
        head = layout.ROWS_HEAD.pack(count, steps, progress, times, *divmod(len(table), 1 << 16))
        content = b"".join((self._head, head, table, step_data, progress_data, time_data, *data))
        kind = layout.ROWS if self.series is None else layout.SERIES
        return layout.BLOCK.pack(kind, len(content)) + content

    def _encode_columns(self, count: int) -> tuple[bytes, list[bytes]]:
        """Return the column table and the columns' data; the floats that every row has come first."""
        every = (1 << count) - 1
        order = sorted(
            self._gather().items(), key=lambda item: (item[0][1] != layout.FLOAT64, item[1][0] != every)
        )
        table: list[bytes] = []
        data: list[bytes] = []
        for (name, kind), (bits, values) in order:
            encoded = name.encode("utf-8", "replace")
            presence = layout.EVERY if bits == every else layout.BITMAP
            table += (layout.COLUMN_HEAD.pack(kind, presence, len(encoded)), encoded)
            if bits != every:
                data.append(_encode_bitmap(bits, count))
            data.append(_encode_values(kind, values))
        return b"".join(table), data

    def _gather(self) -> dict[tuple[str, int], tuple[int, list[Any]]]:
        """Return by column which rows have a value, a bit for each, and the values."""
        gathered: dict[tuple[str, int], tuple[int, list[Any]]] = {}
        for run in self._runs:
            bits = ((1 << len(run.rows)) - 1) << run.first
            for column, cells in zip(run.columns, zip(*run.rows, strict=True), strict=False):
                before, values = gathered.get(column, (0, []))
                gathered[column] = before | bits, [*values, *cells]
        return gathered


def _encode_series(name: str) -> bytes:
    encoded = name.encode("utf-8", "replace")
    return layout.SERIES_HEAD.pack(len(encoded)) + encoded


def _encode_bitmap(bits: int, count: int) -> bytes:
    return bits.to_bytes((count + 7) >> 3, "little")


def _encode_optional(typecode: str, values: Sequence[float | None]) -> tuple[int, bytes]:
    present = [value for value in values if value is not None]
    if not present:
        return layout.ABSENT, b""
    data = array(typecode, present).tobytes()
    if len(present) == len(values):
        return layout.RAW, data
    bits = sum(1 << index for index, value in enumerate(values) if value is not None)
    return layout.SOME, _encode_bitmap(bits, len(values)) + data


def _encode_steps(steps: Sequence[int | None]) -> tuple[int, bytes]:
    first = steps[0]
    if first is not None and None not in steps:
        stride = (steps[1] or 0) - first if len(steps) > 1 else 0
        # A stride of zero takes part: several rows of one step.
        if stride in journal_lines.INT64 and steps == [first + i * stride for i in range(len(steps))]:
            return layout.AFFINE, layout.STEPS.pack(first, stride)
    return _encode_optional("q", steps)


def _encode_times(times: Sequence[float | None]) -> tuple[int, bytes]:
    stamps = _microseconds(times)
    first = stamps[0]
    if first is not None and None not in stamps:
        deltas = [(stamp or 0) - first for stamp in stamps]
        if min(deltas) == 0 and max(deltas) < 1 << 32:
            return layout.DELTAS, layout.FIRST_TIME.pack(first) + array("I", deltas).tobytes()
    return _encode_optional("q", stamps)


def _microseconds(times: Sequence[float | None]) -> list[int | None]:
    """Return times as microseconds since the epoch, clipped to what PostgreSQL's timestamps can hold."""
    present = [time for time in times if time is not None]
    if len(present) == len(times) and min(present) > _FIRST_TIME and max(present) < _LAST_TIME:
        return [round(time * 1e6) for time in present]
    return [None if time is None else round(min(max(time, _FIRST_TIME), _LAST_TIME) * 1e6) for time in times]


def _encode_cell(code: str, cell: Any) -> Any:
    """Return a value as it is, or as the text that stands for it."""
    if code == "j":
        return str.encode(cell, "utf-8", "replace")
    return json.dumps(cell, ensure_ascii=False).encode("utf-8", "replace") if code == "s" else cell


def _encode_values(kind: int, values: list[Any]) -> bytes:
    if kind == layout.FLOAT64:
        return array("d", values).tobytes()
    if kind == layout.INT64:
        return array("q", values).tobytes()
    if kind == layout.BOOL:
        return bytes(values)
    return array("I", [len(text) for text in values]).tobytes() + b"".join(values)


if array("H", [1]).tobytes() != b"\x01\x00" or array("I").itemsize != 4:  # pragma: no cover
    raise ImportError("hpctrack's wire format is written for little-endian machines")
