"""Statistics of a metric in a run: counts, and its least, greatest, first and last value. Pure.

They are made of arrays, and joined in any order: what a batch brings with what was there before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpctrack.store import values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hpctrack import model

#: Metrics of a run that have statistics.
MOST = 200


class Extreme(NamedTuple):
    """A value, and the first step that has it."""

    value: float
    step: int


class End(NamedTuple):
    """A value at one end of a run's rows."""

    step: int
    progress: float
    value: float


class Statistics(NamedTuple):
    """Of the numbers of one metric in one run."""

    size: int
    """How many there are, ``nans`` among them."""
    nans: int
    least: Extreme | None
    """Apart from nan; None where there is nothing else."""
    greatest: Extreme | None
    first: End
    last: End

    def joined(self, other: Statistics) -> Statistics:
        """Return the statistics of these values and those of other rows."""
        return Statistics(
            self.size + other.size,
            self.nans + other.nans,
            _better(self.least, other.least, 1),
            _better(self.greatest, other.greatest, -1),
            min(self.first, other.first),
            max(self.last, other.last),
        )

    def to_json(self) -> str:
        """Return a JSON array: size, nans, and what `from_json` reads."""
        cells = [str(self.size), str(self.nans)]
        for extreme in (self.least, self.greatest):
            cells += ["null"] * 2 if extreme is None else [values.encode(extreme.value), str(extreme.step)]
        for end in (self.first, self.last):
            cells += (values.encode(end.value), str(end.step), values.encode(end.progress))
        return values.to_array(cells)

    @classmethod
    def from_json(cls, cells: Sequence[Any]) -> Statistics:
        """Return what `to_json` wrote."""
        size, nans, low, low_step, high, high_step, *ends = map(values.decode, cells)
        first, last = (End(ends[at + 1], float(ends[at + 2]), float(ends[at])) for at in (0, 3))
        least, greatest = (
            None if step is None else Extreme(float(value), step)
            for value, step in ((low, low_step), (high, high_step))
        )
        return cls(size, nans, least, greatest, first, last)


def _better(one: Extreme | None, other: Extreme | None, sign: int) -> Extreme | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda extreme: (sign * extreme.value, extreme.step))


def of_values(given: Sequence[End]) -> Statistics:
    """Return the statistics of some values."""
    extremes = [Extreme(end.value, end.step) for end in given if end.value == end.value]
    return Statistics(
        len(given),
        len(given) - len(extremes),
        min(extremes, default=None),
        max(extremes, key=lambda extreme: (extreme.value, -extreme.step), default=None),
        min(given),
        max(given),
    )


class Rows(NamedTuple):
    """Where the rows of runs stand. Arrays have an element for each row."""

    run: model.Array
    step: model.Array
    progress: model.Array

    def order(self) -> model.Array | None:
        """Return the indexes of the rows in order of run, step and progress; None where they are in it."""
        if self._is_ordered():
            return None
        by_run = np.argsort(self.run, kind="stable")
        if self.taken(by_run)._is_ordered():
            return by_run
        return np.lexsort((self.progress, self.step, self.run))

    def _is_ordered(self) -> bool:
        runs, steps = np.diff(self.run), self.step[1:] < self.step[:-1]
        back = steps | ((self.step[1:] == self.step[:-1]) & (self.progress[1:] < self.progress[:-1]))
        return not ((runs < 0) | ((runs == 0) & back)).any()

    def taken(self, order: model.Array) -> Rows:
        """Return the rows in another order."""
        return Rows(self.run[order], self.step[order], self.progress[order])


def of_rows(
    rows: Rows, matrix: model.Array, present: model.Mask | None
) -> Iterator[tuple[int, int, Statistics]]:
    """Yield index of the run's first row, index of the metric, and its statistics.

    ``matrix``: float64, of shape (metrics, rows); ``present``: which are values, None: all. The rows are in
    order of run, step and progress.
    """
    starts = np.flatnonzero(np.concatenate(([True], rows.run[1:] != rows.run[:-1])))
    places = np.arange(len(rows.run))
    there = np.ones(matrix.shape, dtype=bool) if present is None else present
    numbers = there & ~np.isnan(matrix)
    sizes = np.add.reduceat(there, starts, axis=1, dtype=np.int64)
    usable = np.add.reduceat(numbers, starts, axis=1, dtype=np.int64)
    firsts = np.minimum.reduceat(np.where(there, places, len(places)), starts, axis=1)
    lasts = np.maximum.reduceat(np.where(there, places, -1), starts, axis=1)
    widths = np.diff(starts, append=len(places))
    lows, highs = (_extremes(matrix, numbers, starts, widths, sign) for sign in (1, -1))
    steps, progress = rows.step.tolist(), rows.progress.tolist()
    for metric, run in zip(*np.nonzero(sizes), strict=True):
        cells = matrix[metric]
        size, number = int(sizes[metric, run]), int(usable[metric, run])
        low, high = int(lows[metric, run]), int(highs[metric, run])
        first, last = int(firsts[metric, run]), int(lasts[metric, run])
        yield (
            int(starts[run]),
            int(metric),
            Statistics(
                size,
                size - number,
                Extreme(float(cells[low]), steps[low]) if number else None,
                Extreme(float(cells[high]), steps[high]) if number else None,
                End(steps[first], progress[first], float(cells[first])),
                End(steps[last], progress[last], float(cells[last])),
            ),
        )


def _extremes(
    matrix: model.Array, numbers: model.Mask, starts: model.Array, widths: model.Array, sign: int
) -> model.Array:
    """Return the index of the first least value of each metric in each run; ``sign`` -1: the greatest."""
    held = np.where(numbers, sign * matrix, np.inf)
    least = np.minimum.reduceat(held, starts, axis=1)
    hits = (held == np.repeat(least, widths, axis=1)) & numbers
    places = np.where(hits, np.arange(matrix.shape[1]), matrix.shape[1] - 1)
    return np.minimum.reduceat(places, starts, axis=1)
