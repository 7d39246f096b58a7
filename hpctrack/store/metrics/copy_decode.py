"""Rows of PostgreSQL's COPY BINARY as arrays (manual, "COPY", "Binary Format"). Pure; see `copy_binary`.

No Python object is made for a value of fixed size: a field is decoded for all rows at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpctrack.store.metrics import column_types, columnar
from hpctrack.store.metrics.columnar import Cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack import model
    from hpctrack.store.metrics.column_types import ColumnType


def decode(data: bytes | bytearray, sizes: Sequence[int], types: Sequence[str]) -> list[Cells]:
    """Return the fields of rows that stand one behind the other.

    ``sizes``: bytes of each row, the number of its fields included; ``types``: the names of the fields'
    types (`column_types.TYPES`). What has no fixed size is text in UTF-8.
    """
    lengths = np.array(sizes, np.int64)
    described = list(map(column_types.of, types))
    dtypes = [type_.dtype for type_ in described if type_.dtype is not None]
    if len(dtypes) == len(types):
        layout = _layout(dtypes)
        # A NULL makes its row shorter: where none is, every row has the same layout.
        if (lengths == layout.itemsize).all():
            rows = np.frombuffer(data, layout)
            return [finished(rows[f"v{index}"], type_, None) for index, type_ in enumerate(described)]
    return _decode_with_nulls(data, lengths, described)


def _layout(dtypes: Sequence[str]) -> np.dtype[np.void]:
    offsets, place = [], 2
    for dtype in dtypes:
        offsets.append(place + 4)
        place += 4 + np.dtype(dtype).itemsize
    return np.dtype(
        {
            "names": [f"v{index}" for index in range(len(dtypes))],
            "formats": dtypes,
            "offsets": offsets,
            "itemsize": place,
        }
    )


def _decode_with_nulls(
    data: bytes | bytearray, sizes: model.Array, types: Sequence[ColumnType]
) -> list[Cells]:
    """Walk through the rows side by side, one field after the other."""
    octets = np.frombuffer(data, np.uint8)
    places = np.cumsum(sizes) - sizes + 2
    fields = []
    for type_ in types:
        # A length is less than 2 GiB; its first byte is 255 for NULL alone.
        present = octets[places] != 0xFF
        whole = bool(present.all())
        at = places if whole else places[present]
        if type_.dtype is None:
            widths = _gather(data, at, ">i4").astype(np.int64)
            given: model.Array = _texts(data, at + 4, widths)
        else:
            widths = np.full(len(at), np.dtype(type_.dtype).itemsize)
            given = _gather(data, at + 4, type_.dtype)
        fields.append(finished(given, type_, None if whole else present))
        places = places + 4
        if whole:
            places += widths
        else:
            places[present] += widths
    return fields


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


def finished(given: model.Array, type_: ColumnType, present: model.Mask | None) -> Cells:
    """Return a field from the values that are there; ``present``: in which rows."""
    values = type_.from_copy(given)
    if present is None:
        return Cells(values, None)
    spread = np.full(len(present), columnar.null(values.dtype), values.dtype)
    spread[present] = values
    return Cells(spread, present)
