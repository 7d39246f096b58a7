"""Journals: lines and offsets. Pure; Python 3.8 or newer, since the user's script imports it.

A journal is an append-only text file. Its first line is a header, lines that begin with ``#`` are comments,
and every other line is one of

* a row: ``key=value`` pairs split by white space, ``step=3 loss=0.25 phase="warm up"``. Keys and strings
  are quoted like JSON strings where they need it. ``step``, ``progress`` and ``time`` (seconds since the
  epoch) are reserved. Numbers follow C's grammar (``strtod``), with ``nan`` and ``inf``; ``true`` and
  ``false`` are booleans; any other bare word is a string.
* a message: ``!kind {json}``, for what is not a metric (args, tags, hello, usage, event, fin).

A line is read whole or not at all. A writer whose line was cut short ends it with `CANCEL`; lines that are
glued together repeat a key or hold a bare ``=``. All of these count as torn.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Union

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Value = Union[float, int, bool, str]

RESERVED = frozenset(("step", "progress", "time"))
#: ASCII CAN: ends a line that could not be written whole, so that nobody reads half of it.
CANCEL = b"\x18"
#: Longest line that is read; a longer one is counted as torn.
MAX_LINE = 1 << 20
MAX_NAME = 1024  # bytes

_HEADER = "# hpctrack journal 1 attempt={:06d} rank={:06d} lost={:012d}\n"
HEADER_SIZE = len(_HEADER.format(0, 0, 0))
_HEADER_PATTERN = re.compile(rb"# hpctrack journal 1 attempt=(\d{6}) rank=(\d{6}) lost=(\d{12})\n")

_NUMBER = re.compile(
    r"[+-]?(?:(?P<int>[0-9]+)|0[xX](?P<hex>[0-9a-fA-F]+)"
    r"|(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?"
    r"|0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?"
    r"|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?|[nN][aA][nN](?:\([0-9a-zA-Z_]*\))?)\Z"
)
_BARE = re.compile(r"[^\s=\"'!#\x00-\x20\x7f\\]+\Z")
_TOKEN = re.compile(
    r"""\s*(?:(?P<key>[^\s="]+)|(?P<quoted_key>"(?:[^"\\]|\\.)*"))="""
    r"""(?:(?P<quoted>"(?:[^"\\]|\\.)*")(?=\s|\Z)|(?P<bare>[^\s="]+)(?=\s|\Z))"""
)
_INT64 = range(-(1 << 63), 1 << 63)


class Row(NamedTuple):
    """One logged row. ``end`` is the offset just behind its line."""

    end: int
    step: int | None
    progress: float | None
    time: float | None
    values: dict[str, Value]


class Message(NamedTuple):
    """One message line; ``text`` is its JSON."""

    end: int
    kind: str
    text: str


class Torn(NamedTuple):
    """A line that can't be read whole."""

    end: int


class Header(NamedTuple):
    """First line of a journal. ``lost`` counts lines that the writer could not append; updated in place."""

    attempt: int
    rank: int
    lost: int


Line = Union[Row, Message, Torn]


def format_header(attempt: int, rank: int, lost: int = 0) -> bytes:
    """Return the first line of a journal, always `HEADER_SIZE` bytes."""
    return _HEADER.format(min(attempt, 999999), min(max(rank, 0), 999999), min(lost, 10**12 - 1)).encode()


def parse_header(data: bytes) -> Header | None:
    """Read the first line of a journal; None where there is none yet."""
    match = _HEADER_PATTERN.match(data)
    return Header(*(int(group) for group in match.groups())) if match else None


