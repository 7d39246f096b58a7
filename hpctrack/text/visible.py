"""Text of anybody's made visible: nothing in it commands a terminal, hides, or turns the order of letters.

Every name, note, message and line of a program's output that a terminal, a notebook or a spreadsheet shows
goes through here. What would not be seen is written out (``\\x1b``, ``\\u202e``), never left out: two names
that differ look different. Pure.
"""

from __future__ import annotations

import functools
import re
import unicodedata

#: Controls, formats (bidirectional, zero-width, tags), blanks but the usual ones, surrogates, private use,
#: variation selectors and letters that are blank.
_UNSEEN = (
    "\x00-\x1f\x7f-\xa0\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680\u17b4\u17b5"
    "\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U0010ffff"
)
_UNSEEN_IN_LINE = re.compile(f"[{_UNSEEN}]")
_UNSEEN_IN_LINES = re.compile(f"(?![\n\t])[{_UNSEEN}]")
_UNSEEN_IN_JSON = re.compile(f"(?!\n)[{_UNSEEN}]")
#: A backslash that could be taken for the beginning of what is written out.
_MISTAKABLE = re.compile(rf"\\(?=[\\xuUnrt{_UNSEEN}]|$)")
#: Below are no marks that combine with the letter before.
_BEYOND_LATIN = re.compile("[\u0300-\U0010ffff]")
#: Marks on one letter; no script needs more, and hundreds overrun the lines around.
_MARKS = 4
#: Colours, bold and the like; what they hold but 8, which conceals, is harmless.
_UNSEEN_BUT_COLOURS = re.compile(rf"(\x1b\[[\d;:]{{0,40}}m|[\n\t\r])|[{_UNSEEN}]")
_CONCEALED = re.compile(r"(?<![34]8[;:]5)[\[;:]0*8[;:m]")
_FORMULA = re.compile(r"'*(?:[\s\0]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")
_NUMBER = re.compile(
    r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf|infinity|nan)", re.IGNORECASE
)


def line(value: object) -> str:
    """Return one line; two that differ stay different."""
    text = str(value)
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return _bounded(_UNSEEN_IN_LINE.sub(_written, _MISTAKABLE.sub(r"\\\\", text)))


def shown(text: str) -> str:
    """Return one line that was put together of such, or of our own words: backslashes stay."""
    return _bounded(_UNSEEN_IN_LINE.sub(_written, text))


def lines(text: str) -> str:
    """Return text of several lines: newlines, tabs and backslashes stay."""
    return _bounded(_UNSEEN_IN_LINES.sub(_written, text))


def coloured(text: str) -> str:
    """Return a program's output: its colours and carriage returns stay as well."""
    return _bounded(_UNSEEN_BUT_COLOURS.sub(_unless_colour, text))


def in_json(text: str) -> str:
    """Return JSON that means what it did, with escapes of its own."""
    text = _UNSEEN_IN_JSON.sub(_as_json, text)
    return _stacks().sub(_as_json, text) if _BEYOND_LATIN.search(text) else text


def cell(value: object) -> object:
    """Return a cell of CSV: text that a spreadsheet would take for a formula gets an apostrophe in front.

    Numbers stay what they are, and text that is a number, too. Text that begins with such an apostrophe gets
    one more, so that taking one away gives back what was there.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return "'" + value
    return value


def _unless_colour(match: re.Match[str]) -> str:
    if match[1] is not None and not _CONCEALED.search(match[1]):
        return match[1]
    return "".join(_UNSEEN_IN_LINE.sub(_written, match[0]))


def _written(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _as_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _bounded(text: str) -> str:
    """Write marks out that stand on nothing, and those of a stack that is too high."""
    return _stacks().sub(_written, text) if _BEYOND_LATIN.search(text) else text


@functools.cache
def _stacks() -> re.Pattern[str]:
    """Return what finds such marks; of all Unicode, so it is made when the first text needs it."""
    marks = "".join(
        letter for letter in map(chr, range(0x300, 0x1F000)) if unicodedata.category(letter) in ("Mn", "Me")
    )
    return re.compile(rf"(?m)^[{marks}]+|(?<=[\t\r])[{marks}]+|(?<=[{marks}]{{{_MARKS}}})[{marks}]+")
