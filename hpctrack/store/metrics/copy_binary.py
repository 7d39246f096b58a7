"""A table of rows as PostgreSQL's COPY BINARY takes it (manual, "COPY", "Binary Format"). Pure.

A row is the number of its fields, then for each its length (-1: NULL) and its bytes, all big-endian. Fields
of fixed size are laid out for all rows at once.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpctrack.store import values
from hpctrack.store.metrics import column_types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack import model
    from hpctrack.store.ingest.rows import Declared, Table

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_JSONB_VERSION = b"\x01"


class Field(NamedTuple):
    """A field of fixed size in all rows."""

    name: str
    dtype: str
    values: model.Array
    present: model.Mask | None
    """None: no row has NULL."""


class _Fields(NamedTuple):
    """All fields of a row, in their order."""

    every: list[Field]
    """Of fixed size, in all rows; behind them the matrix, if it has no gaps."""
    dense: tuple[str, ...]
    some: list[Field]
    """Of fixed size, NULL in some rows; behind them the matrix, if it has gaps."""
    sparse: tuple[str, ...]
    varying: list[Declared]
    """Without a fixed size; behind them ``extra``, if any row has one."""
    extra: tuple[str, ...]

    @classmethod
    def of(cls, table: Table, journal_column: str) -> _Fields:
        fixed = _fixed(table, journal_column)
        return cls(
            every=[field for field in fixed if field.present is None],
            dense=table.names if table.present is None else (),
            some=[field for field in fixed if field.present is not None],
            sparse=() if table.present is None else table.names,
            varying=[column for column in table.declared if column.values.dtype == object],
            extra=() if table.extra is None else ("extra",),
        )

    def names(self) -> tuple[str, ...]:
        every, some = ((field.name for field in fields) for fields in (self.every, self.some))
        varying = (column.target.name for column in self.varying)
        return (*every, *self.dense, *some, *self.sparse, *varying, *self.extra)


class _Laid(NamedTuple):
    """The fields of fixed size of all rows, one row behind the other."""

    data: bytes
    ends: Sequence[int]
    """Where each row ends."""


def encode(table: Table, *, journal_column: str = "") -> tuple[tuple[str, ...], bytes]:
    """Return the columns, in their order, and the data of a COPY of all rows.

    ``journal_column`` adds a column of this name, of which journal a row is, for the temporary table.
    """
    fields = _Fields.of(table, journal_column)
    names = fields.names()
    laid = _lay_out(table, fields.every, len(names), floats=len(fields.dense))
    if fields.some or fields.sparse:
        laid = _with_nulls(table, laid, fields.some)
    data = _join(table, laid, fields.varying) if fields.varying or fields.extra else laid.data
    return names, b"".join((HEADER, data, TRAILER))


def _fixed(table: Table, journal_column: str) -> list[Field]:
    """Return the fields of fixed size, but for the matrix."""
    times = column_types.of(column_types.TIMESTAMPTZ).to_copy(table.time)
    fields = [
        Field("run_id", ">i8", table.run, None),
        Field("step", ">i8", table.step, None),
        Field("progress", ">f8", table.progress, None),
        Field("attempt", ">i4", table.attempt, None),
        Field("time", ">i8", times, _mask(table.timed)),
    ]
    if table.numbered.any():
        fields.append(Field("numbered", ">i1", table.numbered, _mask(table.numbered)))
    if journal_column:
        fields.append(Field(journal_column, ">i4", table.journal_index, None))
    for column in table.declared:
        type_ = column_types.of(column.target.type)
        if type_.dtype is not None:
            array, present = type_.to_copy(column.values), _mask(column.present)
            fields.append(Field(column.target.name, type_.dtype, array, present))
    return fields


def _mask(present: model.Mask) -> model.Mask | None:
    return None if present.all() else present


def _lay_out(table: Table, fixed: list[Field], fields: int, floats: int) -> _Laid:
    """Lay out what no row has NULL in: some fields, and the matrix if it has ``floats`` columns."""
    layout = np.dtype(
        [("fields", ">i2")]
        + [
            (f"{part}{i}", dtype)
            for i, f in enumerate(fixed)
            for part, dtype in (("n", ">i4"), ("v", f.dtype))
        ]
        + [("floats", [("n", ">i4"), ("v", ">f8")], (floats,))]
    )
    out = np.empty(len(table), layout)
    out["fields"] = fields
    for index, field in enumerate(fixed):
        out[f"n{index}"] = layout[f"v{index}"].itemsize
        out[f"v{index}"] = field.values
    if floats:
        out["floats"]["n"] = 8
        out["floats"]["v"] = table.floats.T
    size = layout.itemsize
    return _Laid(out.tobytes(), range(size, size * len(table) + 1, size))


def _with_nulls(table: Table, laid: _Laid, some: list[Field]) -> _Laid:
    """Append fields that some rows have NULL in: ``some``, and the matrix if it has gaps.

    Begins with all bits set, which is NULL in every field; then the values that are there move in.
    """
    masks = _masks(table, some)
    rows, fields = np.divmod(np.flatnonzero(masks), masks.shape[1])
    widths = np.full(masks.shape[1], 8)
    widths[: len(some)] = [np.dtype(field.dtype).itemsize for field in some]
    width = widths[fields]
    value_bytes = np.bincount(rows, weights=width, minlength=len(table)).astype(np.int64)
    head = len(laid.data) // len(table)
    sizes = head + 4 * masks.shape[1] + value_bytes
    ends = np.cumsum(sizes)
    starts = ends - sizes
    before = np.cumsum(width) - width - (np.cumsum(value_bytes) - value_bytes)[rows]
    places = starts[rows] + head + 4 * fields + before
    out = np.full(int(ends[-1]), 0xFF, dtype=np.uint8)
    _scatter(out, starts, np.frombuffer(laid.data, np.uint8).reshape(len(table), head))
    for index, field in enumerate(some):
        chosen = fields == index
        _scatter(out, places[chosen], _cells(field.values[rows[chosen]], field.dtype))
    if table.present is not None:
        if some:
            chosen = fields >= len(some)
            rows, fields, places = rows[chosen], fields[chosen] - len(some), places[chosen]
        _scatter(out, places, _cells(table.floats[fields, rows], ">f8"))
    return _Laid(out.tobytes(), ends.tolist())


def _masks(table: Table, some: list[Field]) -> model.Mask:
    """Return which fields have a value, one row after the other: those of ``some``, then of the matrix."""
    masks = [field.present for field in some if field.present is not None]
    if table.present is None:
        return np.column_stack(masks)
    if not masks:
        return np.ascontiguousarray(table.present.T)
    return np.column_stack([*masks, table.present.T])


def _cells(column: model.Array, dtype: str) -> model.Array:
    """Return fields with their length, one to a row of bytes."""
    cells = np.empty(len(column), [("n", ">i4"), ("v", dtype)])
    cells["n"] = cells.dtype["v"].itemsize
    cells["v"] = column
    return cells.view(np.uint8).reshape(len(column), cells.itemsize)


def _scatter(out: model.Array, places: model.Array, cells: model.Array) -> None:
    """Write rows of bytes to their places."""
    if not len(cells):
        return
    cell = np.dtype(("V", cells.shape[1]))
    # Every place of ``out`` as one element of that size; they overlap, but the places don't.
    spots = np.ndarray(len(out) - cell.itemsize + 1, cell, out, strides=(1,))
    spots[places] = cells.view(cell)[:, 0]


def _join(table: Table, laid: _Laid, varying: list[Declared]) -> bytes:
    """Put fields without a fixed size behind the others of their row."""
    starts = itertools.chain((0,), laid.ends)
    tails = [_texts(column) for column in varying]
    if table.extra is not None:
        tails.append([_jsonb(extra) for extra in table.extra])
    heads = (laid.data[start:end] for start, end in zip(starts, laid.ends, strict=False))
    return b"".join(itertools.chain.from_iterable(zip(heads, *tails, strict=True)))


def _texts(column: Declared) -> list[bytes]:
    cells = zip(column.values.tolist(), column.present.tolist(), strict=True)
    return [len(value).to_bytes(4, "big") + value if present else _NULL for value, present in cells]


def _jsonb(extra: dict[str, str] | None) -> bytes:
    """Return one field of ``extra``: its metrics by name, as JSON text."""
    if not extra:
        return _NULL
    data = _JSONB_VERSION + values.to_object(extra).encode()
    return len(data).to_bytes(4, "big") + data