def format_value(value: Value) -> str:
    """Format one value such that `parse_line` gives it back: same type, same bits."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, (float, int)):
        return repr(value)
    if _BARE.match(value) and _number(value) is None and value not in ("true", "false"):
        return value
    return json.dumps(value, ensure_ascii=False)


def format_name(name: str) -> str:
    """Format a key, quoted where it needs it."""
    return name if _BARE.match(name) else json.dumps(name, ensure_ascii=False)


def format_row(
    values: Mapping[str, Value],
    step: int | None = None,
    progress: float | None = None,
    time: float | None = None,
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
    tokens += [format_name(name) + "=" + format_value(value) for name, value in values.items()]
    return (" ".join(tokens) + "\n").encode("utf-8", "replace")


def format_message(kind: str, value: Any) -> bytes:
    """Format a message line; ``value`` is anything that JSON takes."""
    return f"!{kind} {json.dumps(value, separators=(',', ':'))}\n".encode()


def parse(data: bytes, offset: int = 0) -> Iterator[Line]:
    """Read the complete lines of ``data``, which begins at byte ``offset`` of its journal.

    Blank lines and comments yield nothing; what follows the last newline is left for later. The caller
    takes ``offset + data.rfind(b"\\n") + 1`` as read.
    """
    position = 0
    while True:
        newline = data.find(b"\n", position)
        if newline < 0:
            return
        line = data[position:newline]
        position = newline + 1
        parsed = parse_line(line, offset + position)
        if parsed is not None:
            yield parsed


def parse_line(line: bytes, end: int) -> Line | None:
    """Read one line without its newline. None for blank lines and comments; `Torn` for damage."""
    if not line or line[:1] == b"#" or line.isspace():
        return None
    if len(line) > MAX_LINE or CANCEL in line or b"\x00" in line:
        return Torn(end)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Torn(end)
    if text[0] == "!":
        return _parse_message(text, end)
    return (_parse_plain(text, end) if '"' not in text else None) or _parse_quoted(text, end)


def _parse_message(text: str, end: int) -> Line:
    kind, _, body = text[1:].partition(" ")
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return Torn(end)
    return Message(end, kind, body) if kind.isidentifier() else Torn(end)


def _parse_plain(text: str, end: int) -> Line | None:
    """Read a row without quotes: the common case, kept short because every row of a relay goes through."""
    values: dict[str, Value] = {}
    tokens = text.split()
    for token in tokens:
        name, _, value = token.partition("=")
        if not name or not value or "=" in value:
            return Torn(end)
        values[name] = _value(value)
    if len(values) != len(tokens):
        return Torn(end)  # a repeated key: two lines glued together
    return _row(values, end)


def _parse_quoted(text: str, end: int) -> Line:
    values: dict[str, Value] = {}
    position, count = 0, 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            return Torn(end)
        position = match.end()
        count += 1
        try:
            name = match["key"] or json.loads(match["quoted_key"])
            values[name] = (
                _value(match["bare"]) if match["bare"] else json.loads(match["quoted"], strict=False)
            )
        except ValueError:
            return Torn(end)
    if len(values) != count:
        return Torn(end)
    return _row(values, end)


def _row(values: dict[str, Value], end: int) -> Line:
    step = values.pop("step", None)
    progress = values.pop("progress", None)
    time = values.pop("time", None)
    if step is not None:
        if isinstance(step, float) and step.is_integer():
            step = int(step)
        if type(step) is not int or step not in _INT64:
            return Torn(end)
    for number in (progress, time):
        if number is not None and (isinstance(number, (str, bool)) or number != number):
            return Torn(end)
    if any(len(name) > MAX_NAME for name in values):
        return Torn(end)
    return Row(
        end,
        step,
        None if progress is None else float(progress),
        None if time is None else float(time),
        values,
    )


def _value(text: str) -> Value:
    # The two common cases first; Python's own grammar is C's but for underscores and foreign digits.
    if text.isascii() and "_" not in text:
        if text.isdecimal() and len(text) < 19:
            return int(text)
        try:
            number = float(text)
        except ValueError:
            pass
        else:
            if not text[1:].isdecimal():
                return number
    if text == "true":
        return True
    if text == "false":
        return False
    exact = _number(text)
    return text if exact is None else exact


def _number(text: str) -> float | int | None:
    """Read a number as C would (``strtod``), and only as C would: no underscores, no other digits."""
    match = _NUMBER.match(text)
    if match is None:
        return None
    if match["int"]:
        # Longer ones would meet Python's limit on digits, and mean a float to everyone.
        return int(text) if len(text) < 400 else float(text)
    if match["hex"]:
        return int(text, 16)
    if "x" in text or "X" in text:
        return float.fromhex(text)
    return float(text.partition("(")[0])
