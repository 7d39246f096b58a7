"""Journals: what their lines mean, and how they are read. Pure; `hpctrack.script.journal_lines` writes them.

A journal is an append-only text file. Its first line is a header, lines that begin with ``#`` are comments,
and every other line is one of

* a row: ``key=value`` pairs split by ASCII white space, ``step=3 loss=0.25 phase="warm up"``. Keys and
  strings are quoted like JSON strings where they need it. Bare ``step``, ``progress``, ``time`` (seconds
  since the epoch) and ``series`` are reserved; in quotes they are metrics like others. Numbers follow C's
  grammar (``strtod``), with ``nan`` and ``inf``; ``true`` and ``false`` are booleans; what begins with ``[``
  or ``{`` and is JSON is that; other bare words are strings.
* a packed row, which is what `hpctrack.log` writes: ``=step progress time names types values``, with ``-``
  for no step or progress, the time in nanoseconds since the epoch, the names split by commas, a letter of
  `journal_lines.CODES` for the type of each, and their little-endian bytes in hexadecimal. Exact to the bit,
  and three times faster to write and to read than digits.
* a message: ``!kind {json}``, for what is not a metric (args, tags, hello, usage, event, fin).

A line is read whole or not at all. A writer whose line was cut short ends it with `journal_lines.CANCEL`;
lines that are glued together repeat a key or hold a bare ``=``. All of these count as torn.
"""

from __future__ import annotations

import binascii
import codecs
import functools
import json
import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack.script import journal_lines
from hpctrack.script.journal_lines import Json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Protocol

    from hpctrack.script.journal_lines import Value
    from hpctrack.stream.wire.doubts import Doubts

    class Redactor(Protocol):
        """What `parse` needs of `hpctrack.text.redact.Redactor`."""

        def text(self, text: str) -> str:
            """Mask the secrets in a text."""

        def value(self, obj: Any) -> Any:
            """Mask the secrets in a JSON value."""


#: Journals of later versions may hold what this one would misread.
VERSION = 2
_VERSION_PATTERN = re.compile(rb"# hpctrack journal ([0-9]{1,9})[ \n]")
_HEADER_PATTERN = re.compile(rb"# hpctrack journal [12] attempt=(\d{6}) rank=(\d{6}) lost=(\d{12})\n")

_NUMBER = re.compile(
    r"[+-]?(?:(?P<int>[0-9]+)|0[xX](?P<hex>[0-9a-fA-F]+)"
    r"|(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?"
    r"|0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?"
    r"|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?|[nN][aA][nN](?:\([0-9a-zA-Z_]*\))?)\Z"
)
_TOKEN = re.compile(
    r"""[ \t\r\v\f]*(?:(?P<key>[^ \t\r\v\f="]+)|(?P<quoted_key>"(?:[^"\\]|\\.)*"))="""
    r"""(?:(?P<quoted>"(?:[^"\\]|\\.)*")(?=[ \t\r\v\f]|\Z)"""
    r"""|(?P<bare>[^ \t\r\v\f="\[{][^ \t\r\v\f="]*)(?=[ \t\r\v\f]|\Z)|(?P<opened>[\[{]))"""
)
#: Lines that begin with white space or a byte order mark, as shells may write them.
_ODD = re.compile(rb"\n(?:[ \t\r\v\f]|\xef\xbb\xbf)")
#: Where a value of JSON, not a string or number, may begin.
_OPEN = re.compile(r"=[\[{]")
_END_OF_TOKEN = re.compile(r"[ \t\r\v\f]|\Z")
_WORD = re.compile(r'[^ \t\r\v\f="]+(?=[ \t\r\v\f]|\Z)')
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")
# Longer ones would meet Python's limit on digits, and mean a float to everyone.
_MAX_DIGITS = 400
#: Bytes of a torn line that are looked at to show it.
_SHOWN = 4096


class Shape(NamedTuple):
    """Which metrics a row has, and a letter for the type of each: one of `CODES`."""

    names: tuple[str, ...]
    codes: str


