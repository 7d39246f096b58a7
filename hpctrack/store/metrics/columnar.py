"""Columns whose values are of one kind, put together from parts. Pure.

Kinds are ``bool``, ``int``, ``float``, ``time``, ``text``, and ``object``: values of several kinds that no
other holds, as they are in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpctrack.store.values import EXACT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hpctrack import model


class Cells(NamedTuple):
    """One field of all rows."""

    values: model.Array
    """float64, float32, int64, int32, int16, bool, datetime64[us] (UTC), or objects of str. NULL is nan, 0,
    False, NaT, None."""
    present: model.Mask | None
    """Which rows have a value; None: all."""


class _ArrayType(NamedTuple):
    """How an array holds the values of a kind."""

    dtype: Any
    null: Any
    """What stands where there is no value."""
    is_number: bool = False


_KINDS = {
    "bool": _ArrayType(np.bool_, False, is_number=True),
    "int": _ArrayType(np.int64, 0, is_number=True),
    "float": _ArrayType(np.float64, np.nan, is_number=True),
    "time": _ArrayType(np.dtype("datetime64[us]"), np.datetime64("NaT", "us")),
    "text": _ArrayType(object, None),
    "object": _ArrayType(object, None),
}
_NUMBERS = frozenset(name for name, kind in _KINDS.items() if kind.is_number)
#: By the letter that numpy has for all sizes of a dtype.
_LETTERS = {np.dtype(_KINDS[name].dtype).kind: name for name in ("bool", "int", "float", "time", "text")}


def kind(value: object) -> str:
    """Return the kind of one value. An integer that not every number is exact at is an object."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= EXACT else "object"
    if isinstance(value, float):
        return "float"
    return "text" if isinstance(value, str) else "object"


def kind_of(dtype: np.dtype[Any]) -> str:
    """Return the kind of an array's values."""
    return _LETTERS[dtype.kind]


def null(dtype: np.dtype[Any]) -> Any:
    """Return what stands in an array where there is no value."""
    return _KINDS[kind_of(dtype)].null


def common(kinds: Iterable[str]) -> str:
    """Return the kind that holds values of all of these: numbers and booleans are numbers together."""
    kinds = set(kinds)
    if len(kinds) == 1:
        return kinds.pop()
    return "float" if kinds <= _NUMBERS else "object"


def joined(parts: Sequence[tuple[int, Cells | None, Mapping[int, Any]]]) -> Cells:
    """Join parts of one column.

    Of each part its number of rows, its cells if it has any, and values beside them by index of the row.
    """
    if not parts:
        return Cells(np.empty(0), None)
    kind = _kind_of_all(parts)
    pieces = [as_kind(rows, cells, extra, kind) for rows, cells, extra in parts]
    values = np.concatenate([piece.values for piece in pieces])
    if all(piece.present is None for piece in pieces):
        return Cells(values, None)
    return Cells(values, np.concatenate(list(map(mask, pieces))))


def _kind_of_all(parts: Sequence[tuple[int, Cells | None, Mapping[int, Any]]]) -> str:
    """Return the kind that holds all values of a column; where there are none, that of its cells."""
    columns = [cells for _, cells, _ in parts if cells is not None]
    kinds = set(map(_kind_of_cells, filter(_any, columns)))
    kinds.update(kind(value) for _, _, extra in parts for value in extra.values())
    return common(kinds or map(_kind_of_cells, columns))


def _kind_of_cells(cells: Cells) -> str:
    return kind_of(cells.values.dtype)


def as_kind(rows: int, cells: Cells | None, extra: Mapping[int, Any], kind: str) -> Cells:
    """Return one part of a column as values of this kind."""
    if cells is not None and not extra and _kind_of_cells(cells) == kind:
        return cells
    dtype, missing, _ = _KINDS[kind]
    values = np.full(rows, missing, dtype)
    present = np.zeros(rows, dtype=bool)
    if cells is not None and _any(cells):
        present = mask(cells).copy()
        values[present] = cells.values[present].astype(dtype)
    if extra:
        at = list(extra)
        values[at] = np.fromiter(extra.values(), object, len(at)).astype(dtype)
        present[at] = True
    return Cells(values, None if present.all() else present)


def mask(cells: Cells) -> model.Mask:
    """Return which rows have a value."""
    return np.ones(len(cells.values), dtype=bool) if cells.present is None else cells.present


def _any(cells: Cells) -> bool:
    return bool(len(cells.values)) if cells.present is None else bool(cells.present.any())
