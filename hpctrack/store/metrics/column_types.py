"""The types that a column of ``metrics`` may have, one row for each.

A row says how COPY BINARY has the values, which values the type takes, and how they are read. Everybody who
writes or reads columns asks the row, once for a whole column. A type without a row keeps what it has: nothing
is written to such a column, it is read as text, and drawn if PostgreSQL can cast it to a number.
"""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from psycopg.types.numeric import DecimalBinaryDumper

from hpctrack.store import values
from hpctrack.stream.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from hpctrack import model

    #: Values of one metric as they come from a journal.
    Given: TypeAlias = model.Array | list[str | int]
    Taken: TypeAlias = tuple[model.Array, model.Mask]

FLOAT8, INT8, INT4, TIMESTAMPTZ, TEXT = "float8", "int8", "int4", "timestamptz", "text"
#: Microseconds from the epoch of Unix to that of PostgreSQL, 2000-01-01.
_EPOCH = 946_684_800_000_000
#: What PostgreSQL's timestamps can hold, in microseconds since 1970 (manual, "Date/Time Types"), roundly.
_TIMES = (-200_000_000_000_000_000, 9_000_000_000_000_000_000)
_NOT_A_TIME = np.iinfo(np.int64).min
#: Beyond it are PostgreSQL's last years, and infinity, the greatest integer; minus infinity is the least.
_LAST_TIME = np.iinfo(np.int64).max - _EPOCH
_UNIX = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MICROSECOND = datetime.timedelta(microseconds=1)
_DECIMAL = DecimalBinaryDumper(Decimal)


def _same(array: model.Array) -> model.Array:
    return array


def _native(array: model.Array) -> model.Array:
    return array.astype(array.dtype.newbyteorder("="))


class ColumnType(NamedTuple):
    """A type of columns. Arrays have an element for each value."""

    name: str
    """PostgreSQL's name of it (``pg_type.typname``)."""
    dtype: str | None
    """How COPY BINARY has a value (PostgreSQL's ``typreceive`` functions); None: it has no fixed size."""
    kind: str
    """Of what kind the values are that are read (see `columnar`)."""
    accept: Callable[[Given, int], Taken]
    """Return the values as this type's, and which of them it gives back as they are; the others are anything.

    The second argument is the column's ``atttypmod``. Values of a fixed size become numbers in native order
    (times: microseconds since 1970), all others objects of bytes.
    """
    to_copy: Callable[[model.Array], model.Array] = _same
    """Turn what `accept` returned into numbers of ``dtype``."""
    from_copy: Callable[[model.Array], model.Array] = _native
    """Turn numbers of ``dtype`` into values of ``kind``."""
    read_as: str | None = None
    """The type to which PostgreSQL casts the values before it sends them; None: to none."""
    as_number: str | None = None
    """The SQL expression of a value as double precision; None: it is no number."""


def _none(given: Given, dtype: Any) -> Taken:
    return np.zeros(len(given), dtype), np.zeros(len(given), dtype=bool)


def _accept_bool(given: Given, modifier: int) -> Taken:
    if isinstance(given, list) or given.dtype.kind != "b":
        return _none(given, bool)
    return given, np.ones(len(given), dtype=bool)


def _floats(dtype: type, exact: int) -> Callable[[Given, int], Taken]:
    """Return what accepts numbers; integers up to ``exact`` come back from this floating point type."""

    def accept(given: Given, modifier: int) -> Taken:
        if isinstance(given, list) or given.dtype.kind == "b":
            return _none(given, dtype)
        with np.errstate(over="ignore"):
            converted: model.Array = given.astype(dtype)
        if given.dtype.kind == "i":
            return converted, (given <= exact) & (given >= -exact)
        return converted, (converted == given) | np.isnan(given)

    return accept


def _integers(dtype: type) -> Callable[[Given, int], Taken]:
    """Return what accepts whole numbers within the limits of this type."""
    limits = np.iinfo(dtype)

    def accept(given: Given, modifier: int) -> Taken:
        if isinstance(given, list) or given.dtype.kind == "b":
            return _none(given, dtype)
        if given.dtype.kind == "i":
            taken = (given >= limits.min) & (given <= limits.max)
        else:
            whole = (given == np.rint(given)) & ~((given == 0) & np.signbit(given))
            taken = whole & (np.abs(given) <= min(float(limits.max), float(values.EXACT)))
        return np.where(taken, given, 0).astype(dtype), taken

    return accept