#: Types of metrics: those of packed rows, ``s`` for strings and for integers beyond 64 bits, ``j`` for JSON.
CODES = journal_lines.CODES + "sj"
_CODES = {float: "d", int: "q", bool: "?", str: "s", Json: "j"}
#: Rows alike share their shape, so that this shows without a look at it.
_shape = functools.lru_cache(maxsize=256)(Shape)


class Row(NamedTuple):
    """One logged row. ``end`` is the offset just behind its line."""

    end: int
    step: int | None
    progress: float | None
    time: float | None
    shape: Shape
    cells: tuple[Value, ...]
    series: str | None = None
    """None for the rows of the run itself."""

    @classmethod
    def of(
        cls,
        end: int,
        step: int | None,
        progress: float | None,
        time: float | None,
        values: Mapping[str, Value],
        *,
        series: str | None = None,
    ) -> Row:
        """Return the row that has these values."""
        cells = tuple(values.values())
        shape = _shape_of(tuple(values), tuple(map(type, cells)))
        if "q" in shape.codes and not all(cell in journal_lines.INT64 for cell in cells if type(cell) is int):
            shape = _shape(shape.names, "".join(map(_code, cells)))
        return cls(end, step, progress, time, shape, cells, series)

    @property
    def values(self) -> dict[str, Value]:
        """What was logged, by name."""
        return dict(zip(self.shape.names, self.cells, strict=True))


@functools.lru_cache(maxsize=256)
def _shape_of(names: tuple[str, ...], types: tuple[type[Value], ...]) -> Shape:
    return _shape(names, "".join(map(_CODES.__getitem__, types)))


def _code(value: Value) -> str:
    code = _CODES[type(value)]
    return "s" if code == "q" and value not in journal_lines.INT64 else code


class Message(NamedTuple):
    """One message line; ``text`` is its JSON."""

    end: int
    kind: str
    text: str


class Torn(NamedTuple):
    """A line that can't be read whole."""

    end: int


class Gap(NamedTuple):
    """What stood before ``end`` and can't be read again, since it was acknowledged once and given back.

    ``lines`` of the journal, rows and torn ones, end at or before ``end``.
    """

    end: int
    lines: int


class Header(NamedTuple):
    """First line of a journal. ``lost`` counts lines that the writer could not append; updated in place."""

    attempt: int
    rank: int
    lost: int


Line = Row | Message | Torn | Gap


def parse_header(data: bytes) -> Header | None:
    """Read the first line of a journal; None where there is none yet."""
    match = _HEADER_PATTERN.match(data)
    return Header(*(int(group) for group in match.groups())) if match else None


def version(data: bytes) -> int:
    """Return which version of journals the first line names; 1 where it names none."""
    match = _VERSION_PATTERN.match(data)
    return int(match[1]) if match else VERSION


def parse(
    data: bytes, offset: int = 0, redactor: Redactor | None = None, doubts: Doubts | None = None
) -> Iterator[Line]:
    """Read the complete lines of ``data``, which begins at byte ``offset`` of its journal.

    Blank lines and comments yield nothing; what follows the last newline is left for later. The caller
    takes ``offset + data.rfind(b"\\n") + 1`` as read. ``redactor`` masks strings and messages; ``doubts``
    notes what looks like a number and is none.
    """
    position = 0
    while True:
        newline = data.find(b"\n", position)
        if newline < 0:
            return
        line = data[position:newline]
        position = newline + 1
        if line[:1] == b"=":
            parsed: Line | None = _unpack(line, offset + position)
        else:
            parsed = parse_line(line, offset + position, redactor, doubts)
        if parsed.__class__ is Torn and doubts is not None and doubts.wants_torn:
            note_torn(doubts, line, redactor)
        if parsed is not None:
            yield parsed


def count(data: bytes) -> int:
    """Return how many of these lines are rows, or torn: all but messages, comments and blank ones."""
    text = b"\n" + data
    if _ODD.search(text):
        lines = (line.removeprefix(codecs.BOM_UTF8).strip() for line in data.split(b"\n"))
        return sum(line[:1] not in (b"", b"#", b"!") for line in lines)
    return data.count(b"\n") - sum(map(text.count, (b"\n!", b"\n#", b"\n\n")))


