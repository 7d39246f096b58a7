"""Rows of PostgreSQL's COPY BINARY as arrays (manual, "COPY", "Binary Format"). Pure; see `copy_binary`.

No Python object is made for a value of fixed size: a field is decoded for all rows at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpctrack.store.metrics import columns
from hpctrack.store.metrics.copy_binary import EPOCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack import model

#: Stands for what has no fixed size; its bytes are text in UTF-8.
TEXT = "text"
_NOT_A_TIME = np.iinfo(np.int64).min
#: Beyond it are PostgreSQL's last years, and infinity, the greatest integer; minus infinity is the least.
_LAST_TIME = np.iinfo(np.int64).max - EPOCH


class Cells(NamedTuple):
    """One field of all rows."""

    values: model.Array
    """float64, float32, int64, int32, int16, bool, datetime64[us] (UTC), or objects of str. NULL is nan, 0,
    False, NaT, None."""
    present: model.Mask | None
    """Which rows have a value; None: all."""


def decode(data: bytes | bytearray, sizes: Sequence[int], types: Sequence[str]) -> list[Cells]:
    """Return the fields of rows that stand one behind the other.

    ``sizes``: bytes of each row, the number of its fields included; ``types``: of each field, a key of
    `columns.DTYPES`, or `TEXT`.
    """
    lengths = np.array(sizes, np.int64)
    if TEXT not in types:
        layout = _layout(types)
        # A NULL makes its row shorter: where none is, every row has the same layout.
        if (lengths == layout.itemsize).all():
            rows = np.frombuffer(data, layout)
            return [finished(rows[f"v{index}"], type_, None) for index, type_ in enumerate(types)]
    return _decode_with_nulls(data, lengths, types)


def _layout(types: Sequence[str]) -> np.dtype[np.void]:
    fields = [(f"v{index}", columns.DTYPES[type_]) for index, type_ in enumerate(types)]
    offsets, place = [], 2
    for _, dtype in fields:
        offsets.append(place + 4)
        place += 4 + np.dtype(dtype).itemsize
    return np.dtype(
        {
            "names": [name for name, _ in fields],
            "formats": [dtype for _, dtype in fields],
            "offsets": offsets,
            "itemsize": place,
        }
    )


def _decode_with_nulls(data: bytes | bytearray, sizes: model.Array, types: Sequence[str]) -> list[Cells]:
    """Walk through the rows side by side, one field after the other."""
    octets = np.frombuffer(data, np.uint8)
    places = np.cumsum(sizes) - sizes + 2
    found = []
    for type_ in types:
        # A length is less than 2 GiB; its first byte is 255 for NULL alone.
        present = octets[places] != 0xFF
        whole = bool(present.all())
        at = places if whole else places[present]
        if type_ == TEXT:
            widths = _gather(data, at, ">i4").astype(np.int64)
            given: model.Array = _texts(data, at + 4, widths)
        else:
            dtype = columns.DTYPES[type_]
            widths = np.full(len(at), np.dtype(dtype).itemsize)
            given = _gather(data, at + 4, dtype)
        found.append(finished(given, type_, None if whole else present))
        places = places + 4
        if whole:
            places += widths
        else:
            places[present] += widths
    return found


def _gather(data: bytes | bytearray, places: model.Array, dtype: str) -> model.Array:
    size = np.dtype(dtype).itemsize
    # Every place of ``data`` as one element; they overlap, and are not aligned.
    every: model.Array = np.ndarray(max(len(data) - size + 1, 0), dtype, data, strides=(1,))
    return every[places]


def _texts(data: bytes | bytearray, places: model.Array, widths: model.Array) -> model.Array:
    texts = np.empty(len(places), dtype=object)
    texts[:] = [
        data[begin:end].decode()
        for begin, end in zip(places.tolist(), (places + widths).tolist(), strict=True)
    ]
    return texts


def finished(given: model.Array, type_: str, present: model.Mask | None) -> Cells:
    """Return a field from the values that are there; ``present``: in which rows."""
    values = _converted(given, type_)
    if present is None:
        return Cells(values, None)
    fill = {"f": np.nan, "M": np.datetime64("NaT", "us"), "O": None}.get(values.dtype.kind, 0)
    spread = np.full(len(present), fill, values.dtype)
    spread[present] = values
    return Cells(spread, present)


def _converted(given: model.Array, type_: str) -> model.Array:
    if type_ == "timestamptz":
        times = given.astype(np.int64)
        held = (times <= _LAST_TIME) & (times != _NOT_A_TIME)
        return np.where(held, times + EPOCH, _NOT_A_TIME).view("datetime64[us]")
    if type_ == "bool":
        return given.astype(bool)
    return given.astype(given.dtype.newbyteorder("="))
