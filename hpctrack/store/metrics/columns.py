"""The metric columns of ``metrics``: which there are, what each takes, and adding new ones.

A column takes a value only if the cast gives it back: the same number, the same text, the same instant.
Everything else, and every metric without a column, stays in ``extra``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import sql

from hpctrack import errors
from hpctrack.backoff import Backoff
from hpctrack.store import database
from hpctrack.store.metrics import column_types
from hpctrack.store.statements import statement
from hpctrack.stream.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hpctrack import model
    from hpctrack.store.database import Connection

#: Most columns that are added automatically, and most that there may be in all for one to be added.
MAX_AUTOMATIC = 200
MAX_COLUMNS = 800
_MAX_NAME = 63  # bytes: NAMEDATALEN - 1 of PostgreSQL
#: What the table has beside metrics, and PostgreSQL's system columns (manual, "System Columns").
RESERVED = frozenset(
    "run_id step progress time attempt extra numbered tableoid oid xmin cmin xmax cmax ctid".split()
)
#: Comment by which an automatic column is known.
_AUTOMATIC = "Added by the collector"
_LOCK_TIMEOUT = "100ms"
_BACKOFF = Backoff(1.0, 300.0)


class Target(NamedTuple):
    """A column that a metric's values may go to."""

    name: str
    type: str
    """PostgreSQL's name of it (``pg_type.typname``)."""
    modifier: int = -1
    """``atttypmod``: length and the like; -1 for none."""

    def convert(self, given: model.Array | list[str | int]) -> tuple[model.Array, model.Mask]:
        """Return the values as this column's, and which of them it takes (see `ColumnType.accept`)."""
        return column_types.of(self.type).accept(given, self.modifier)


class Catalog(NamedTuple):
    """The columns of ``metrics`` at one moment."""

    signature: str
    targets: Mapping[str, Target]
    """By name; those whose type we can write."""
    names: frozenset[str]
    """All columns that are not hpctrack's own, whatever their type."""
    automatic: int


class _Column(NamedTuple):
    name: str
    type: str
    modifier: int
    is_writable: bool
    comment: str | None

    @property
    def takes_values(self) -> bool:
        return self.is_writable and self.type in column_types.TYPES

    @property
    def target(self) -> Target:
        return Target(self.name, self.type, self.modifier)


def load(connection: Connection) -> Catalog:
    """Read the catalog. Lets psycopg's errors through, as `signature` does."""
    columns = list(map(_Column._make, connection.execute(statement("fetch_columns"))))
    metrics = {column.name: column for column in columns if column.name not in RESERVED}
    targets = {name: column.target for name, column in metrics.items() if column.takes_values}
    automatic = sum(column.comment == _AUTOMATIC for column in columns)
    return Catalog(signature(connection), targets, frozenset(metrics), automatic)


def signature(connection: Connection) -> str:
    """Return a digest that changes when a column is added, dropped, renamed or changed."""
    [(digest,)] = connection.execute(statement("fetch_columns_signature")).fetchall()
    return str(digest)


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
        if folded not in taken and _is_name(name):
            taken.add(folded)
            chosen.append(name)
    return chosen


def _is_name(metric: str) -> bool:
    """Whether PostgreSQL takes the name of a metric for a column's, as it is."""
    return messages.storable(metric) == metric and 0 < len(metric.encode()) <= _MAX_NAME


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
