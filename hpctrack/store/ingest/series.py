"""Write rows of series, which have steps of their own in each series of a run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.store import values
from hpctrack.store.ingest import pieces, rows
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hpctrack.store.database import Connection
    from hpctrack.stream.wire import journal


class Key(NamedTuple):
    """A series of a run."""

    run_id: int
    series: str


class _Stored(NamedTuple):
    """What is stored of a series."""

    next_index: int = 0
    """The step after its greatest."""
    numbered: bool = False
    """Whether rows of it came without a step."""


class _Logged(NamedTuple):
    attempt: int
    row: journal.Row


@dataclass
class _Row:
    """One row of the table, as far as this batch brings it."""

    attempt: int
    numbered: bool
    progress: float | None = None
    time: float | None = None
    texts: dict[str, str] = field(default_factory=dict)

    def take(self, attempt: int, row: journal.Row) -> None:
        """Take in a row that was logged later."""
        self.attempt = attempt
        self.progress = self.progress if row.progress is None else row.progress
        self.time = self.time if row.time is None else row.time
        self.texts.update({name: values.encode(value) for name, value in row.values.items()})


def write(connection: Connection, logged: Sequence[rows.Logged]) -> None:
    """Write blocks of series; those of a run stand together, in order of attempt and arrival.

    The runs must be held by this transaction. Raises `errors.ContentRefused` and what psycopg raises.
    """
    by_series = _by_series(logged)
    stored = _fetch(connection, by_series)
    counts: dict[int, int] = {}
    latest: dict[int, int | None] = {}
    written: list[str] = []
    counted: list[str] = []
    for key, given in by_series.items():
        next_index = _make_room(connection, key, given, stored.get(key, _Stored()))
        placed = _place(given, next_index)
        written += (_row_text(key, index, row) for index, row in sorted(placed.items()))
        counted += _counters(key, given, placed)
        counts[key.run_id] = counts.get(key.run_id, 0) + len(given)
        times = [_microseconds(row.time) for row in placed.values() if row.time is not None]
        latest[key.run_id] = max([*times, *filter(None, [latest.get(key.run_id)])], default=None)
    connection.execute(statement("merge_series"), {"rows": values.to_array(written)})
    connection.execute(statement("update_series"), {"series": values.to_array(counted)})
    connection.execute(
        statement("count_series_rows"),
        {"runs": list(counts), "rows": list(counts.values()), "times": list(latest.values())},
    )


def _by_series(logged: Iterable[rows.Logged]) -> dict[Key, list[_Logged]]:
    by_series: dict[Key, list[_Logged]] = {}
    for item in logged:
        given = by_series.setdefault(Key(item.run_id, item.block.series or ""), [])
        given += (_Logged(item.attempt, row) for row in pieces.journal_rows(item.block))
    return dict(sorted(by_series.items()))


def _fetch(connection: Connection, keys: Iterable[Key]) -> dict[Key, _Stored]:
    runs, series = zip(*keys, strict=True)
    found = connection.execute(statement("fetch_series"), {"runs": list(runs), "series": list(series)})
    return {Key(int(str(run_id)), str(name)): _Stored(*stored) for run_id, name, *stored in found}


def _make_room(connection: Connection, key: Key, given: Sequence[_Logged], stored: _Stored) -> int:
    """Move stored rows without a step out of the way; returns the first number that is free then."""
    brought = {item.row.step for item in given if item.row.step is not None}
    next_index = max([stored.next_index, *(min(step, rows.MAX_STEP - 1) + 1 for step in brought)])
    if stored.numbered and brought:
        moved = connection.execute(
            statement("give_way_in_series"),
            {"run": key.run_id, "series": key.series, "brought": list(brought), "next": next_index},
        )
        next_index += moved.rowcount
    return next_index


def _place(given: Sequence[_Logged], next_index: int) -> dict[int, _Row]:
    """Return the rows by their step; those without one get free numbers in the order of attempt and time."""
    placed: dict[int, _Row] = {}
    for attempt, row in given:
        if row.step is not None:
            placed.setdefault(row.step, _Row(attempt, numbered=False)).take(attempt, row)
    bare = [item for item in given if item.row.step is None]
    if bare and next_index > rows.MAX_STEP - len(bare):
        raise errors.ContentRefused("no step is left for a row without one", "22003")
    for index, item in zip(itertools.count(next_index), _in_order_of_time(bare), strict=False):
        placed[index] = _Row(item.attempt, numbered=True)
        placed[index].take(*item)
    return placed


def _in_order_of_time(given: Iterable[_Logged]) -> list[_Logged]:
    """Order rows by attempt and time; one without a time was logged right after the one before it."""
    time = 0.0
    timed: list[tuple[int, float, _Logged]] = []
    for item in given:
        time = time if item.row.time is None else item.row.time
        timed.append((item.attempt, time, item))
    return [item for _, _, item in sorted(timed, key=lambda entry: entry[:2])]


def _row_text(key: Key, index: int, row: _Row) -> str:
    """Return a row as ``merge_series`` takes it."""
    return values.to_object(
        {
            "run_id": str(key.run_id),
            "series": values.encode(key.series),
            "idx": str(index),
            "progress": "null" if row.progress is None else values.to_json(row.progress),
            "time": "null" if row.time is None else str(_microseconds(row.time)),
            "attempt": str(row.attempt),
            "numbered": "true" if row.numbered else "null",
            "values": values.to_object(row.texts),
        }
    )


def _counters(key: Key, given: Sequence[_Logged], placed: Mapping[int, _Row]) -> Iterator[str]:
    """Yield what came of each attempt, as ``update_series`` takes it."""
    next_index = str(min(max(placed), rows.MAX_STEP - 1) + 1)
    for attempt, logged in itertools.groupby(given, key=lambda item: item.attempt):
        steps = [item.row.step for item in logged]
        positive = [step for step in steps if step is not None and step > 0]
        yield values.to_object(
            {
                "run_id": str(key.run_id),
                "series": values.encode(key.series),
                "attempt": str(attempt),
                "rows": str(len(steps)),
                "numbered": "true" if None in steps else "false",
                "next_idx": next_index,
                # Nothing was before the first attempt that it could supersede.
                "first_idx": str(min(positive)) if positive and attempt else "null",
            }
        )


def _microseconds(time: float) -> int:
    return values.readable_time(round(time * 1e6))
