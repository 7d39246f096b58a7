"""The arguments of a script as a JSON object. Pure.

Nobody can know how a script reads its command line, so this follows what most do: ``--name value`` and
``--name=value`` set a name, ``--flag`` and ``-v`` are true, ``a.b=3`` (Hydra, OmegaConf) sets a name, and
everything else is positional. What `hpctrack.set_args` says later is merged over it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    found: dict[str, Any] = {}
    positional: list[Any] = []
    position = 0
    while position < len(argv):
        word = argv[position]
        following = argv[position + 1] if position + 1 < len(argv) else None
        position += 1
        if word == "--":
            positional += map(typed, argv[position:])
            break
        option, override = _OPTION.match(word), _OVERRIDE.match(word)
        if option is not None:
            name, equals, text = word.partition("=")
            if equals:
                _put(found, name.lstrip("-"), typed(text))
            elif following is not None and _is_value(name, following):
                _put(found, name.lstrip("-"), typed(following))
                position += 1
            else:
                _put(found, name.lstrip("-"), True)
        elif override is not None:
            _put(found, override[1], typed(word[override.end() :]))
        else:
            positional.append(typed(word))
    if positional:
        found[POSITIONAL] = positional
    return found


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


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    if name not in found:
        found[name] = value
    elif isinstance(found[name], list):
        found[name].append(value)
    else:
        found[name] = [found[name], value]
