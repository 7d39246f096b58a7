"""The arguments of a script as a JSON object. Pure.

Nobody can know how a script reads its command line, so this follows what most do: ``--name value`` and
``--name=value`` set a name, ``--flag`` and ``-v`` are true, ``a.b=3`` (Hydra, OmegaConf) sets a name, and
everything else is positional. What `hpctrack.set_args` says later is merged over it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

POSITIONAL = "_"

# Numbers that JSON holds; 007 and 1_000 are names of something rather than numbers.
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]{1,3})?\Z")
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]")
_OPTION = re.compile(r"--?[A-Za-z_][^\s=]*")
_OVERRIDE = re.compile(r"\+{0,2}([A-Za-z_][\w.@/-]*)=")


def parse_arguments(argv: Sequence[str]) -> dict[str, Any]:
    """Read a script's arguments; positional ones stand under ``_``, a name given twice has a list.

    ``-x 5`` takes a value only if it is a number: ``-v data.csv`` is more often a flag and a file.
    """
    arguments: dict[str, Any] = {}
    positional: list[Any] = []
    for place in _places(argv):
        word = argv[place.start]
        if place.name is None:
            positional.append(typed(word))
        elif place.taken == 2:
            _put(arguments, place.name, typed(argv[place.start + 1]))
        else:
            _put(arguments, place.name, typed(word[place.equals :]) if place.equals else True)
    if positional:
        arguments[POSITIONAL] = positional
    return arguments


class _Place(NamedTuple):
    """Where an argument stands."""

    start: int
    #: None for a positional one.
    name: str | None = None
    #: Words that it takes up.
    taken: int = 1
    #: Where in the word its value begins; 0 where it does not hold one.
    equals: int = 0


def _places(argv: Sequence[str]) -> Iterator[_Place]:
    """Yield the arguments, without the ``--`` behind which all are positional."""
    position = 0
    while position < len(argv):
        word = argv[position]
        following = argv[position + 1] if position + 1 < len(argv) else None
        if word == "--":
            yield from map(_Place, range(position + 1, len(argv)))
            return
        option, override = _OPTION.match(word), _OVERRIDE.match(word)
        taken = 1
        if option is not None:
            name, equals, _ = word.partition("=")
            taken = 2 if not equals and following is not None and _is_value(name, following) else 1
            yield _Place(position, name.lstrip("-"), taken, len(name) + 1 if equals else 0)
        elif override is not None:
            yield _Place(position, override[1], 1, override.end())
        else:
            yield _Place(position)
        position += taken


def replace(argv: Sequence[str], name: str, value: str) -> list[str] | None:
    """Return the arguments with another value for a name, written as before; None if it is not among them.

    A flag stays for ``true`` and is removed for ``false``. Of a name given twice only the last one
    stays, with the new value.
    """
    places = [place for place in _places(argv) if place.name == name]
    if not places:
        return None
    words = list(argv)
    for place in reversed(places):
        last = place is places[-1]
        head = words[place.start]
        if place.taken == 2:
            new = [head, value]
        elif place.equals:
            new = [head[: place.equals] + value]
        else:
            new = {"true": [head], "false": []}.get(value.lower(), [f"{head}={value}"])
        words[place.start : place.start + place.taken] = new if last else []
    return words


def add(argv: Sequence[str], name: str, value: str) -> list[str]:
    """Return the arguments with one more, in the way of the others: ``name=value`` or ``--name=value``."""
    places = list(_places(argv))
    overrides = any(place.equals and not argv[place.start].startswith("-") for place in places)
    options = any(argv[place.start].startswith("-") for place in places)
    return [*argv, f"{name}={value}" if overrides and not options else f"--{name}={value}"]


def typed(text: str) -> Any:
    """Return the number or boolean that a text is, or else the text."""
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text) and not _LEADING_ZERO.match(text):
        number = float(text)
        return number if abs(number) != float("inf") else text
    return {"true": True, "false": False}.get(text.lower(), text)


def _is_value(name: str, following: str) -> bool:
    """Whether the word behind an option is its value."""
    if not isinstance(typed(following), (str, bool)):
        return True
    long = name.startswith("--") or len(name) > 2
    return long and not following.startswith("-") and not _OVERRIDE.match(following)


def _put(arguments: dict[str, Any], name: str, value: Any) -> None:
    if name not in arguments:
        arguments[name] = value
    elif isinstance(arguments[name], list):
        arguments[name].append(value)
    else:
        arguments[name] = [arguments[name], value]
