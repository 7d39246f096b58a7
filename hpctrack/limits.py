"""The one table of bounds on what people and scripts hand in. Pure.

Text that people type is refused at once, and the message names the bound. What comes along by itself (an
environment, a script, a path) is cut, and ends in a note of its length. The schema has the same bounds
(`is_text`, `is_json`) for those who write SQL.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from hpctrack import errors


class Limit(NamedTuple):
    """How many bytes one kind of text has at most in UTF-8, or one kind of value as JSON."""

    what: str
    most: int


EXPERIMENT = Limit("the name of an experiment", 1000)
LINK = Limit("the kind of a link", 255)
NOTE = Limit("a note", 64 << 10)
TAGS = Limit("tags", 256 << 10)
GOALS = Limit("goals", 64 << 10)
ARGS = Limit("arguments", 1 << 20)
#: Not typed by people: these come along with a submission.
WORD = Limit("a name", 255)
JOB_NAME = Limit("the name of a job", 1000)
PATH = Limit("a path", 4096)
SUBMIT_LINE = Limit("a submit line", 256 << 10)
SCRIPT = Limit("a script", 4 << 20)
ENV = Limit("an environment", 1 << 20)
VARIABLE = Limit("a variable of the environment", 32 << 10)
GIT = Limit("the state of a repository", 64 << 10)
#: Levels of objects and lists in a JSON value: Python's readers fail somewhere below 1,000.
DEPTH = 100


def text(limit: Limit, given: str) -> str:
    """Return a text that people typed. Raises `errors.UsageError` if it is too long, no UTF-8, or has NUL."""
    try:
        size = len(given.encode())
    except UnicodeEncodeError:
        raise errors.UsageError(f"{limit.what} must be UTF-8: {_start(given)!r} is not") from None
    if "\0" in given:
        raise errors.UsageError(f"{limit.what} holds no NUL: {_start(given)!r}")
    if size > limit.most:
        raise errors.UsageError(
            f"{limit.what} has at most {limit.most:,} bytes; {_start(given)!r} has {size:,}"
        )
    return given


def value(limit: Limit, given: Any) -> Any:
    """Return a JSON value that people gave. Raises `errors.UsageError` if it is too long or too deep."""
    if depth(given) > DEPTH:
        raise errors.UsageError(f"{limit.what} are nested at most {DEPTH} levels deep")
    size = len(json.dumps(given, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))
    if size > limit.most:
        raise errors.UsageError(f"{limit.what} have at most {limit.most:,} bytes as JSON, not {size:,}")
    return given


def depth(given: Any) -> int:
    """Return how many levels of objects and lists a value has; beyond `DEPTH` the answer is `DEPTH` + 1."""
    level, levels = [given], 0
    while levels <= DEPTH:
        level = [value for value in level if isinstance(value, dict | list | tuple)]
        if not level:
            break
        levels += 1
        level = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
    return levels


def cut(limit: Limit, given: str) -> str:
    """Return as much of a text as fits; a text that was cut ends in its original length."""
    if len(given) * 4 <= limit.most:
        return given
    encoded = given.encode("utf-8", "surrogatepass")
    if len(encoded) <= limit.most:
        return given
    mark = f"... ({len(encoded):,} bytes)"
    return encoded[: max(limit.most - len(mark), 0)].decode("utf-8", "ignore") + mark


def cut_object(limit: Limit, entry: Limit, given: dict[str, Any]) -> dict[str, Any]:
    """Return an object that fits: its texts are cut, and then its longest entries replaced by their sizes."""
    shortened = {
        cut(WORD, name): cut(entry, item) if isinstance(item, str) else item for name, item in given.items()
    }
    sizes = {name: _size({name: item}) for name, item in shortened.items()}
    total = sum(sizes.values())
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total <= limit.most:
            break
        shortened[name] = f"... ({sizes[name]:,} bytes)"
        total -= sizes[name] - _size({name: shortened[name]})
    return shortened


def _size(given: Any) -> int:
    return len(json.dumps(given, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _start(given: str) -> str:
    return given if len(given) <= 40 else given[:40] + "..."