def each(convert: Callable[[Any, int], bytes | int | None], dtype: Any) -> Callable[[Given, int], Taken]:
    """Return what accepts values one by one; ``convert`` returns None for one that is not taken."""

    def accept(given: Given, modifier: int) -> Taken:
        cells = [convert(value, modifier) for value in (given if isinstance(given, list) else given.tolist())]
        taken = np.array([cell is not None for cell in cells], dtype=bool)
        converted = np.empty(len(cells), dtype)
        converted[:] = [0 if cell is None else cell for cell in cells]
        return converted, taken

    return accept


def _to_text(value: Any, modifier: int) -> bytes | None:
    if not isinstance(value, str) or messages.storable(value) != value:
        return None
    # atttypmod of varchar(n) is n + 4.
    return None if 0 <= modifier < len(value) + 4 else value.encode()


def _to_numeric(value: Any, modifier: int) -> bytes | None:
    """Take what a numeric without limits holds exactly; one with limits rounds."""
    if modifier >= 0 or isinstance(value, (bool, str)):
        return None
    text = repr(value)
    # It knows no infinity and no -0.0.
    if text in ("inf", "-inf", "-0.0"):
        return None
    dumped = _DECIMAL.dump(Decimal(text))
    return None if dumped is None else bytes(dumped)


def _to_time(value: Any, modifier: int) -> int | None:
    """Take ISO 8601 with a zone: it names one instant, to the microsecond."""
    if not isinstance(value, str) or modifier >= 0:
        return None
    try:
        instant = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if instant.tzinfo is None else (instant - _UNIX) // _MICROSECOND


def _times_to_copy(unix: model.Array) -> model.Array:
    return np.clip(unix, *_TIMES) - _EPOCH


def _times_from_copy(micros: model.Array) -> model.Array:
    times = micros.astype(np.int64)
    known = (times <= _LAST_TIME) & (times != _NOT_A_TIME)
    return np.where(known, times + _EPOCH, _NOT_A_TIME).view("datetime64[us]")


def _to_bool(array: model.Array) -> model.Array:
    return array.astype(bool)


_NUMBER = "{}::double precision"
TYPES = {
    type_.name: type_
    for type_ in (
        ColumnType(FLOAT8, ">f8", "float", _floats(np.float64, 1 << 53), as_number=_NUMBER),
        ColumnType("float4", ">f4", "float", _floats(np.float32, 1 << 24), as_number=_NUMBER),
        ColumnType(INT8, ">i8", "int", _integers(np.int64), as_number=_NUMBER),
        ColumnType(INT4, ">i4", "int", _integers(np.int32), as_number=_NUMBER),
        ColumnType("int2", ">i2", "int", _integers(np.int16), as_number=_NUMBER),
        ColumnType(
            "bool",
            "u1",
            "bool",
            _accept_bool,
            from_copy=_to_bool,
            as_number="{}::integer::double precision",
        ),
        ColumnType(
            TIMESTAMPTZ,
            ">i8",
            "time",
            each(_to_time, np.int64),
            to_copy=_times_to_copy,
            from_copy=_times_from_copy,
        ),
        ColumnType("numeric", None, "float", each(_to_numeric, object), read_as=FLOAT8, as_number=_NUMBER),
        ColumnType(TEXT, None, "text", each(_to_text, object)),
        ColumnType("varchar", None, "text", each(_to_text, object), read_as=TEXT),
    )
}
_OTHER = ColumnType("", None, "text", each(lambda value, modifier: None, object), read_as=TEXT)


def of(name: str) -> ColumnType:
    """Return the row of a type; of one that has none, how it is read."""
    return TYPES.get(name, _OTHER)


def as_number(name: str, through: str | None) -> str | None:
    """Return `ColumnType.as_number` of a type, also of one that has no row.

    ``through``: the type through which PostgreSQL casts its values to double precision; None: it can't.
    """
    if name in TYPES:
        return TYPES[name].as_number
    return None if through is None else f"{{}}::{through}::double precision"
