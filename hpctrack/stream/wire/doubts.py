"""What is doubtful in a journal, to be told in the run's timeline with the first few lines. Pure.

Torn lines are counted, but a count does not say why they can't be read.

What looks like a number and is none is kept as text, and told once. Scripts in many tongues write
``loss=0,25``, ``acc=93.5%``, ``lr=1.5D-3``, ``x=0.17;``. Nobody can know what was meant, and a text where
numbers were expected would be noticed much later.
"""

from __future__ import annotations

import itertools
import re

from hpctrack.script import journal_lines

#: Digits of any script with signs, points, commas and exponents of any custom, and units that follow at once.
_NUMBERISH = re.compile(
    r"\ufeff*[([]?[+\-\u2212\u2013]?[$\u00a3\u20ac]?(?:1?\.#(?:INF|IND|QNAN|SNAN)|[.,]?\d)"
    r"(?:[\d.,'\u00a0\u202f\u066b\u066c]|_(?=\d{3}(?:\D|\Z)))*"
    r"(?:[dDeEqQ*^x\u00d7][+\-\u2212\u2013]?\d*[\d^]*|[fFlL])?"
    r"(?:%|\u2030|\u00b0|[$\u00a3\u20ac]|[kKMGTP]?i?[bB](?:/s)?|[num\u00b5]?s|min|h|k|K|M|G|x|X)?[;,:.)\]]*"
)
_VERSION = re.compile(r"\d+\.\d+\.[\d.]*")
#: What is told of rows that nobody has counted.
UNCOUNTED = "an unknown number of rows is lost: PostgreSQL was set back, or a disk has failed"
_MOST = 5
_LONGEST = 120
_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')


def is_doubtful(text: str) -> bool:
    """Whether a bare word that is no number looks like one. Dates, versions and names are what they are."""
    return bool(_NUMBERISH.fullmatch(text)) and not _VERSION.fullmatch(text)


class Doubts:
    """Those of a run: the first few torn lines; for each of the first few metrics the first value."""

    def __init__(self) -> None:
        self._torn = 0
        self._seen: set[str] = set()
        self._untold: list[str] = []

    def note(self, name: str, text: str, line: str) -> None:
        """Note a value of a metric, a bare word or JSON, if it looks like a number."""
        if name in self._seen or len(self._seen) >= _MOST or not is_doubtful(text):
            return
        if name in journal_lines.RESERVED:
            return  # its line is torn
        self._seen.add(name)
        stored = "a list" if isinstance(text, journal_lines.Json) else "text"
        self._untold.append(
            f"{name[:_LONGEST]} is {stored}, since {text[:_LONGEST]} is no number: {_short(line)}"
        )

    @property
    def wants_torn(self) -> bool:
        """Whether another torn line is worth telling."""
        return self._torn < _MOST

    def note_torn(self, line: bytes, shown: str) -> None:
        """Note a line that can't be read; ``shown`` is what may be shown of it."""
        self._torn += 1
        self._untold.append(f"a line can't be read, {why(line)}: {_short(shown)}")

    def note_too_large(self, count: int) -> None:
        """Note a line that needs more than the wire carries in one; a row of ``count`` values."""
        self._torn += 1
        self._untold.append(f"a line can't be sent, it is too large ({count} values): it counts as damaged")

    def note_gap(self) -> None:
        """Note that nobody knows how many rows stood where nothing is left of them."""
        self._untold.append(UNCOUNTED)

    def take(self) -> list[str]:
        """Return what was noted since the last time."""
        untold, self._untold = self._untold, []
        return untold


def _short(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def why(line: bytes) -> str:
    """Return why a line of a journal can't be read, in a few words."""
    if journal_lines.CANCEL in line:
        return "its writer could not write it whole (a full disk, or its end)"
    if len(line) > journal_lines.MAX_LINE:
        return f"it is longer than {journal_lines.MAX_LINE:,} bytes"
    if b"\0" in line:
        return "it is UTF-16; journals are UTF-8" if _is_utf16(line) else "it holds NUL bytes"
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if text[:1] == "!":
        return "its message is no JSON"
    if text[:1] == "=":
        return "a packed row is damaged"
    if text.replace("\\\\", "").replace('\\"', "").count('"') % 2:
        return "a quote has no end"
    return _why_no_row(_WORD.findall(text))


def _is_utf16(line: bytes) -> bool:
    """Whether every other byte is NUL, but for a byte order mark, and what a newline leaves to its line."""
    return b"\0\0" not in line and line.count(b"\0") >= len(line) // 2 - 1


def _why_no_row(words: list[str]) -> str:
    """Return what is wrong with the words of a row."""
    reasons = filter(None, map(_why_no_word, words))
    names = [word.partition("=")[0] for word in words]
    twice = (
        f"{_short(name)} stands twice, perhaps two lines in one" for name in names if names.count(name) > 1
    )
    return next(itertools.chain(reasons, twice), "a number is out of range, or a name too long")


def _why_no_word(word: str) -> str | None:
    """Return what is wrong with one word of a row; None if nothing is."""
    name, equals, value = word.partition("=")
    if not value or not name:
        return "name=value has no blanks" if equals else _why_no_pair(word)
    if "=" in value and '"' not in value:
        return f"{_short(word)} has two ="
    if name == "series":
        return None if 0 < len(value) <= journal_lines.MAX_SERIES else "the name of a series is too long"
    if name in journal_lines.RESERVED and not _is_number(value):
        return f"a comma follows {name}" if value.endswith(",") else f"{name} is no number"
    return None


def _why_no_pair(word: str) -> str:
    return "commas are no separators" if word.strip(",;") == "" else f"{_short(word)} is no name=value"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
