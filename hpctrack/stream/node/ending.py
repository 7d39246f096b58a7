"""How long a relay stays when the script has ended: for the last acknowledgements, or for a first answer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hpctrack.stream.wire import records

if TYPE_CHECKING:
    from hpctrack.stream.node.options import Config
    from hpctrack.stream.node.voyage import Voyage

#: Seconds that the relay waits for the submission record, since it began.
_RECORD = 3.0
#: Seconds that it waits for a first answer of the collector, since it first sent something.
_FIRST_ANSWER = 1.0
#: The same of a command (``hpctrack run``), which may end before it is registered; and once it is.
_REGISTRATION, _REGISTERED = 2.0, 0.6
#: Seconds between two attempts to get a first answer.
_HURRY = 0.15
#: Seconds of copying to the spool after the flush cap; the supervisor waits for two.
COPYING = 1.5


class Ending:
    """How long the relay goes on after the end of the script; times are of the monotonic clock.

    The relay asks `is_over` each round. A collector that has answered is waited for until the flush cap, one
    that never has for much less: it may not be there at all.
    """

    def __init__(self, config: Config, began: float, now: float) -> None:
        """``began`` is when the relay did."""
        self._began = began
        #: The submission record of a command; empty for a job.
        self._record = config.record
        self._registered_at: float | None = None
        #: When the flush cap is reached.
        self.deadline = now + config.flush
        #: Whether the relay has nothing more to do.
        self.done = False

    @property
    def last_moment(self) -> float:
        """When the relay ends whatever it is doing."""
        return self.deadline + COPYING

    def is_over(self, voyage: Voyage | None, now: float) -> bool:
        """Whether waiting makes no sense any more: what is left goes to the spool."""
        return now >= min(self.deadline, self._wait_until(voyage, now))

    def _wait_until(self, voyage: Voyage | None, now: float) -> float:
        if voyage is None:
            return self._began + _RECORD
        if voyage.by_spool:
            return now
        if voyage.answered:
            return self.deadline
        voyage.outbox.hurry(_HURRY)
        return self._first_answer(
            self._began if voyage.first_sent is None else voyage.first_sent, voyage, now
        )

    def _first_answer(self, begin: float, voyage: Voyage, now: float) -> float:
        """Return when a collector that never answered is given up."""
        if not self._record or voyage.first_sent is None:
            return begin + _FIRST_ANSWER
        with contextlib.suppress(OSError):  # then the time below is enough for most
            if self._registered_at is None and records.is_registered(self._record):
                self._registered_at = now
        if self._registered_at is None:
            return begin + _REGISTRATION
        return max(begin + _FIRST_ANSWER, self._registered_at + _REGISTERED)
