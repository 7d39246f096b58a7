"""Write rows into ``metrics``: fresh ones by plain COPY, those that may meet stored ones through a table."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psycopg
from psycopg import sql

from hpctrack.store import database
from hpctrack.store.ingest import gather, rows
from hpctrack.store.metrics import columns, copy_binary
from hpctrack.store.statements import composable, statement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from hpctrack.store.database import Connection

_TARGET = ("metrics",)
_INCOMING = ("pg_temp", "incoming_metrics")
#: Rows from which on it pays to look at their runs instead of at each of them.
_MANY = 1000
_NO_NAMES = sql.SQL("'{{}}'::text[]").format()


class Written(NamedTuple):
    """What was written."""

    latest: list[gather.Latest]
    """Of each run; one that did not fit into one table comes again, later values behind earlier ones."""
    next_steps: dict[int, int]
    replaced: dict[int, int]
    """Rows of an earlier attempt that were replaced, by the index of the journal."""


class Incoming(NamedTuple):
    """The temporary table for rows that may meet stored ones."""

    signature: str = ""
    """Of its columns; empty while there is none."""
    journal_column: str = ""
    """The column that `metrics` does not have: of which journal a row is."""
    used: bool = False
    """Whether this transaction has put rows there."""


class Writer:
    """Writes rows through one connection, inside the caller's transactions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._catalog = columns.Catalog("", {}, frozenset(), 0)
        #: How the temporary table is: whoever rolls back to a savepoint takes back what it was there.
        self.table = Incoming()

    def load(self) -> columns.Catalog:
        """Return the columns of ``metrics`` as they were last seen. Raises `errors.StoreError`."""
        if not self._catalog.signature:
            with database.translated():
                self._catalog = columns.load(self._connection)
        return self._catalog

    def begin(self) -> None:
        """A new transaction begins: the temporary table is empty."""
        self.table = self.table._replace(used=False)

    def forget(self) -> None:
        """Forget what a transaction did that was rolled back."""
        self.table = Incoming()

    def refresh(self) -> None:
        """See which columns there are; inside a transaction they stay so until its end."""
        self._connection.execute(statement("take_part_in_metrics"))
        if columns.signature(self._connection) != self._catalog.signature:
            self._catalog = columns.load(self._connection)

    def write(self, logged: Sequence[rows.Logged], next_steps: Mapping[int, int]) -> Written:
        """Write blocks; those of a run stand together, in order of attempt and arrival.

        ``next_steps``: by run, the step after the greatest that is stored. The runs must be held by this
        transaction. Raises `errors.ContentRefused` and what psycopg raises.
        """
        if sum(item.block.rows for item in logged) < _MANY:
            return self._write(logged, next_steps)
        skipped = self._connection.execute(statement("skip_run_checks")).fetchone() is not None
        written = self._write(logged, next_steps)
        if skipped:
            self._connection.execute(statement("apply_run_checks"))
        return written

    def _write(self, logged: Sequence[rows.Logged], next_steps: Mapping[int, int]) -> Written:
        try:
            with self._connection.transaction():
                return self._write_parts(logged, next_steps, fresh=True)
        except psycopg.errors.UniqueViolation:
            # Somebody else has written rows beyond what was known.
            self.forget()
            return self._write_parts(logged, next_steps, fresh=False)

    def _write_parts(
        self, logged: Sequence[rows.Logged], next_steps: Mapping[int, int], *, fresh: bool
    ) -> Written:
        """Write blocks; ``fresh`` rows go straight into ``metrics``, and fail where they meet others."""
        written = Written([], dict(next_steps), {})
        meeting: list[rows.Table] = []
        parts = self._prepare(logged, written, meeting, fresh=fresh)
        part = next(parts, None)
        while part is not None:
            with self._connection.cursor() as cursor, cursor.copy(_copy_command(_TARGET, part[0])) as copy:
                copy.write(part[1])
                # While PostgreSQL takes this part in, the next one is made.
                part = next(parts, None)
        for table in meeting:
            self._prepare_incoming()
            _add(written.replaced, self._merge(table))
        return written

    def _prepare(
        self, logged: Sequence[rows.Logged], written: Written, meeting: list[rows.Table], *, fresh: bool
    ) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """Yield fresh rows as columns and COPY data; put others, which go in after all of those, aside."""
        for part in rows.partition(logged, self._catalog.targets):
            table, seen = gather.gather(part, self._catalog.targets, written.next_steps)
            written.latest.extend(seen)
            table, merged = rows.merge(table)
            _add(written.replaced, merged)
            beyond = rows.fresh(table, written.next_steps) if fresh else np.zeros(len(table), dtype=bool)
            written.next_steps.update(rows.advance(table, written.next_steps))
            if not beyond.all():
                meeting.append(_where(table, ~beyond))
            if beyond.any():
                yield copy_binary.encode(rows.spread(_where(table, beyond)))

    def _copy(self, table: tuple[str, ...], names: tuple[str, ...], data: bytes) -> None:
        with self._connection.cursor() as cursor, cursor.copy(_copy_command(table, names)) as copy:
            copy.write(data)

    def _prepare_incoming(self) -> None:
        """Make the temporary table, or empty it of what this transaction may have put there."""
        if self.table.signature != self._catalog.signature:
            self._connection.execute(statement("drop_incoming"))
            column = _free_name(self._catalog.names)
            create = composable("create_incoming").format(journal_column=sql.Identifier(column))
            self._connection.execute(create)
            self.table = Incoming(self._catalog.signature, column)
        elif self.table.used:
            self._connection.execute(statement("truncate_incoming"))
        self.table = self.table._replace(used=True)

    def _merge(self, table: rows.Table) -> dict[int, int]:
        names, data = copy_binary.encode(table, journal_column=self.table.journal_column)
        self._copy(_INCOMING, names, data)
        replaced: dict[int, int] = {}
        if table.attempt.any():
            journal_column = sql.Identifier("i", self.table.journal_column)
            query = composable("count_replaced").format(journal_column=journal_column)
            for journal_index, count in self._connection.execute(query).fetchall():
                replaced[int(str(journal_index))] = int(str(count))
        self._connection.execute(_merge_command(_touched(table, self._catalog.targets)))
        return replaced


