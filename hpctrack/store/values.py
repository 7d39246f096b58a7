"""Values in JSONB: ``metrics.extra`` and ``run_latest.last``, such that each comes back exactly. Pure.

JSONB's numbers are decimals: they know no nan, no infinity and no -0.0, and forget that 1e22 was a float.
What would not come back is written as an object of one key: ``{"float": "nan"}``;
``{"int": "9007199254740993"}``, more than a double holds; ``{"text": ...}`` with the JSON text of a string
that PostgreSQL's texts can't hold; ``{"json": ...}`` with a list or an object. Everything else stands for
itself.
"""

from __future__ import annotations

import functools
import json
import math
from typing import TYPE_CHECKING, Any

from hpctrack.script.journal_lines import Json
from hpctrack.stream.wire.messages import storable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hpctrack import model

#: Integers up to here are exact in a double.
EXACT = 1 << 53
#: Floats from here (or 0.0) to there are written as plain decimals: no exponent, few digits, a point.
_PLAIN_FROM, _PLAIN_BELOW = 1e-20, 1e16
#: Microseconds since the epoch, of what Python's datetime can hold.
_FIRST_TIME, _LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999
_MAX_DEPTH = 100
_NONFINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
#: How the texts are read that stand for values, by the key of their object.
_READ: dict[str, Callable[[str], Any]] = {
    "float": float,
    "int": lambda text: int(text, 0),
    "text": json.loads,
}
_BRIEF = 1000  # characters
_BRIEF_JSON = 100


def encode(value: float | int | bool | str) -> str:
    """Return the JSON text of one value of a metric."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, float):
        return repr(value) if _is_plain(value) else f'{{"float": "{value!r}"}}'
    if isinstance(value, int):
        return repr(value) if -EXACT <= value <= EXACT else f'{{"int": "{_digits(value)}"}}'
    if isinstance(value, Json):
        return f'{{"json": {value}}}'
    if storable(value) != value:
        return f'{{"text": {json.dumps(json.dumps(value))}}}'
    return json.dumps(value, ensure_ascii=False)


def brief(value: float | int | bool | str) -> str:
    """Return the JSON text of a value for lists, where a long one stands in everybody's way: it is cut.

    Of a long list or object nothing is left but the brackets.
    """
    if isinstance(value, Json) and len(value) > _BRIEF_JSON:
        return f'{{"json": "{value[0]}...{value[-1]}"}}'
    if isinstance(value, str) and len(value) > _BRIEF:
        value = value[:_BRIEF] + "..."
    text = encode(value)
    return text if len(text) < 8 * _BRIEF else '"..."'


def to_object(texts: Mapping[str, str]) -> str:
    """Return the JSON object of metrics, by name, whose values are JSON texts from `encode`."""
    return "{" + ",".join([f"{_quoted(name)}:{text}" for name, text in texts.items()]) + "}"


def to_array(texts: Iterable[str]) -> str:
    """Return the JSON array of values that are JSON texts."""
    return "[" + ",".join(texts) + "]"


def readable_time(time: int) -> int:
    """Return microseconds since the epoch such that readers in Python get a time."""
    return min(max(time, _FIRST_TIME), _LAST_TIME)


def decode(value: Any) -> Any:
    """Return the value that an element of ``extra`` or ``last``, as `json.loads` reads it, stands for.

    What was not written by `encode` comes back as it is.
    """
    if not isinstance(value, dict) or len(value) != 1:
        return value
    ((kind, text),) = value.items()
    if kind == "json":
        return text
    read = _READ.get(kind)
    if read is None or not isinstance(text, str):
        return value
    try:
        return read(text)
    except ValueError:
        return value


def encode_array(values: model.Array) -> list[str]:
    """Return the JSON text of each element of an array of float64, int64 or bool."""
    import numpy as np  # late: lists of runs decode values, and need no arrays

    if values.dtype.kind == "f":
        magnitude = np.abs(values)
        plain = (magnitude >= _PLAIN_FROM) & (magnitude < _PLAIN_BELOW)
        if (plain | ((values == 0) & ~np.signbit(values))).all():
            return [repr(value) for value in values.tolist()]
    return [encode(value) for value in values.tolist()]


def to_json(value: Any) -> str:
    """Return JSON text that PostgreSQL takes for anything that `json.loads` gave.

    Not exact where PostgreSQL can't be: nan and the infinities become strings, NUL and lone surrogates
    U+FFFD, and what is nested very deeply "...".
    """
    return json.dumps(_as_json(value, _MAX_DEPTH), ensure_ascii=False, allow_nan=False)


def _as_json(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return _NONFINITE[repr(value)]
    return _all_as_json(value, depth) if isinstance(value, (dict, list)) else value


def _all_as_json(values: dict[Any, Any] | list[Any], depth: int) -> Any:
    if depth == 0:
        return "..."
    if isinstance(values, dict):
        return {storable(str(key)): _as_json(value, depth - 1) for key, value in values.items()}
    return [_as_json(value, depth - 1) for value in values]


def _is_plain(value: float) -> bool:
    if value == 0.0:
        return math.copysign(1.0, value) > 0
    return _PLAIN_FROM <= abs(value) < _PLAIN_BELOW


def _digits(value: int) -> str:
    # Hexadecimal where Python limits decimal digits.
    return repr(value) if value.bit_length() < 8192 else hex(value)


@functools.lru_cache(maxsize=8192)
def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
