"""The metric columns of ``metrics``: which there are, what each takes, and adding new ones.

A column takes a value only if the cast gives it back: the same number, the same text, the same instant.
Everything else, and every metric without a column, stays in ``extra``.
"""

from __future__ import annotations

import datetime
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psycopg
from psycopg import sql
from psycopg.types.numeric import DecimalBinaryDumper

from hpctrack import errors
from hpctrack.backoff import Backoff
from hpctrack.store import database, values
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from hpctrack import model
    from hpctrack.store.database import Connection

#: Most columns that are added automatically, and most that there may be in all for one to be added.
MAX_AUTOMATIC = 200
MAX_COLUMNS = 800
_MAX_NAME = 63  # bytes: NAMEDATALEN - 1 of PostgreSQL
#: What the table has beside metrics, and PostgreSQL's system columns (manual, "System Columns").
RESERVED = frozenset("run_id step progress time attempt extra tableoid oid xmin cmin xmax cmax ctid".split())
#: Comment by which an automatic column is known.
_AUTOMATIC = "Added by the collector"
_LOCK_TIMEOUT = "100ms"
_BACKOFF = Backoff(1.0, 300.0)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MICROSECOND = datetime.timedelta(microseconds=1)
_DECIMAL = DecimalBinaryDumper(Decimal)

FLOAT8 = "float8"
#: Types of fixed size: how COPY BINARY wants them, after PostgreSQL's ``typreceive`` functions.
DTYPES = {
    "float8": ">f8",
    "float4": ">f4",
    "int8": ">i8",
    "int4": ">i4",
    "int2": ">i2",
    "bool": "u1",
    "timestamptz": ">i8",
}


class Target(NamedTuple):
    """A column that a metric's values may go to."""

    name: str
    type: str
    """PostgreSQL's name of it (``pg_type.typname``)."""
    modifier: int = -1
    """``atttypmod``: length and the like; -1 for none."""

    def convert(self, given: model.Array | list[str | int]) -> tuple[model.Array, model.Mask]:
        """Return the values as this column's, and which of them it takes; the others are anything.

        Arrays have the column's dtype in native order (times: microseconds since the epoch), or hold
        objects of bytes for types without a fixed size.
        """
        if isinstance(given, list):
            return self._convert_each(given)
        if self.type == "bool" or given.dtype.kind == "b":
            return given, np.full(len(given), self.type == "bool" and given.dtype.kind == "b")
        if self.type in ("float8", "float4"):
            return _to_float(given, self.type)
        if self.type in ("int8", "int4", "int2"):
            return _to_integer(given, self.type)
        return self._convert_each(given.tolist())

    def _convert_each(self, given: Sequence[Any]) -> tuple[model.Array, model.Mask]:
        convert = _EACH.get(self.type)
        found = [None if convert is None else convert(value, self.modifier) for value in given]
        taken = np.array([value is not None for value in found], dtype=bool)
        if self.type in DTYPES:
            dtype = np.dtype(DTYPES[self.type]).newbyteorder("=")
            return np.array([0 if value is None else value for value in found], dtype), taken
        array = np.empty(len(found), dtype=object)
        array[:] = found
        return array, taken


class Catalog(NamedTuple):
    """The columns of ``metrics`` at one moment."""

    signature: str
    targets: Mapping[str, Target]
    """By name; those whose type we can write."""
    names: frozenset[str]
    """All columns that are not hpctrack's own, whatever their type."""
    automatic: int


def load(connection: Connection) -> Catalog:
    """Read the catalog."""
    rows: list[tuple[Any, ...]] = connection.execute(statement("fetch_columns")).fetchall()
    names = frozenset(str(row[0]) for row in rows) - RESERVED
    targets = {
        name: Target(name, type_, modifier)
        for name, type_, modifier, writable, _ in rows
        if name in names and writable and (type_ in DTYPES or type_ in _EACH)
    }
    automatic = sum(row[4] == _AUTOMATIC for row in rows)
    return Catalog(signature(connection), targets, names, automatic)


def signature(connection: Connection) -> str:
    """Return a digest that changes when a column is added, dropped, renamed or changed."""
    row = connection.execute(statement("fetch_columns_signature")).fetchone()
    return str(row[0]) if row else ""


