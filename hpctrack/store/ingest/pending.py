"""Rows that are committed, and of which the statistics of their runs do not tell yet.

The thread that stores rows hands its tables over; another one makes statistics of many of them at once.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpctrack.store import database, values
from hpctrack.store.metrics import column_types, statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hpctrack import model
    from hpctrack.store.ingest.rows import Table
    from hpctrack.store.metrics.statistics import Statistics

#: Cells (rows times metrics) of tables that wait, from where on nobody should wait longer.
MANY = 4_000_000
#: Cells beyond which rows are left to be read from the table again.
_TOO_MANY = 4 * MANY


class Key(NamedTuple):
    """A run, and how often its statistics were reckoned anew: those tell of all that came before that."""

    run_id: int
    scans: int


class Brought(NamedTuple):
    """What rows of a run bring."""

    rows: int
    statistics: dict[str, Statistics]
    """By metric."""


class Pending:
    """Tables of rows, until their statistics are taken. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: list[Table] = []
        self._cells = 0
        self._rows: dict[Key, int] = {}

    @property
    def is_much(self) -> bool:
        """Whether what waits takes much memory."""
        return self._cells > MANY

    def add(self, counts: Mapping[Key, int], tables: Iterable[Table]) -> None:
        """Take in rows that were committed: how many came of each run, and tables of them.

        While there are too many they are forgotten: then nobody tells that the statistics have them, and they
        are read again.
        """
        with self._lock:
            if self._cells > _TOO_MANY:
                return
            scans = {key.run_id: key.scans for key in counts}
            for table in tables:
                self._cells += len(table) * (len(table.names) + 1)
                self._tables.append(_keyed(table, scans))
            for key, rows in counts.items():
                self._rows[key] = self._rows.get(key, 0) + rows

    def take(self) -> dict[Key, Brought]:
        """Return what all of it brings."""
        with self._lock:
            tables, self._tables, self._cells = self._tables, [], 0
            counts, self._rows = self._rows, {}
        brought = {key: Brought(rows, {}) for key, rows in counts.items()}
        for key, name, of_metric in of_tables(tables):
            join(brought[Key(*key)].statistics, [(name, of_metric)])
        return brought


def join(before: dict[str, Statistics], more: Iterable[tuple[str, Statistics]]) -> None:
    """Join statistics of further rows to those of a run; of too many names some have none."""
    for name, of_name in more:
        if name in before:
            before[name] = before[name].joined(of_name)
        elif len(before) < statistics.MOST:
            before[name] = of_name


def unread(table: Table) -> set[int]:
    """Return runs that have numbers in columns whose values are not numbers here, such as numeric."""
    return {
        run_id
        for column in table.declared
        if column.values.dtype == object and column_types.of(column.target.type).as_number is not None
        for run_id in np.unique(table.run[column.present]).tolist()
    }


# Tables that wait have in place of the run's id that and the number of scans, in one integer.
_SCANS = 1 << 31


def _keyed(table: Table, scans: Mapping[int, int]) -> Table:
    starts = table.runs()
    keys = [run_id * _SCANS + scans[run_id] for run_id in table.run[starts].tolist()]
    return replace(table, run=np.repeat(np.array(keys, np.int64), np.diff(starts, append=len(table))))


def of_tables(tables: Iterable[Table]) -> Iterator[tuple[tuple[int, int], str, Statistics]]:
    """Yield run and number of scans, metric, and statistics; some may come again, of other rows."""
    alike: dict[tuple[str, ...], list[Table]] = {}
    for table in tables:
        alike.setdefault(table.names, []).append(table)
        yield from _of_declared(table)
        yield from _of_extra(table)
    for names, given in alike.items():
        if names:
            matrix = np.concatenate([table.floats for table in given], axis=1)
            yield from _of_matrix(given, names, matrix, _presence(given))


def _presence(tables: list[Table]) -> model.Mask | None:
    if all(table.present is None for table in tables):
        return None
    present = (
        np.ones(table.floats.shape, dtype=bool) if table.present is None else table.present
        for table in tables
    )
    return np.concatenate(list(present), axis=1)


def _of_matrix(
    tables: list[Table], names: tuple[str, ...], matrix: model.Array, present: model.Mask | None
) -> Iterator[tuple[tuple[int, int], str, Statistics]]:
    rows = statistics.Rows(
        *(np.concatenate([getattr(table, name) for table in tables]) for name in ("run", "step", "progress"))
    )
    order = rows.order()
    if order is not None:
        rows, matrix = rows.taken(order), matrix[:, order]
        present = None if present is None else present[:, order]
    for row, metric, of_metric in statistics.of_rows(rows, matrix, present):
        yield divmod(int(rows.run[row]), _SCANS), names[metric], of_metric


def _of_declared(table: Table) -> Iterator[tuple[tuple[int, int], str, Statistics]]:
    """Yield the statistics of numbers in columns of other types than double precision."""
    numeric = [
        column
        for column in table.declared
        if column.values.dtype != object and column_types.of(column.target.type).as_number is not None
    ]
    if numeric:
        names = tuple(column.target.name for column in numeric)
        matrix = np.array([column.values.astype(np.float64) for column in numeric])
        yield from _of_matrix([table], names, matrix, np.array([column.present for column in numeric]))


def _of_extra(table: Table) -> Iterator[tuple[tuple[int, int], str, Statistics]]:
    """Yield the statistics of numbers that have no column."""
    numbers: dict[tuple[int, str], list[statistics.End]] = {}
    places = zip(table.run.tolist(), table.step.tolist(), table.progress.tolist(), strict=True)
    for (key, step, progress), texts in zip(places, table.extra or (), strict=False):
        for name, text in (texts or {}).items():
            number = _number(text)
            if number is not None:
                numbers.setdefault((key, name), []).append(statistics.End(step, progress, number))
    for (key, name), given in numbers.items():
        yield divmod(key, _SCANS), name, statistics.of_values(given)


def _number(text: str) -> float | None:
    """Return the number that the JSON text of a value stands for, as ``metric_number()`` in SQL does."""
    if text[0] == '"':
        return None
    return as_number(values.decode(database.loads(text)))


def as_number(value: Any) -> float | None:
    """Return a value of a metric as a number, as ``metric_number()`` in SQL does; None if it is none."""
    if not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
