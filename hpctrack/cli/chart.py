"""A metric drawn in the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hpctrack.cli import render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.store.series import Series

_HEIGHT = 17
_TICKS = 6
#: A cell of Braille dots is two wide.
DOTS = 2


def draw(series: Series, title: str, width: int) -> list[str]:
    """Return a line chart as lines of at most ``width`` cells; it has no colours.

    Raises ``ValueError`` for a metric without finite values.
    """
    if not series.buckets:
        raise ValueError(f"{series.name} has no finite value")
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, _HEIGHT)
    figure.theme("colorless")
    figure.title(f"{render.clean(title)}: {render.clean(series.name)}")
    figure.label(series.axis)
    xs, ys = zip(*_points(series), strict=True)
    signal = figure.signal(list(xs), list(ys), marker="braille" if len(xs) > 1 else "dot")
    figure.draw(signal.lines() if len(xs) > 1 else signal)
    for axis, values in (("x", xs), ("y", ys)):
        ticks = _ticks(min(values), max(values))
        figure.ruler(axis).ticks(ticks, [f"{tick:g}" for tick in ticks])
    lines = figure.build().string(colorless=True).splitlines()
    return [line.rstrip() for line in lines]


def _points(series: Series) -> Iterator[tuple[float, float]]:
    """Join the buckets: each enters at the end that is nearer to where the line is."""
    before = series.buckets[0].minimum
    for bucket in series.buckets:
        ends = (bucket.minimum, bucket.maximum)
        if abs(before - bucket.maximum) < abs(before - bucket.minimum):
            ends = (bucket.maximum, bucket.minimum)
        for value in dict.fromkeys(ends):
            yield bucket.x, value
            before = value


def _ticks(low: float, high: float) -> list[float]:
    """Return round positions between two numbers: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not 0 < span < math.inf:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(base * power for base in (1, 2, 5, 10, 20) if span / (base * power) <= _TICKS)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
