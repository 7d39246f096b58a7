"""Gather blocks of metrics into one table: each value into its column, or into ``extra``. Pure."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpctrack.script.journal_lines import Json
from hpctrack.store import values
from hpctrack.store.ingest import rows
from hpctrack.store.metrics import columns
from hpctrack.store.metrics.column_types import FLOAT8

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpctrack import model


class Latest(NamedTuple):
    """The latest row of a run, and the latest value of each of its metrics."""

    run_id: int
    attempt: int
    step: int
    time: int | None
    """Microseconds since the epoch, of the latest row that has a time."""
    values: dict[str, str]
    """JSON text (see `hpctrack.store.values`) by metric."""


def gather(
    logged: Sequence[rows.Logged], targets: Mapping[str, columns.Target], next_steps: Mapping[int, int]
) -> tuple[rows.Table, list[Latest]]:
    """Return the table, in the order of the blocks, and the latest values of each run.

    The blocks of a run stand together, in order of attempt and arrival. ``next_steps``: by run, the step
    after the greatest that is stored. Raises `errors.ContentRefused` where a row can't get a step.
    """
    gathered = _Gathered(logged, targets)
    table = gathered.table(next_steps)
    return table, gathered.latest(table)


class _Gathered:
    """Blocks being put together."""

    def __init__(self, logged: Sequence[rows.Logged], targets: Mapping[str, columns.Target]) -> None:
        self._logged = logged
        self._targets = targets
        self._counts = [item.block.rows for item in logged]
        self._total = sum(self._counts)
        self._declared: dict[str, rows.Declared] = {}
        self._extra: list[dict[str, str] | None] | None = None
        #: Of metrics outside the matrix, by run: row and text of the latest value.
        self._last: dict[int, dict[str, tuple[int, str]]] = {}
        first = logged[0].block
        if all(item.block.names == first.names and not item.block.columns for item in logged) and all(
            self._is_float(name) for name in first.names
        ):
            self._names = first.names
            self._floats = np.concatenate([item.block.matrix for item in logged], axis=1)
            self._present: model.Mask | None = None
        else:
            self._fill()

    def table(self, next_steps: Mapping[int, int]) -> rows.Table:
        """Return what was gathered; rows without a step are numbered."""
        blocks = [item.block for item in self._logged]
        run = self._spread([item.run_id for item in self._logged], np.int64)
        attempt = self._spread([item.attempt for item in self._logged], np.int32)
        step, stepped = self._join([(block.steps, block.stepped) for block in blocks])
        time, timed = self._join([(block.times, block.timed) for block in blocks])
        if not stepped.all():
            when = rows.in_order_of_time(attempt, time, timed)
            step = rows.number(step, stepped, run, when, next_steps)
        return rows.Table(
            run=run,
            step=step,
            numbered=~stepped,
            progress=self._progress(),
            attempt=attempt,
            journal_index=self._spread([item.journal_index for item in self._logged], np.int32),
            time=time,
            timed=timed,
            names=self._names,
            floats=self._floats,
            present=self._present,
            declared=tuple(self._declared.values()),
            extra=self._extra,
        )

    def latest(self, table: rows.Table) -> list[Latest]:
        """Return the latest values of each run."""
        starts = table.runs()
        ends = np.append(starts[1:], len(table)) - 1
        timed = rows.last_rows(table.timed, starts)
        latest = list(
            map(
                Latest,
                table.run[ends].tolist(),
                table.attempt[ends].tolist(),
                table.step[ends].tolist(),
                [None if row < 0 else int(table.time[row]) for row in timed.tolist()],
                [{} for _ in range(len(ends))],
            )
        )
        for name, run, row, text in self._last_floats(table, ends):
            of_run = latest[run]
            noted = self._last.get(of_run.run_id)
            if noted is None or row >= noted.get(name, (0, ""))[0]:
                of_run.values[name] = text
        for of_run in latest:
            for name, (_, text) in self._last.get(of_run.run_id, {}).items():
                of_run.values.setdefault(name, text)
        return latest

    def _last_floats(self, table: rows.Table, ends: model.Array) -> Iterator[tuple[str, int, int, str]]:
        """Yield metric, index of the run, row and text of each last value in the matrix."""
        if table.present is None:
            indexes, runs = (grid.ravel() for grid in np.indices((len(table.names), len(ends))))
            last = ends[runs]
        else:
            indexes, last = np.divmod(np.flatnonzero(table.present), len(table))
            runs = np.searchsorted(ends, last)
            final = np.append((indexes[1:] != indexes[:-1]) | (runs[1:] != runs[:-1]), np.ones(1, bool))
            indexes, runs, last = (
                indexes[final[: len(last)]],
                runs[final[: len(last)]],
                last[final[: len(last)]],
            )
        names = (table.names[index] for index in indexes.tolist())
        texts = values.encode_array(table.floats[indexes, last])
        return zip(names, runs.tolist(), last.tolist(), texts, strict=True)

    def _is_float(self, name: str) -> bool:
        target = self._targets.get(name)
        return target is not None and target.type == FLOAT8

    def _spread(self, each: Sequence[int], dtype: type) -> model.Array:
        """Repeat what is true of a whole block for each of its rows."""
        return np.repeat(np.array(each, dtype), self._counts)

    def _join(
        self, parts: Sequence[tuple[model.Array | None, model.Mask | None]]
    ) -> tuple[model.Array, model.Mask]:
        """Join int64 arrays that some rows have no element of."""
        if all(array is not None and mask is None for array, mask in parts):
            return np.concatenate([array for array, _ in parts]), np.ones(self._total, dtype=bool)
        numbers, masks = [], []
        for count, (array, mask) in zip(self._counts, parts, strict=True):
            numbers.append(np.zeros(count, np.int64) if array is None else array)
            masks.append(np.full(count, array is not None) if mask is None else mask)
        return np.concatenate(numbers), np.concatenate(masks)

    def _progress(self) -> model.Array:
        blocks = [item.block for item in self._logged]
        if all(block.progress is None for block in blocks):
            return np.zeros(self._total)
        return np.concatenate([np.zeros(b.rows) if b.progress is None else b.progress for b in blocks])

    def _fill(self) -> None:
        """Place the values of blocks with different metrics, one block after the other."""
        sets = dict.fromkeys(_names(item.block) for item in self._logged)
        named = dict.fromkeys(itertools.chain.from_iterable(sets))
        self._names = tuple(name for name in named if self._is_float(name))
        self._indexes = {name: index for index, name in enumerate(self._names)}
        self._floats = np.zeros((len(self._names), self._total))
        present = self._present = np.zeros((len(self._names), self._total), dtype=bool)
        plans: dict[tuple[str, ...], _Plan] = {}
        begin = 0
        for item in self._logged:
            block = item.block
            end = begin + block.rows
            plan = plans.get(block.names)
            if plan is None:
                plan = plans[block.names] = self._plan(block.names)
            if len(plan.to):
                self._floats[plan.to, begin:end] = block.matrix[plan.of] if plan.others else block.matrix
                present[plan.to, begin:end] = True
            if plan.others or block.columns:
                self._place_others(item, plan, np.arange(begin, end))
            begin = end

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        of = [index for index, name in enumerate(names) if name in self._indexes]
        to = [self._indexes[names[index]] for index in of]
        others = tuple(index for index, name in enumerate(names) if name not in self._indexes)
        return _Plan(np.array(of, np.intp), np.array(to, np.intp), others)

    def _place_others(self, item: rows.Logged, plan: _Plan, where: model.Array) -> None:
        for index in plan.others:
            self._place(item.run_id, item.block.names[index], where, item.block.matrix[index])
        for column in item.block.columns:
            at = where if column.present is None else where[column.present]
            if len(at):
                self._place(item.run_id, column.name, at, column.values)

    def _place(
        self, run_id: int, name: str, where: model.Array, given: model.Array | list[str | int]
    ) -> None:
        """Put values of one metric into their column as far as it takes them, the others into ``extra``."""
        is_json = isinstance(given, list) and isinstance(given[0], Json)
        target = None if is_json else self._targets.get(name)
        if target is not None:
            converted, taken = target.convert(given)
            at = where[taken]
            if target.type == FLOAT8:
                self._put(self._indexes[name], at, converted[taken])
            else:
                self._note_last(run_id, name, where, given)
                column = self._column(target, converted.dtype)
                column.values[at] = converted[taken]
                column.present[at] = True
            if taken.all():
                return
            where = where[~taken]
            if isinstance(given, list):
                given = [value for value, kept in zip(given, taken.tolist(), strict=True) if not kept]
            else:
                given = given[~taken]
        self._note_last(run_id, name, where, given)
        self._place_extra(name, where, given)

    def _put(self, index: int, at: model.Array, given: model.Array) -> None:
        self._floats[index, at] = given
        if self._present is not None:
            self._present[index, at] = True

    def _column(self, target: columns.Target, dtype: np.dtype) -> rows.Declared:
        column = self._declared.get(target.name)
        if column is None:
            column = self._declared[target.name] = rows.Declared(
                target, np.zeros(self._total, dtype), np.zeros(self._total, dtype=bool)
            )
        return column

    def _note_last(
        self, run_id: int, name: str, where: model.Array, given: model.Array | list[str | int]
    ) -> None:
        row, value = int(where[-1]), given[-1]
        last = self._last.setdefault(run_id, {})
        if row >= last.get(name, (0, ""))[0]:
            last[name] = (row, values.brief(value if isinstance(value, (str, int)) else value.item()))

    def _place_extra(self, name: str, where: model.Array, given: model.Array | list[str | int]) -> None:
        if self._extra is None:
            self._extra = [None] * self._total
        extra = self._extra
        if isinstance(given, list):
            texts = [values.encode(value) for value in given]
        else:
            texts = values.encode_array(given)
        for row, text in zip(where.tolist(), texts, strict=True):
            entries = extra[row]
            if entries is None:
                extra[row] = {name: text}
            else:
                entries[name] = text


class _Plan(NamedTuple):
    """Where the rows of a matrix go: ``matrix[of]`` into ``floats[to]``; ``others`` have no such place."""

    of: model.Array
    to: model.Array
    others: tuple[int, ...]


def _names(block: model.MetricBlock) -> tuple[str, ...]:
    return (*block.names, *(column.name for column in block.columns)) if block.columns else block.names
