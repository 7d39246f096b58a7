"""How people read single values: lengths of time, sizes, shares, moments. Pure.

Text of anybody's is made visible here, see `hpctrack.text.visible`; what is not known is `UNKNOWN`.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hpctrack.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime, timedelta

    from hpctrack.run.fields import FieldKind
    from hpctrack.run.states import RunStatus

UNKNOWN = "-"
#: Characters of JSON in a cell.
_SHORT = 60


def duration(length: timedelta | None) -> str:
    """Return a length of time as squeue writes it: ``M:SS``, ``H:MM:SS``, ``D-HH:MM:SS``."""
    if length is None:
        return UNKNOWN
    minutes, seconds = divmod(max(int(length.total_seconds()), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def size(count: int | None) -> str:
    """Return a number of bytes with a binary unit."""
    if count is None:
        return UNKNOWN
    number = float(count)
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    unit = units.pop(0)
    while abs(round(number)) >= 1024 and units:
        number, unit = number / 1024, units.pop(0)
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.3g} {unit}"


def percent(ratio: float | None) -> str:
    """Return a share in whole percent, a small one with a digit more."""
    if ratio is None:
        return UNKNOWN
    if 0 < ratio < 0.0005:
        return "<0.1%"
    return f"{100 * ratio:.0f}%" if ratio >= 0.01 or ratio == 0 else f"{100 * ratio:.1f}%"


def number(value: object) -> str:
    """Return a metric's value: four significant digits for a float, all of an integer."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}"
    if isinstance(value, dict | list):
        return visible.line(json.dumps(value, ensure_ascii=False))
    return visible.line(value)


def metric(value: object) -> str:
    """Return a metric's value for a table: lists and objects as compact JSON, of which a long one is cut."""
    if not isinstance(value, dict | list):
        return number(value)
    text = compact(value)
    return visible.line(text if len(text) <= _SHORT else f"{text[:_SHORT]}...{text[-1]}")


def compact(value: object) -> str:
    """Return JSON text without blanks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def moment(time: datetime | None) -> str:
    """Return a time in the local zone, to the second."""
    return UNKNOWN if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def attempt(count: int) -> str:
    """Return an attempt as people count: SLURM_RESTART_COUNT 2 is ``attempt 3``."""
    return f"attempt {count + 1}"


def tags(values: Any) -> str:
    """Return tags as they are given: ``baseline, sweep=lr``. They are not made visible yet."""
    if not isinstance(values, dict):
        return "" if values is None else json.dumps(values, ensure_ascii=False)
    return ", ".join(
        name if value in (None, True, "") else f"{name}={value}" for name, value in values.items()
    )


def _state(status: RunStatus) -> str:
    return status.value


_BY_KIND: Mapping[FieldKind, Callable[[Any], str]] = MappingProxyType(
    {
        "text": number,
        "state": _state,
        "id": number,
        "number": number,
        "count": number,
        "time": moment,
        "length": duration,
        "size": size,
        "share": percent,
        "flag": number,
        "value": number,
        "object": number,
        "json": number,
    }
)
#: Kinds that stand at the right of their column.
NUMERIC = frozenset(("number", "count", "length", "size", "share", "value", "json"))


def text(kind: FieldKind, value: Any) -> str:
    """Return the value of a field."""
    return UNKNOWN if value is None else _BY_KIND[kind](value)
