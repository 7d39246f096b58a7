"""A bound on the lines of a log: what comes again and again is logged once a minute, with how often."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MINUTE = 60.0


class Throttle:
    """Admits a line about a subject to the log once a minute, and counts those in between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: When a line about each subject was admitted last, the earliest first.
        self._admitted: dict[object, float] = {}
        self._left_out: Counter[object] = Counter()

    def admit(self, subject: object) -> str | None:
        """Return the end of the line, which says how many were left out before it; None: leave it out."""
        now = self._clock()
        self._admitted = dict(
            itertools.dropwhile(lambda item: item[1] + _MINUTE <= now, self._admitted.items())
        )
        if subject in self._admitted:
            self._left_out[subject] += 1
            return None
        self._admitted[subject] = now
        count = self._left_out.pop(subject, 0)
        return f" ({count:,} like this were left out of the log before)" if count else ""
