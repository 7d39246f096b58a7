"""A log that nobody can fill: what comes again and again is said once a minute, with how often it came."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MINUTE = 60.0


class Sparing:
    """Lets a line about a subject into the log once a minute, and counts those in between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: When subjects were last told of, the earliest first.
        self._told: dict[object, float] = {}
        self._left_out: Counter[object] = Counter()

    def wants(self, subject: object) -> str | None:
        """Return how the line ends, saying how many before it were left out; None if it is left out."""
        now = self._clock()
        self._told = dict(itertools.dropwhile(lambda item: item[1] + _MINUTE <= now, self._told.items()))
        if subject in self._told:
            self._left_out[subject] += 1
            return None
        self._told[subject] = now
        count = self._left_out.pop(subject, 0)
        return f" ({count:,} like this were left out of the log before)" if count else ""