def note_torn(doubts: Doubts, line: bytes, redactor: Redactor | None) -> None:
    """Note a line that can't be read, or the begin of one, with what may be shown of it."""
    shown = line[:_SHOWN].decode("utf-8", "replace").strip()
    doubts.note_torn(line, shown if redactor is None else redactor.text(shown))


def _unpack(line: bytes, end: int) -> Line:
    """Read a packed row. Pieces of two lines glued together have too many fields, or fields that are none."""
    try:
        step, progress, time, names, codes, packed = line.split(b" ")
        shape, unpack = _unpacker(names, codes)
        return Row(
            end,
            None if step == b"=-" else _int64(step[1:]),
            None if progress == b"-" else _real(_value(progress.decode())),
            int(time) / 1e9,
            shape,
            unpack(binascii.unhexlify(packed)),
        )
    except (ValueError, ArithmeticError, struct.error):
        return Torn(end)


def _int64(text: bytes) -> int:
    value = int(text)
    if len(text) > 18 and value not in journal_lines.INT64:
        raise ValueError(text)
    return value


@functools.lru_cache(maxsize=256)
def _unpacker(names: bytes, codes: bytes) -> tuple[Shape, Callable[[bytes], tuple[Any, ...]]]:
    """Return the shape and how to unpack the values; raises ValueError where names and types don't fit."""
    keys = tuple(names.decode().split(","))
    if len(set(keys)) != len(codes) or len(keys) != len(codes) or codes.strip(journal_lines.CODES.encode()):
        raise ValueError(names)
    if any(not 0 < len(name) <= journal_lines.MAX_NAME for name in names.split(b",")):
        raise ValueError(names)
    return _shape(keys, codes.decode()), struct.Struct(b"<" + codes).unpack


def parse_line(
    line: bytes, end: int, redactor: Redactor | None = None, doubts: Doubts | None = None
) -> Line | None:
    """Read one line without its newline. None for blank lines and comments; `Torn` for damage.

    A byte order mark, with which some programs begin what they append, is no part of it.
    """
    stripped = line.removeprefix(codecs.BOM_UTF8).strip()
    if not stripped or stripped[:1] == b"#":
        return None
    if stripped[:1] == b"=":
        return _unpack(line, end)
    if len(line) > journal_lines.MAX_LINE or journal_lines.CANCEL in line or b"\x00" in line:
        return Torn(end)
    try:
        text = stripped.decode()
        if text[0] == "!":
            return _parse_message(text, end, redactor)
        if '"' in text or _OPEN.search(text):
            return _parse_quoted(text, end, redactor, doubts)
        return _parse_plain(stripped, end, redactor, doubts)
    except (ValueError, RecursionError):
        return Torn(end)


