"""Lines of journals, as they are written; `stream.wire.journal` says what they mean and reads them. Pure.

The user's script loads this, in Python 3.8 or newer: it imports next to nothing, since `re`, `json` and
`typing` would each take longer to load than all of it.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Union

    Value = Union[float, int, bool, str]  # and `Json`

RESERVED = frozenset(("step", "progress", "time", "series"))
#: ASCII CAN: ends a line that could not be written whole, so that nobody reads half of it.
CANCEL = b"\x18"
#: Longest line that is read; a longer one is counted as torn.
MAX_LINE = 1 << 20
MAX_NAME = 1024  # bytes
MAX_SERIES = 255  # bytes of the name of a series
#: Longest list or object that stands as JSON in a line; a longer one is text.
MAX_JSON = 64 << 10  # bytes

#: The file in a folder of journals that says whose they are.
IDENTITY = "identity.json"
#: What every journal begins with.
MAGIC = b"# hpctrack journal "
_HEADER = MAGIC.decode() + "2 attempt={:06d} rank={:06d} lost={:012d}\n"
HEADER_SIZE = len(_HEADER.format(0, 0, 0))
#: Where the count of lost lines stands in the header, for a writer that updates it in place.
LOST_OFFSET = HEADER_SIZE - 13
_MAX_LOST = 10**12 - 1
#: Types of packed values, as in `struct`: double, 64-bit integer, boolean.
CODES = "dq?"
_CODE_OF = {float: "d", int: "q", bool: "?"}
#: Integers of 64 bits: steps, and what a packed row or a column of PostgreSQL holds.
INT64 = range(-(1 << 63), 1 << 63)
#: The event that tells of a journal that somebody has cut.
CUT = "a journal was overwritten (> in place of >>): lines may be lost"
#: Words that mean something else than the string.
_WORDS = frozenset(("true", "false", "nan", "inf", "infinity"))
_SPECIAL = frozenset("=\"'!#\\\x7f")
#: What stands in quotes in another form (RFC 8259).
_ESCAPES = {**{code: f"\\u{code:04x}" for code in range(32)}, ord('"'): '\\"', ord("\\"): "\\\\"}


class Json(str):
    """A list or an object, as JSON text in one line."""

    __slots__ = ()


def format_header(attempt: int, rank: int, lost: int = 0) -> bytes:
    """Return the first line of a journal, always `HEADER_SIZE` bytes."""
    return _HEADER.format(min(attempt, 999999), min(max(rank, 0), 999999), min(lost, _MAX_LOST)).encode()


def format_lost(lost: int) -> bytes:
    """Return what a writer puts at `LOST_OFFSET` of its journal to update the count."""
    return f"{min(lost, _MAX_LOST):012d}".encode()


def format_value(value: Value) -> str:
    """Format one value such that `journal.parse_line` gives it back: same type, same bits."""
    if type(value) is Json:
        return str.__str__(value)
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, (float, int)):
        return repr(value)
    return value if value.isidentifier() and value.lower() not in _WORDS else _quoted(value)


def format_name(name: str) -> str:
    """Format the name of a metric, quoted where it needs it."""
    return name if _is_bare(name) and name not in RESERVED else _quoted(name)


def _is_bare(text: str) -> bool:
    return bool(text) and not any(letter in _SPECIAL or letter <= " " or letter.isspace() for letter in text)


def _quoted(text: str) -> str:
    """Return what ``json.dumps(text, ensure_ascii=False)`` does, without loading json."""
    return f'"{text.translate(_ESCAPES)}"'


def format_row(
    values: Mapping[str, Value],
    step: int | None = None,
    progress: float | None = None,
    time: float | None = None,
    series: str | None = None,
) -> bytes:
    """Format one row as a line.

    Lone surrogates, which have no UTF-8 form, become ``?``: a metric is never lost to its name.
    """
    tokens = []
    if step is not None:
        tokens.append("step=" + repr(step))
    if progress is not None:
        tokens.append("progress=" + repr(progress))
    if time is not None:
        tokens.append(f"time={time:.6f}")
    if series is not None:
        tokens.append("series=" + format_value(series))
    tokens += [format_name(name) + "=" + format_value(value) for name, value in values.items()]
    return (" ".join(tokens) + "\n").encode("utf-8", "replace")


def format_message(kind: str, value: Any) -> bytes:
    """Format a message line; ``value`` is anything that JSON takes but nan and infinities.

    Raises ValueError or TypeError for anything else.
    """
    import json

    return f"!{kind} {json.dumps(value, separators=(',', ':'), allow_nan=False)}\n".encode()


def codes(values: Mapping[str, Value]) -> str | None:
    """Return the types of values, one of `CODES` each; None if one is no number, or beyond 64 bits."""
    codes = ""
    for value in values.values():
        code = _CODE_OF.get(type(value))
        if code is None or (code == "q" and value not in INT64):
            return None
        codes += code
    return codes


def packer(names: Iterable[str], codes: str) -> tuple[str, Callable[..., bytes]] | None:
    """Return how to pack rows of these metrics; ``codes`` says the type of each: one of `CODES`.

    A pair: what stands in the line before the values, and what packs them in the order of the names. None for
    names that only the text form can hold.
    """
    plain = list(names)
    if not plain or any(not _is_bare(name) or "," in name or not name.isprintable() for name in plain):
        return None
    return f"{','.join(plain)} {codes} ", struct.Struct("<" + codes).pack


def format_packed(table: str, packed: bytes, step: int | None, progress: float | None, time_ns: int) -> bytes:
    """Format a row whose values were packed; ``table`` is what the packer puts before them.

    ``time_ns`` counts nanoseconds since the epoch.
    """
    return (
        f"={'-' if step is None else step} {'-' if progress is None else repr(progress)} "
        f"{time_ns} {table}{packed.hex()}\n"
    ).encode("utf-8", "replace")
