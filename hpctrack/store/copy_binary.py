"""A table of rows as PostgreSQL's COPY BINARY takes it (manual, "COPY", "Binary Format"). Pure.

A row is the number of its fields, then for each its length (-1: NULL) and its bytes, all big-endian. Fields
of fixed size are laid out for all rows at once; where some are NULL their bytes are cut out afterwards.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpctrack.store import columns, values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpctrack import model
    from hpctrack.store.rows import Declared, Table

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_JSONB_VERSION = b"\x01"
#: Microseconds from the epoch of Unix to that of PostgreSQL, 2000-01-01.
_EPOCH = 946_684_800_000_000
#: What PostgreSQL's timestamps can hold, in microseconds since 1970 (manual, "Date/Time Types"), roundly.
_TIMES = (-200_000_000_000_000_000, 9_000_000_000_000_000_000)


class Field(NamedTuple):
    """A field of fixed size in all rows."""

    name: str
    dtype: str
    values: model.Array
    present: model.Mask | None
    """None: no row has NULL."""


def encode(table: Table, *, stream: bool = False) -> tuple[tuple[str, ...], bytes]:
    """Return the columns, in their order, and the data of a COPY of all rows.

    ``stream`` adds the column of that name, for the temporary table.
    """
    fixed = _fixed(table, stream)
    varying = [column for column in table.declared if column.values.dtype == object]
    names = [field.name for field in fixed] + list(table.names) + [c.target.name for c in varying]
    names += ["extra"] if table.extra is not None else []
    layout, keep = _lay_out(table, fixed, len(names))
    if table.extra is None and not varying:
        data = layout.tobytes() if keep is None else _bytes(layout)[keep].tobytes()
    else:
        data = _join(table, layout, keep, varying)
    return tuple(names), b"".join((_HEADER, data, _TRAILER))


def _fixed(table: Table, stream: bool) -> list[Field]:
    """Return the fields of fixed size, but for the matrix."""
    fields = [
        Field("run_id", ">i8", table.run, None),
        Field("step", ">i8", table.step, None),
        Field("progress", ">f8", table.progress, None),
        Field("attempt", ">i4", table.attempt, None),
        Field("time", ">i8", _timestamps(table.time), _mask(table.timed)),
    ]
    if stream:
        fields.append(Field("stream", ">i4", table.stream, None))
    for column in table.declared:
        if column.values.dtype != object:
            kind = column.target.type
            array = _timestamps(column.values) if kind == "timestamptz" else column.values
            fields.append(Field(column.target.name, columns.DTYPES[kind], array, _mask(column.present)))
    return fields


def _timestamps(unix: model.Array) -> model.Array:
    return np.clip(unix, *_TIMES) - _EPOCH


def _mask(present: model.Mask) -> model.Mask | None:
    return None if present.all() else present


def _lay_out(table: Table, fixed: list[Field], fields: int) -> tuple[model.Array, model.Mask | None]:
    """Return the rows as a structured array, and which of its bytes count (None: all)."""
    floats = len(table.names)
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
        size = layout[f"v{index}"].itemsize
        out[f"n{index}"] = size if field.present is None else np.where(field.present, size, -1)
        out[f"v{index}"] = field.values
    out["floats"]["n"] = 8 if table.present is None else np.where(table.present.T, 8, -1)
    out["floats"]["v"] = table.floats.T
    if table.present is None and all(field.present is None for field in fixed):
        return out, None
    return out, _kept(table, fixed, layout)


def _kept(table: Table, fixed: list[Field], layout: np.dtype) -> model.Mask:
    """Return which bytes of the laid out rows are not those of NULLs, of shape (rows, bytes of a row)."""
    keep = np.ones((len(table), layout.itemsize), dtype=bool)
    places: Mapping[str, Any] = layout.fields or {}
    for index, field in enumerate(fixed):
        if field.present is not None:
            kind, offset = places[f"v{index}"][:2]
            keep[:, offset : offset + kind.itemsize] = field.present[:, None]
    if table.present is not None and table.names:
        cells = keep[:, places["floats"][1] :].reshape(len(table), len(table.names), 12)
        cells[:, :, 4:] = table.present.T[:, :, None]
    return keep


def _bytes(layout: model.Array) -> model.Array:
    return layout.view(np.uint8).reshape(len(layout), layout.dtype.itemsize)


def _join(table: Table, layout: model.Array, keep: model.Mask | None, varying: list[Declared]) -> bytes:
    """Put fields without a fixed size behind the others of their row."""
    if keep is None:
        data = layout.tobytes()
        ends = range(layout.dtype.itemsize, len(data) + 1, layout.dtype.itemsize)
    else:
        data = _bytes(layout)[keep].tobytes()
        ends = np.cumsum(np.count_nonzero(keep, axis=1)).tolist()
    starts = itertools.chain((0,), ends)
    tails = [_texts(column) for column in varying]
    if table.extra is not None:
        tails.append([_jsonb(extra) for extra in table.extra])
    parts = zip((data[start:end] for start, end in zip(starts, ends, strict=False)), *tails, strict=True)
    return b"".join(itertools.chain.from_iterable(parts))


def _texts(column: Declared) -> list[bytes]:
    cells = zip(column.values.tolist(), column.present.tolist(), strict=True)
    return [len(value).to_bytes(4, "big") + value if present else _NULL for value, present in cells]


def _jsonb(extra: dict[str, str] | None) -> bytes:
    """Return one field of ``extra``: its metrics by name, as JSON text."""
    if not extra:
        return _NULL
    data = _JSONB_VERSION + values.to_object(extra).encode()
    return len(data).to_bytes(4, "big") + data
