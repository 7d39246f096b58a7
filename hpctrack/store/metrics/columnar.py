"""Columns whose values are of one kind, put together from parts. Pure.

Kinds are ``bool``, ``int``, ``float``, ``time``, ``text``, and ``object``: values of several kinds that no
other holds, as they are in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpctrack.store import values
from hpctrack.store.metrics.copy_decode import Cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hpctrack import model

_KINDS = {"b": "bool", "i": "int", "f": "float", "M": "time", "O": "text"}
_DTYPES: dict[str, Any] = {
    "bool": np.bool_,
    "int": np.int64,
    "float": np.float64,
    "time": "datetime64[us]",
    "text": object,
    "object": object,
}
_NULLS: dict[str, Any] = {"float": np.nan, "time": np.datetime64("NaT", "us"), "text": None, "object": None}
_NUMBERS = frozenset(("bool", "int", "float"))


def kind(value: object) -> str:
    """Return the kind of one value. An integer that not every number is exact at is an object."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= values.EXACT else "object"
    if isinstance(value, float):
        return "float"
    return "text" if isinstance(value, str) else "object"


def kind_of(dtype: np.dtype[Any]) -> str:
    """Return the kind of an array's values."""
    return _KINDS[dtype.kind]


def common(kinds: Iterable[str]) -> str:
    """Return the kind that holds values of all of these: numbers and booleans are numbers together."""
    found = set(kinds)
    if len(found) == 1:
        return found.pop()
    return "float" if found <= _NUMBERS else "object"


def joined(parts: Sequence[tuple[int, Cells | None, Mapping[int, Any]]]) -> Cells:
    """Join parts of one column.

    Of each part its number of rows, its cells if it has any, and values beside them by index of the row.
    """
    given = [cells for _, cells, _ in parts if cells is not None]
    kinds = {kind_of(cells.values.dtype) for cells in given if _any(cells)}
    kinds |= {kind(value) for _, _, extra in parts for value in extra.values()}
    one = common(kinds or {kind_of(cells.values.dtype) for cells in given})
    pieces = [as_kind(rows, cells, extra, one) for rows, cells, extra in parts]
    if not pieces:
        return Cells(np.empty(0), None)
    present = None
    if any(piece.present is not None for piece in pieces):
        present = np.concatenate([mask(piece) for piece in pieces])
    return Cells(np.concatenate([piece.values for piece in pieces]), present)


def as_kind(rows: int, cells: Cells | None, extra: Mapping[int, Any], one: str) -> Cells:
    """Return one part of a column as values of this kind."""
    if cells is not None and not extra and kind_of(cells.values.dtype) == one:
        return cells
    dtype = _DTYPES[one]
    found = np.full(rows, _NULLS.get(one, 0), dtype)
    present = np.zeros(rows, dtype=bool)
    if cells is not None and _any(cells):
        present = mask(cells).copy()
        found[present] = cells.values[present].astype(dtype)
    if extra:
        at = list(extra)
        found[at] = np.fromiter(extra.values(), object, len(at)).astype(dtype)
        present[at] = True
    return Cells(found, None if present.all() else present)


def mask(cells: Cells) -> model.Mask:
    """Return which rows have a value."""
    return np.ones(len(cells.values), dtype=bool) if cells.present is None else cells.present


def _any(cells: Cells) -> bool:
    return bool(len(cells.values)) if cells.present is None else bool(cells.present.any())