def _refuse(constant: str) -> None:
    raise ValueError(constant + " is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse, strict=False)


def _parse_message(text: str, end: int, redactor: Redactor | None) -> Line:
    kind, _, body = text[1:].partition(" ")
    value = json.loads(body, parse_constant=_refuse)
    if not _KIND.match(kind):
        return Torn(end)
    if redactor is not None:
        body = json.dumps(redactor.value(value), separators=(",", ":"))
    return Message(end, kind, body)


def _parse_plain(line: bytes, end: int, redactor: Redactor | None, doubts: Doubts | None) -> Line:
    """Read a row without quotes."""
    values: dict[str, Value] = {}
    tokens = line.split()
    for token in tokens:
        name, _, text = token.partition(b"=")
        if not name or not text or b"=" in text:
            return Torn(end)
        value = _value(text.decode())
        if doubts is not None and isinstance(value, str):
            _doubt(doubts, name.decode(), value, line.decode(), redactor)
        values[name.decode()] = redactor.text(value) if redactor and isinstance(value, str) else value
    if len(values) != len(tokens):
        return Torn(end)  # a repeated key: two lines glued together
    reserved = {name: values.pop(name) for name in journal_lines.RESERVED if name in values}
    return _row(reserved, values, end)


def _doubt(doubts: Doubts, name: str, value: str, line: str, redactor: Redactor | None) -> None:
    if redactor is not None:
        value = type(value)(redactor.text(value))
        line = redactor.text(line)
    doubts.note(name, value, line)


def _parse_quoted(text: str, end: int, redactor: Redactor | None, doubts: Doubts | None) -> Line:
    """Read a row some of whose keys or strings are quoted, or which has JSON in it."""
    reserved: dict[str, Value] = {}
    values: dict[str, Value] = {}
    position, count = 0, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return Torn(end)
        count += 1
        key, quoted_key = match["key"], match["quoted_key"]
        value, position = _token_value(match, redactor)
        if doubts is not None and isinstance(value, str) and not match["quoted"]:
            _doubt(doubts, key or quoted_key, value, text, redactor)
        if redactor is not None and type(value) is str:
            value = redactor.text(value)
        if key in journal_lines.RESERVED:
            reserved[key] = value
        else:
            values[key or json.loads(quoted_key, strict=False)] = value
    return _row(reserved, values, end) if len(reserved) + len(values) == count else Torn(end)


def _token_value(match: re.Match[str], redactor: Redactor | None) -> tuple[Value, int]:
    """Return the value of a token, and where it ends."""
    if match["opened"]:
        return _json_value(match.string, match.start("opened"), redactor)
    quoted = match["quoted"]
    return json.loads(quoted, strict=False) if quoted else _value(match["bare"]), match.end()


def _json_value(text: str, begin: int, redactor: Redactor | None) -> tuple[Value, int]:
    """Read a list or an object that begins there; returns it and where it ends.

    What only looks like one is a bare word. Raises ValueError where it is none either.
    """
    try:
        value, end = _DECODER.raw_decode(text, begin)
    except ValueError:
        end = -1
    if end < 0 or not _END_OF_TOKEN.match(text, end):
        word = _WORD.match(text, begin)
        if word is None:
            raise ValueError(text)
        return word[0], word.end()
    if redactor is not None:
        value = redactor.value(value)
    shown = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    is_long = len(shown.encode("utf-8", "replace")) > journal_lines.MAX_JSON
    return shown if is_long else Json(shown), end


def _row(reserved: Mapping[str, Value], values: dict[str, Value], end: int) -> Line:
    step = reserved.get("step")
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if step is not None and (type(step) is not int or step not in journal_lines.INT64):
        return Torn(end)
    if any(
        len(name) > journal_lines.MAX_NAME // 4
        and len(name.encode("utf-8", "replace")) > journal_lines.MAX_NAME
        for name in values
    ):
        return Torn(end)
    progress, time = _real(reserved.get("progress")), _real(reserved.get("time"))
    return Row.of(end, step, progress, time, values, series=_series(reserved.get("series")))


def _series(value: Value | None) -> str | None:
    """Check the name of a series, which may look like a number; raises ValueError for what can be none."""
    if value is None:
        return None
    name = value if isinstance(value, str) else repr(value)
    if isinstance(value, Json) or not 0 < len(name.encode("utf-8", "replace")) <= journal_lines.MAX_SERIES:
        raise ValueError(value)
    return name


def _real(value: Value | None) -> float | None:
    """Check a reserved number; raises ValueError for what is none."""
    if value is None:
        return None
    if isinstance(value, (str, bool)) or value != value:
        raise ValueError(value)
    try:
        return float(value)
    except OverflowError:
        raise ValueError(value) from None


def _value(text: str) -> Value:
    # The common cases first; Python's own grammar is C's but for underscores and foreign digits.
    if text.isascii() and "_" not in text:
        if text.isdecimal():
            return int(text) if len(text) < _MAX_DIGITS else float(text)
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
        return int(text) if len(text) < _MAX_DIGITS else float(text)
    if match["hex"]:
        return int(text, 16)
    if text[:3].lower().lstrip("+-")[:2] == "0x":
        try:
            return float.fromhex(text)
        except OverflowError:
            return float("-inf" if text[0] == "-" else "inf")
    return float(text.partition("(")[0])