def _free_name(taken: Collection[str]) -> str:
    """Return the name of the journal's column: metrics may have any name, so it is one that none has."""
    return next(name for number in itertools.count() if (name := f"journal {number}") not in taken)


@functools.lru_cache(maxsize=4096)
def _copy_command(table: tuple[str, ...], names: tuple[str, ...]) -> bytes:
    listed = _joined(map(sql.Identifier, names))
    return composable("copy_rows").format(table=sql.Identifier(*table), columns=listed).as_bytes()


def _touched(table: rows.Table, targets: Mapping[str, columns.Target]) -> tuple[str, ...]:
    """Return the columns that a table changes, also those whose metrics it has in ``extra`` this time."""
    names = (*table.names, *(column.target.name for column in table.declared))
    elsewhere = {name for extra in table.extra or () for name in extra or () if name in targets}
    return (*names, *sorted(elsewhere.difference(names)))


@functools.lru_cache(maxsize=1024)
def _merge_command(names: tuple[str, ...]) -> bytes:
    """Return the statement that merges the temporary table into these columns of ``metrics``."""
    return merge_statement(names, sql.Identifier(*_INCOMING)).as_bytes()


def merge_statement(names: Sequence[str], source: sql.Composable) -> sql.Composed:
    """Return the statement that merges rows of a source, of the same columns, into ``metrics``."""
    column = composable("merge_column")
    assignments = [column.format(column=sql.Identifier(name), name=sql.Literal(name)) for name in names]
    return composable("merge_incoming").format(
        source=source,
        columns=sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(name)) for name in names),
        assignments=sql.SQL("").join(assignments),
        given=_present("excluded", names),
        stored=_present("m", names),
    )


def _present(row: str, names: Sequence[str]) -> sql.Composed:
    """Return an array of those of the metrics that have a value in their column of a row."""
    if not names:
        return _NO_NAMES
    case = sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END")
    cases = (case.format(sql.Identifier(row, name), sql.Literal(name)) for name in names)
    return sql.SQL("array_remove(ARRAY[{}]::text[], NULL)").format(_joined(cases))


def _joined(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _where(table: rows.Table, mask: np.ndarray) -> rows.Table:
    return table if mask.all() else table.take(np.flatnonzero(mask))


def _add(counts: dict[int, int], more: Mapping[int, int]) -> None:
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count
