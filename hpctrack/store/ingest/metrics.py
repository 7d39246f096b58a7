"""Write rows into ``metrics``: fresh ones by plain COPY, those that may meet stored ones through a table."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psycopg
from psycopg import sql

from hpctrack.store import database
from hpctrack.store.ingest import gather, pending, rows
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
    numbered: set[int]
    """Runs of which rows came without a step."""
    progressed: set[int]
    """Runs of which rows came with progress."""
    stale: set[int]
    """Runs whose statistics these rows do not just add to."""
    tables: list[rows.Table]
    """The rows, as they were written: no key comes twice in one table."""


class Before(NamedTuple):
    """What is stored of a run."""

    next_step: int
    """The step after its greatest."""
    numbered: bool
    """Whether rows of it came without a step."""
    progressed: bool
    """Whether rows of it came with progress."""


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

    def write(self, logged: Sequence[rows.Logged], before: Mapping[int, Before]) -> Written:
        """Write blocks; those of a run stand together, in order of attempt and arrival.

        ``before``: of each run. The runs must be held by this transaction. Raises `errors.ContentRefused` and
        what psycopg raises.
        """
        if sum(item.block.rows for item in logged) < _MANY:
            return self._write(logged, before)
        skipped = self._connection.execute(statement("skip_run_checks")).fetchone() is not None
        written = self._write(logged, before)
        if skipped:
            self._connection.execute(statement("apply_run_checks"))
        return written

    def _write(self, logged: Sequence[rows.Logged], before: Mapping[int, Before]) -> Written:
        try:
            with self._connection.transaction():
                return self._write_parts(logged, before, fresh=True)
        except psycopg.errors.UniqueViolation:
            # Somebody else has written rows beyond what was known.
            self.forget()
            steps = self._connection.execute(statement("fetch_next_steps"), {"runs": list(before)}).fetchall()
            stored = {run_id: before[run_id]._replace(next_step=next_step) for run_id, next_step in steps}
            return self._write_parts(logged, stored, fresh=False)

    def _write_parts(
        self, logged: Sequence[rows.Logged], before: Mapping[int, Before], *, fresh: bool
    ) -> Written:
        """Write blocks; ``fresh`` rows go straight into ``metrics``, and fail where they meet others."""
        written = Written(
            latest=[],
            next_steps={run_id: of_run.next_step for run_id, of_run in before.items()},
            replaced={},
            numbered={run_id for run_id, of_run in before.items() if of_run.numbered},
            progressed={run_id for run_id, of_run in before.items() if of_run.progressed},
            stale=set(),
            tables=[],
        )
        meeting: list[rows.Table] = []
        parts = self._prepare(logged, written, meeting, fresh=fresh)
        part = next(parts, None)
        while part is not None:
            with self._connection.cursor() as cursor, cursor.copy(_copy_command(_TARGET, part[0])) as copy:
                copy.write(part[1])
                # While PostgreSQL takes this part in, the next one is made.
                part = next(parts, None)
        for table in meeting:
            self._meet(table, written)
        return written

    def _prepare(
        self, logged: Sequence[rows.Logged], written: Written, meeting: list[rows.Table], *, fresh: bool
    ) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """Yield fresh rows as columns and COPY data; put others, which go in after all of those, aside."""
        for part in rows.partition(logged, self._catalog.targets):
            table, seen = gather.gather(part, self._catalog.targets, written.next_steps)
            written.latest.extend(seen)
            written.numbered.update(_runs(table, table.numbered))
            beyond = rows.fresh(table, written.next_steps) if fresh else np.zeros(len(table), dtype=bool)
            written.next_steps.update(rows.advance(table, written.next_steps))
            if not beyond.all():
                meeting.append(_where(table, ~beyond))
            if beyond.any():
                table = rows.give_progress(_where(table, beyond))
                written.progressed.update(_runs(table, table.progress != 0))
                yield copy_binary.encode(rows.spread(_merged(table, written)))

    def _meet(self, table: rows.Table, written: Written) -> None:
        """Merge rows into stored ones, attempt by attempt: which of two values stays is told by that."""
        table = rows.give_progress(self._take_progress(table, written.progressed))
        written.progressed.update(_runs(table, table.progress != 0))
        for attempt in np.unique(table.attempt):
            part = _merged(_where(table, table.attempt == attempt), written)
            self._prepare_incoming()
            _add(written.replaced, self._merge(part, written))

    def _take_progress(self, table: rows.Table, progressed: Collection[int]) -> rows.Table:
        """Give values without progress that of their step, where one is stored."""
        bare = np.flatnonzero(np.isin(table.run, list(progressed)) & (table.progress == 0))
        if not len(bare):
            return table
        steps = {"runs": table.run[bare].tolist(), "steps": table.step[bare].tolist()}
        progress = table.progress.copy()
        for place, greatest in self._connection.execute(statement("fetch_progress_of_steps"), steps):
            progress[bare[place - 1]] = greatest
        return replace(table, progress=progress)

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

    def _merge(self, table: rows.Table, written: Written) -> dict[int, int]:
        names, data = copy_binary.encode(table, journal_column=self.table.journal_column)
        self._copy(_INCOMING, names, data)
        runs = set(_runs(table))
        if numbered := runs & written.numbered:
            next_steps = {run_id: written.next_steps[run_id] for run_id in numbered}
            _add(written.next_steps, give_way(self._connection, sql.Identifier(*_INCOMING), next_steps))
        if runs & written.progressed:
            self._connection.execute(progress_statement(sql.Identifier(*_INCOMING)))
        touched = _touched(table, self._catalog.targets)
        changed = self._connection.execute(_replacing_query(touched)).fetchall()
        written.stale.update(int(str(run_id)) for (run_id,) in changed)
        replaced: dict[int, int] = {}
        if table.attempt.any():
            journal_column = sql.Identifier("i", self.table.journal_column)
            query = composable("count_replaced").format(journal_column=journal_column)
            for journal_index, count in self._connection.execute(query).fetchall():
                replaced[int(str(journal_index))] = int(str(count))
        self._connection.execute(_merge_command(touched))
        return replaced


def give_way(
    connection: Connection, source: sql.Composable, next_steps: Mapping[int, int]
) -> Mapping[int, int]:
    """Move stored rows that were logged without a step out of the way of rows of a source that bring it.

    Returns how many rows moved, by run.
    """
    query = composable("give_way").format(
        source=source, runs=list(next_steps), next_steps=list(next_steps.values())
    )
    return Counter(int(str(run_id)) for (run_id,) in connection.execute(query).fetchall())


def progress_statement(source: sql.Composable) -> sql.Composed:
    """Return the statement that gives stored values without progress that of a source's rows."""
    return composable("give_progress").format(source=source)


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


@functools.lru_cache(maxsize=1024)
def _replacing_query(names: tuple[str, ...]) -> bytes:
    """Return the query for runs of which the temporary table replaces values, not only adds some."""
    both = composable("both_have_value")
    conditions = [both.format(column=sql.Identifier(name), name=sql.Literal(name)) for name in names]
    return composable("fetch_replacing").format(conditions=sql.SQL("").join(conditions)).as_bytes()


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


def _merged(table: rows.Table, written: Written) -> rows.Table:
    """Make one row of those with the same key, and note them as they are written."""
    table, replaced = rows.merge(table)
    _add(written.replaced, replaced)
    written.tables.append(table)
    written.stale.update(pending.unread(table))
    return table


def _runs(table: rows.Table, mask: np.ndarray | None = None) -> list[int]:
    """Return the runs of a table's rows, or of some of them."""
    if mask is not None and not mask.any():  # the usual case
        return []
    return list(np.unique(table.run if mask is None else table.run[mask]).tolist())


def _where(table: rows.Table, mask: np.ndarray) -> rows.Table:
    return table if mask.all() else table.take(np.flatnonzero(mask))


def _add(counts: dict[int, int], more: Mapping[int, int]) -> None:
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count