def choose(candidates: Iterable[str], catalog: Catalog) -> list[str]:
    """Return which of the numeric metrics get a column now.

    A name that only case tells from another column's is left out: SQL without quotes can't tell them apart.
    """
    taken = {name.lower() for name in catalog.names | RESERVED}
    room = min(MAX_AUTOMATIC - catalog.automatic, MAX_COLUMNS - len(catalog.names))
    chosen: list[str] = []
    for name in candidates:
        if len(chosen) >= room:
            break
        folded = name.lower()
        if folded not in taken and values.to_text(name) == name and 0 < len(name.encode()) <= _MAX_NAME:
            taken.add(folded)
            chosen.append(name)
    return chosen


class Adder:
    """Adds columns, one ALTER TABLE at a time; after a failure it pauses, longer each time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause = 0.0
        self._not_before = 0.0

    @property
    def ready(self) -> bool:
        """Whether there is no pause now."""
        return self._clock() >= self._not_before

    def add(self, connection: Connection, candidates: Iterable[str]) -> list[str]:
        """Add columns in a transaction of its own; returns their names.

        Raises what `database.translated` raises, and pauses: rows do without.
        """
        try:
            added = _add(connection, candidates)
        except errors.StoreError:
            self._pause = _BACKOFF.after(self._pause)
            self._not_before = self._clock() + self._pause
            raise
        self._pause = 0.0
        return added


def _add(connection: Connection, candidates: Iterable[str]) -> list[str]:
    with database.translated(), connection.transaction():
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(_LOCK_TIMEOUT))
        try:
            connection.execute(statement("lock_metrics"))
        except psycopg.errors.LockNotAvailable as error:
            raise errors.StoreBusy("metrics is in use: no columns were added") from error
        names = choose(candidates, load(connection))
        if names:
            connection.execute(statement("add_columns"), {"names": names, "comment": _AUTOMATIC})
    return names


def _to_float(given: model.Array, type_: str) -> tuple[model.Array, model.Mask]:
    with np.errstate(over="ignore"):
        converted = given.astype(np.float64 if type_ == "float8" else np.float32)
    if given.dtype.kind == "i":
        exact = 1 << (53 if type_ == "float8" else 24)
        return converted, (given <= exact) & (given >= -exact)
    return converted, (converted == given) | np.isnan(given)


def _to_integer(given: model.Array, type_: str) -> tuple[model.Array, model.Mask]:
    limits = np.iinfo(np.dtype(DTYPES[type_]).newbyteorder("="))
    if given.dtype.kind == "i":
        taken = (given >= limits.min) & (given <= limits.max)
    else:
        whole = (given == np.rint(given)) & ~((given == 0) & np.signbit(given))
        taken = whole & (np.abs(given) <= min(float(limits.max), float(values.EXACT)))
    return np.where(taken, given, 0).astype(limits.dtype), taken


def _to_text(value: Any, modifier: int) -> bytes | None:
    if not isinstance(value, str) or values.to_text(value) != value:
        return None
    # atttypmod of varchar(n) is n + 4.
    return None if 0 <= modifier < len(value) + 4 else value.encode()


def _to_numeric(value: Any, modifier: int) -> bytes | None:
    """Take what a numeric without limits holds exactly; one with limits rounds."""
    if modifier >= 0 or isinstance(value, (bool, str)):
        return None
    text = repr(value)
    if isinstance(value, float) and (text in ("inf", "-inf") or (value == 0.0 and text[0] == "-")):
        return None
    dumped = _DECIMAL.dump(Decimal(text))
    return None if dumped is None else bytes(dumped)


def _to_timestamp(value: Any, modifier: int) -> int | None:
    """Take ISO 8601 with a zone: it names one instant, to the microsecond."""
    if not isinstance(value, str) or modifier >= 0:
        return None
    try:
        instant = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if instant.tzinfo is None else (instant - _EPOCH) // _MICROSECOND


_EACH: dict[str, Callable[[Any, int], bytes | int | None]] = {
    "text": _to_text,
    "varchar": _to_text,
    "numeric": _to_numeric,
    "timestamptz": _to_timestamp,
}
