"""Pauses that grow from one failure to the next, for loops of our own. Standard library only."""

from __future__ import annotations

from typing import NamedTuple


class Backoff(NamedTuple):
    """The first pause in seconds, the longest, and how many times longer each is than the one before.

    The caller keeps the pause of the moment, and 0 while nothing fails::

        pause = BACKOFF.after(pause)
    """

    first: float
    longest: float
    factor: float = 2.0

    def after(self, pause: float = 0.0) -> float:
        """Return the pause that follows one of so many seconds; after none, the first."""
        return min(max(self.factor * pause, self.first), self.longest)
