"""States, names with values and courses of metrics as text with styles. Pure.

What comes from a job (its name, its stderr) may hold anything, escape sequences for the terminal included:
all of it goes through `clean` or `clean_lines`, see `hpctrack.text.visible`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.text import Text

from hpctrack.text import visible
from hpctrack.view import notation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpctrack.run.states import RunStatus
    from hpctrack.store.metrics.curves import Bucket, Curve

WARNING = "#e04030"
_BLOCKS = "▁▂▃▄▅▆▇█"
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


clean = visible.line


def clean_lines(text: str) -> list[str]:
    """Return the lines of a program's output without colours; of a progress bar its last state."""
    lines = _ESCAPE.sub("", text).replace("\r\n", "\n").rstrip("\n").split("\n")
    return [visible.shown(line.rstrip("\r").rpartition("\r")[2].expandtabs()) for line in lines]


def state(status: RunStatus | None, raw: str | None = None, *, plain: bool = False) -> Text:
    """Return a state in its colour; ``raw`` stands for one that is not in our list."""
    word = clean(raw or notation.UNKNOWN) if status is None else status.value
    if plain or status is None:
        return Text(word)
    look = status.look
    return Text(f"{look.glyph} {word}", style=f"bold {look.colour}" if look.bold else look.colour)


def pairs(values: Mapping[str, object], separator: str = "  ") -> Text:
    """Return names and values in one line, the names dim."""
    text = Text()
    for name, value in values.items():
        text.append(separator if text else "").append(clean(name), "dim").append(" ").append(
            notation.number(value)
        )
    return text


def sparkline(curve: Curve, width: int) -> str:
    """Return a metric's course in blocks, at most ``width`` of them.

    A block shows the middle of its values; the block with the least or greatest value of all shows that one.
    """
    low, high = curve.minimum, curve.maximum
    if low is None or high is None:
        return ""
    buckets = curve.buckets[-width:] if len(curve.buckets) > width else curve.buckets
    return "".join(_block(_height(bucket, low, high), low, high) for bucket in buckets)


def _height(bucket: Bucket, low: float, high: float) -> float:
    if bucket.maximum == high:
        return high
    return low if bucket.minimum == low else bucket.minimum / 2 + bucket.maximum / 2


def _block(value: float, low: float, high: float) -> str:
    span = high / 2 - low / 2
    if span <= 0:
        return _BLOCKS[3]
    share = (value / 2 - low / 2) / span
    return _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)]
