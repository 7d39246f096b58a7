"""Rows on their way into ``metrics``: gathered from blocks, numbered, merged by key. Pure.

What is done here is done to whole columns; single values are touched only where a metric has no column.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpctrack import errors
from hpctrack.script import journal_lines
from hpctrack.store.metrics import columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hpctrack import model

#: Columns that runs with different metrics may share in one table, for the NULLs that this makes.
_SHARED_COLUMNS = 64
#: Cells (rows times columns) of one table: for the memory that it takes, and because PostgreSQL takes in one
#: while the next is made.
_MAX_CELLS = 64_000
#: Rows of a run, at once, that take several pages of an index.
_LONG = 500
MAX_STEP = journal_lines.INT64[-1]


class Logged(NamedTuple):
    """A block, and where it comes from."""

    run_id: int
    attempt: int
    journal_index: int
    """Which journal of the caller's list it is from."""
    block: model.MetricBlock


@dataclass(frozen=True)
class Declared:
    """Values for a column that is not double precision; arrays have an element for each row."""

    target: columns.Target
    values: model.Array
    present: model.Mask


@dataclass(frozen=True)
class Table:
    """Rows, in columns. Arrays have an element for each row; the rows of a run stand together."""

    run: model.Array
    step: model.Array
    numbered: model.Mask
    """Which rows were logged without a step."""
    progress: model.Array
    """0 for none."""
    attempt: model.Array
    journal_index: model.Array
    time: model.Array
    """Microseconds since the epoch."""
    timed: model.Mask
    names: tuple[str, ...]
    """The columns of double precision that have values."""
    floats: model.Array
    """float64, of shape (names, rows)."""
    present: model.Mask | None
    """Of the same shape: which are values; None: all."""
    declared: tuple[Declared, ...]
    extra: list[dict[str, str] | None] | None
    """Metrics without a column: name to JSON text. None: no row has any."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.run)

    def take(self, rows: model.Array) -> Table:
        """Return the rows of these indexes."""
        extra = self.extra
        if extra is not None:
            extra = [extra[row] for row in rows.tolist()]
            extra = extra if any(extra) else None
        return replace(
            self,
            run=self.run[rows],
            step=self.step[rows],
            numbered=self.numbered[rows],
            progress=self.progress[rows],
            attempt=self.attempt[rows],
            journal_index=self.journal_index[rows],
            time=self.time[rows],
            timed=self.timed[rows],
            floats=self.floats[:, rows],
            present=None if self.present is None else self.present[:, rows],
            declared=tuple(Declared(d.target, d.values[rows], d.present[rows]) for d in self.declared),
            extra=extra,
        )

    def runs(self) -> model.Array:
        """Return the index of the first row of each run."""
        return _starts(self.run[1:] != self.run[:-1])


def _starts(changes: model.Mask) -> model.Array:
    """Return where groups begin; ``changes`` says of each row but the first whether it begins one."""
    return np.flatnonzero(np.concatenate(([True], changes)))


def partition(logged: Iterable[Logged], targets: Mapping[str, columns.Target]) -> Iterator[list[Logged]]:
    """Divide blocks, in which those of a run stand together, into tables of few columns and bounded size.

    A run that does not fit into one table goes on in the next.
    """
    runs = [list(blocks) for _, blocks in itertools.groupby(logged, key=lambda item: item.run_id)]
    named: dict[tuple[str, ...], frozenset[str]] = {}
    sets = [frozenset().union(*(_columns_of(item.block, targets, named) for item in run)) for run in runs]
    table: list[Logged] = []
    union: frozenset[str] = frozenset()
    rows = 0
    for index in _alike_together(sets):
        wider = union | sets[index]
        if table and len(wider) > max(_SHARED_COLUMNS, len(union), len(sets[index])):
            yield table
            table, rows, wider = [], 0, sets[index]
        union = wider
        for item in runs[index]:
            if table and (rows + item.block.rows) * (len(union) + 1) > _MAX_CELLS:
                yield table
                table, rows, union = [], 0, sets[index]
            table.append(item)
            rows += item.block.rows
    if table:
        yield table


def _alike_together(sets: Sequence[frozenset[str]]) -> Iterable[int]:
    """Return the indexes of sets of columns in an order in which like ones stand together."""
    every = range(len(sets))
    return sorted(every, key=lambda index: sorted(sets[index])) if len(set(sets)) > 1 else every


def _columns_of(
    block: model.MetricBlock,
    targets: Mapping[str, columns.Target],
    named: dict[tuple[str, ...], frozenset[str]],
) -> frozenset[str]:
    present = named.get(block.names)
    if present is None:
        present = named[block.names] = frozenset(targets.keys() & set(block.names))
    if block.columns:
        present |= targets.keys() & {column.name for column in block.columns}
    return present


def fresh(table: Table, next_steps: Mapping[int, int]) -> model.Mask:
    """Return which rows lie beyond everything that is stored for their run."""
    starts = table.runs()
    limits = [next_steps[run] for run in table.run[starts].tolist()]
    return table.step >= np.repeat(limits, np.diff(starts, append=len(table)))


def spread(table: Table) -> Table:
    """Put the rows of long runs in an order that leaves no half-empty pages in the index of ``metrics``.

    A page of it that is full is split in the middle, unless it is the last of all (nbtsplitloc.c): of rows
    that only ever come behind the others of their run, half the space would stay empty for good. So five of
    nine rows come first, and the four between them fill up what those left.
    """
    starts = table.runs()
    counts = np.diff(starts, append=len(table))
    if counts.max() < _LONG:
        return table
    places = np.arange(len(table)) - np.repeat(starts, counts)
    second = (places % 9 % 2 == 1) & np.repeat(counts >= _LONG, counts)
    runs = np.repeat(np.arange(len(starts)), counts)
    return table.take(np.argsort(2 * runs + second, kind="stable"))


def advance(table: Table, next_steps: Mapping[int, int]) -> dict[int, int]:
    """Return the step after the greatest of each run of the table, and of what was stored."""
    starts = table.runs()
    greatest = np.maximum.reduceat(table.step, starts)
    return {
        run: max(next_steps[run], min(step, MAX_STEP - 1) + 1)
        for run, step in zip(table.run[starts].tolist(), greatest.tolist(), strict=True)
    }


def number(
    steps: model.Array,
    stepped: model.Mask,
    run: model.Array,
    when: model.Array,
    next_steps: Mapping[int, int],
) -> model.Array:
    """Give rows without a step the next free numbers of their run, in the order of attempt and time.

    Those come after all steps that are stored, and after all that the rows of the run bring: no row is in
    another's place. ``when``: of the rows, in what order they were logged (`in_order_of_time`). Raises
    `errors.ContentRefused` where no step is left.
    """
    numbered: model.Array = steps.copy()
    starts = _starts(run[1:] != run[:-1])
    for begin, end in itertools.pairwise([*starts.tolist(), len(run)]):
        bare = begin + np.flatnonzero(~stepped[begin:end])
        if not len(bare):
            continue
        first = next_steps[int(run[begin])]
        if len(bare) < end - begin:
            first = max(first, min(int(steps[begin:end][stepped[begin:end]].max()), MAX_STEP - 1) + 1)
        if first > MAX_STEP - len(bare):
            raise errors.ContentRefused("no step is left for a row without one", "22003")
        numbered[bare[np.argsort(when[bare], kind="stable")]] = np.arange(first, first + len(bare))
    return numbered


def least_step(block: model.MetricBlock) -> int | None:
    """Return the least positive step that the rows of a block brought; None if they brought none."""
    if block.steps is None:
        return None
    brought = block.steps > 0 if block.stepped is None else block.stepped & (block.steps > 0)
    return int(block.steps[brought].min()) if brought.any() else None


def in_order_of_time(attempt: model.Array, time: model.Array, timed: model.Mask) -> model.Array:
    """Return of each row its place in the order of attempt and time.

    A row without a time was logged right after the one before it, as far as anybody knows.
    """
    before = np.maximum.accumulate(np.where(timed, np.arange(len(time)), 0))
    order = np.lexsort((time[before], attempt))
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def give_progress(table: Table) -> Table:
    """Give values without progress that of their step, if other rows of the table bring one.

    Of several the greatest that came before, or else the first that came after. The rows of a run must stand
    in the order of their arrival.
    """
    has = table.progress != 0
    if has.all() or not has.any():
        return table
    order = np.lexsort((table.step, table.run))
    run, step, has, progress = (part[order] for part in (table.run, table.step, has, table.progress))
    changes = (run[1:] != run[:-1]) | (step[1:] != step[:-1])
    starts = _starts(changes)
    group = np.cumsum(np.concatenate(([False], changes)))
    # Groups one above the other, so that the greatest so far is the group's own.
    ranked, rank = np.unique(progress, return_inverse=True)
    levels = group * (len(ranked) + 1)
    greatest = np.maximum.accumulate(levels + np.where(has, rank + 1, 0)) - levels
    places = np.where(has, np.arange(len(run)), len(run))
    first = np.minimum.reduceat(places, starts)[group]
    late = (greatest == 0) & (first < len(run))
    given = np.where(has, progress, np.where(greatest > 0, ranked[greatest - 1], 0.0))
    given[late] = progress[first[late]]
    given_progress = table.progress.copy()
    given_progress[order] = given
    return replace(table, progress=given_progress)


def merge(table: Table) -> tuple[Table, dict[int, int]]:
    """Make one row of those with the same key: of each metric, the last value counts.

    The rows of a run must stand in order of attempt and arrival. Returns the table and how many rows of an
    earlier attempt were replaced, by index of the journal.
    """
    same_run = table.run[1:] == table.run[:-1]
    later = (table.step[1:] > table.step[:-1]) | (
        (table.step[1:] == table.step[:-1]) & (table.progress[1:] > table.progress[:-1])
    )
    if (~same_run | later).all():
        return table, {}
    order = np.lexsort((table.progress, table.step, table.run))
    keys = (table.run[order], table.step[order], table.progress[order])
    starts = _starts(np.logical_or.reduce([key[1:] != key[:-1] for key in keys]))
    if len(starts) == len(table):
        return table, {}
    table = table.take(order)
    return _merge_groups(table, starts), _replaced(table, starts)


def _merge_groups(table: Table, starts: model.Array) -> Table:
    ends = np.append(starts[1:], len(table)) - 1
    timed = last_rows(table.timed, starts)
    floats, present = table.floats[:, ends], None
    last: model.Array | None = None
    if table.present is not None:
        last = last_rows(table.present, starts)
        floats, present = np.take_along_axis(table.floats, np.maximum(last, 0), axis=1), last >= 0
    declared = []
    for column in table.declared:
        rows = last_rows(column.present, starts)
        declared.append(Declared(column.target, column.values[np.maximum(rows, 0)], rows >= 0))
    merged = replace(
        table.take(ends),
        time=table.time[np.maximum(timed, 0)],
        timed=timed >= 0,
        floats=floats,
        present=present,
        declared=tuple(declared),
    )
    if table.extra is None:
        return merged
    return _merge_extra(table, table.extra, starts, merged)


def last_rows(present: model.Mask, starts: model.Array) -> model.Array:
    """Return the index of the last row of each group that has a value, or -1."""
    rows = np.where(present, np.arange(present.shape[-1]), -1)
    return np.maximum.reduceat(rows, starts, axis=-1)


def _merge_extra(
    table: Table, extra: list[dict[str, str] | None], starts: model.Array, merged: Table
) -> Table:
    """Merge the metrics without a column; a value that came later in the other place wins."""
    present = merged.present
    if present is None:
        present = np.ones(merged.floats.shape, dtype=bool)
    places = {name: (present[index], _row_of(table, index)) for index, name in enumerate(table.names)}
    for column, original in zip(merged.declared, table.declared, strict=True):
        places[column.target.name] = (column.present, original.present)
    merged_extra: list[dict[str, str] | None] = []
    for group, (begin, end) in enumerate(itertools.pairwise([*starts.tolist(), len(table)])):
        texts: dict[str, str] = {}
        for row, name, text in _cells(extra, begin, end):
            if name in places:
                in_merged, in_table = places[name]
                if in_table[row + 1 : end].any():
                    continue
                in_merged[group] = False
            texts[name] = text
        merged_extra.append(texts or None)
    return replace(merged, present=present, extra=merged_extra)


def _cells(extra: list[dict[str, str] | None], begin: int, end: int) -> Iterator[tuple[int, str, str]]:
    """Yield row, name and text of each metric without a column, row by row."""
    for row in range(begin, end):
        for name, text in (extra[row] or {}).items():
            yield row, name, text


def _row_of(table: Table, index: int) -> model.Mask:
    return np.ones(len(table), dtype=bool) if table.present is None else table.present[index]


def _replaced(table: Table, starts: model.Array) -> dict[int, int]:
    ends = np.append(starts[1:], len(table)) - 1
    replaced = np.minimum.reduceat(table.attempt, starts) < table.attempt[ends]
    journals, counts = np.unique(table.journal_index[ends][replaced], return_counts=True)
    return dict(zip(journals.tolist(), counts.tolist(), strict=True))
