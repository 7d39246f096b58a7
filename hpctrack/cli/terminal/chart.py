"""Metrics drawn in the terminal."""

from __future__ import annotations

import colorsys
import contextlib
import io
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.store.metrics.curves import Curve

_HEIGHT = 17
_TICKS = 6
#: A cell of Braille dots is two wide.
DOTS = 2
#: Okabe and Ito's colours, which colour-blind people can tell apart; in a terminal and in files.
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0))
#: Values beyond are drawn here, and what is nearer to 0 than its inverse, as 0: distances have to be finite.
_EDGE = 1e300
#: What tells lines apart where there are no colours.
_MARKS = ("braille", "●", "+", "x", "○", "*", "◆", *"abcdefghijklmnpqrstuvwyzABCDEFGHIJKLMNPQRSTUVWYZ")
_GOLDEN = 0.618033988749895


def colour_of(number: int) -> tuple[int, int, int]:
    """Return the colour of a line; no two are the same."""
    if number < len(COLOURS):
        return COLOURS[number]
    # Hues that are far from those of the lines before, in three kinds of light.
    hue, light = number * _GOLDEN % 1, (0.35, 0.5, 0.65)[number % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, light, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


class Line(NamedTuple):
    """One run's line in a chart."""

    label: str
    curve: Curve


class Chart(NamedTuple):
    """One metric of some runs."""

    name: str
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        """Title above the chart; the labels of several lines are in the legend instead."""
        return f"{self.lines[0].label}: {self.name}" if len(self.lines) == 1 else self.name

    @property
    def axis(self) -> str:
        """Name of the horizontal axis."""
        return " / ".join(dict.fromkeys(line.curve.axis for line in self.lines))


def draw(chart: Chart, width: int, *, colour: bool = False) -> list[str]:
    """Return a line chart as lines of at most ``width`` cells.

    Raises ``ValueError`` for a metric without finite values.
    """
    import plotext

    courses = [list(points(line.curve)) for line in chart.lines]
    if not all(courses):
        raise ValueError(f"{chart.name} has no finite value")
    several = len(courses) > 1
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, _HEIGHT)
    figure.theme("colorless")
    figure.title(chart.title)
    figure.label(chart.axis)
    for number, course in enumerate(courses):
        marker = _marker(plotext, number, len(course), colour=colour and several)
        signal = figure.signal(*map(list, zip(*course, strict=True)), marker=marker)
        figure.draw(signal.lines() if len(course) > 1 else signal)
    for axis, values in zip(("x", "y"), zip(*itertools.chain(*courses), strict=True), strict=True):
        ticks = _ticks(min(values), max(values))
        figure.ruler(axis).ticks(ticks, [f"{tick:g}" for tick in ticks])
    with contextlib.redirect_stderr(io.StringIO()):  # plotext says where it has little room
        lines = figure.build().string(colorless=not (colour and several)).splitlines()
    return [line.rstrip() for line in lines] + (_legend(chart, colour=colour) if several else [])


def _legend(chart: Chart, *, colour: bool) -> list[str]:
    """Return the legend, a line for each run. It stands below the chart, so that it hides nothing."""
    lines = []
    for number, line in enumerate(chart.lines):
        mark = _MARKS[number % len(_MARKS)]
        if colour:
            red, green, blue = colour_of(number)
            mark = f"\x1b[38;2;{red};{green};{blue}m━━\x1b[0m"
        else:
            mark = 2 * ("⠤" if mark == "braille" else mark)
        lines.append(f"  {mark} {line.label}")
    return lines


def _marker(plotext: Any, number: int, count: int, *, colour: bool) -> Any:
    if colour:
        return plotext.marker("braille" if count > 1 else "dot", colour_of(number))
    return _MARKS[number % len(_MARKS)] if count > 1 or number else "dot"


def points(curve: Curve) -> Iterator[tuple[float, float]]:
    """Yield the points of the line through the buckets; the nearer end of a bucket comes first."""
    before = curve.buckets[0].minimum if curve.buckets else 0.0
    for bucket in curve.buckets:
        ends = (bucket.minimum, bucket.maximum)
        if abs(before - bucket.maximum) < abs(before - bucket.minimum):
            ends = (bucket.maximum, bucket.minimum)
        for value in dict.fromkeys(map(_within, ends)):
            yield bucket.x, value
            before = value


def _within(value: float) -> float:
    return 0.0 if abs(value) < 1 / _EDGE else max(-_EDGE, min(value, _EDGE))


def _ticks(low: float, high: float) -> list[float]:
    """Return round positions between two numbers: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not 0 < span < math.inf:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(base * power for base in (1, 2, 5, 10, 20) if span / (base * power) <= _TICKS)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
