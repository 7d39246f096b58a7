"""The known name that was probably meant by an unknown one. Pure."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Names that are listed where none is near.
_LISTED = 10


def to(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the known name that is nearest to one, in any case; None where none is near.

    ``cutoff`` is how alike they have to be: 1 for the same.
    """
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


def hint(name: str, known: Iterable[str]) -> str:
    """Return how a message that there is no such name goes on: the nearest one, or which there are."""
    names = sorted(known)
    near = to(name, names)
    if near is not None:
        return f"did you mean {near!r}?"
    listed = ", ".join(names[:_LISTED]) or "none"
    return f"there are: {listed}" + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def of_ours(name: str, known: Iterable[str], *more: str) -> str:
    """Return such a hint among names of ours, which are few and have an order: all of them are listed.

    ``more`` is listed behind them, and never proposed.
    """
    names = list(known)
    near = to(name, names, 0.6)
    return f"did you mean {near!r}?" if near is not None else ", ".join([*names, *more])
