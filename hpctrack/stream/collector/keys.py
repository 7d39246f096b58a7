"""Keys of runs, for the thread that receives; another thread fetches them from PostgreSQL.

The receiver calls `find`, and `want` for a run that is not in memory: some of its datagrams are parked. The
registrar `wait`s for wanted runs, asks PostgreSQL for all of them in one query, and calls `learn`; then the
receiver gets the parked datagrams from `unparked`. Datagrams of a run that does not exist stay parked as long
as there is room: when the registrar hears of changes in PostgreSQL, and calls `look_again`, it is asked for
once more, and its relay need not send them again. Everything is bounded: floods of invented runs reach
neither PostgreSQL nor memory, for a run that does not exist is asked for once in a second at most.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hpctrack.stream.collector.mmsg import Addressed
    from hpctrack.stream.wire.names import RunName

_MAX_KEYS = 100_000
#: Runs that are asked for at once.
MAX_WANTED = 500
_MAX_ABSENT = 100_000
#: Before a run that is not there is asked for again: soon, for a command that has just begun may be about to
#: be registered.
ABSENT = Backoff(0.1, 1.0)
#: Datagrams that wait for the key of their run, per run and in all.
_PARKED_PER_RUN = 4
_MAX_PARKED = 1000
#: Runs that are looked for again at once: invented ones must leave room for others.
_LOOKED_AGAIN = 100


class RunKey(NamedTuple):
    """A run, and the key of its datagrams."""

    #: 0 for a submission that has none: it may ask for an echo.
    run_id: int
    key: bytes
    user: str = ""
    """Whose run it is: bounds are shared fairly among users."""

    def __repr__(self) -> str:
        return f"<RunKey of {self.run_id}>"  # the key is for no log


class Keys:
    """Keys of runs. Two threads share it: one that receives, one that asks PostgreSQL."""

    def __init__(self, clock: Callable[[], float], wake: Callable[[], None] = lambda: None) -> None:
        """``wake`` wakes the receiving thread when datagrams that waited are there for it."""
        self._clock = clock
        self._wake = wake
        self._lock = threading.Lock()
        self._asked = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._asked)
        self._keys: OrderedDict[RunName, RunKey] = OrderedDict()
        self._absent: dict[RunName, tuple[float, float]] = {}  # until when, and for how long
        self._wanted: dict[RunName, list[Addressed]] = {}
        #: Datagrams of runs that did not exist when they were asked for, the oldest first.
        self._early: OrderedDict[RunName, list[Addressed]] = OrderedDict()
        self._parked = 0
        self._unparked: list[Addressed] = []
        #: Datagrams that waited for runs that did not exist, each time that these were asked for.
        self.refused = 0

    # --- the receiving thread ---

    def find(self, name: RunName) -> RunKey | None:
        """Return a run's key if it is in memory."""
        return self._keys.get(name)

    def want(self, name: RunName, datagram: Addressed) -> bool:
        """Have a run asked for; whether its datagram is kept until the answer."""
        now = self._clock()
        with self._lock:
            if self._absent.get(name, (now, 0.0))[0] > now:
                return False
            parked = self._wanted.get(name)
            if parked is None:
                if len(self._wanted) >= MAX_WANTED:
                    return False
                parked = self._wanted[name] = self._early.pop(name, [])
                self.wake()
            if len(parked) >= _PARKED_PER_RUN or not self._has_room():
                return False
            parked.append(datagram)
            self._parked += 1
            return True

    def _has_room(self) -> bool:
        """Whether one more datagram can be parked; the oldest of runs that do not exist give way."""
        while self._parked >= _MAX_PARKED and self._early:
            self._parked -= len(self._early.popitem(last=False)[1])
        return self._parked < _MAX_PARKED

    def unparked(self) -> list[Addressed]:
        """Return parked datagrams whose keys have been learnt meanwhile."""
        if not self._unparked:
            return []
        with self._lock:
            datagrams, self._unparked = self._unparked, []
        return datagrams

    # --- the thread that asks ---

    def wait(self, seconds: float, *others: int) -> list[RunName]:
        """Wait until runs are wanted, for so long at most; return them.

        Ends, too, when one of the other descriptors has something to read.
        """
        poll = select.poll()
        for descriptor in (self._asked, *others):
            poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._asked)
            return list(self._wanted)

    def wake(self) -> None:
        """End the `wait` that goes on, or else the next."""
        os.eventfd_write(self._asked, 1)

    def look_again(self) -> None:
        """Have runs asked for that did not exist: the latest of those whose datagrams are here, at once."""
        with self._lock:
            self._absent.clear()
            for _ in range(min(len(self._early), _LOOKED_AGAIN, MAX_WANTED - len(self._wanted))):
                name, parked = self._early.popitem()
                self._wanted[name] = parked
            if self._wanted:
                self.wake()

    def learn(self, asked: list[RunName], keys: Mapping[RunName, RunKey]) -> None:
        """Take in the answer for runs that were asked for; the others do not exist."""
        now = self._clock()
        with self._lock:
            if len(self._absent) + len(asked) > _MAX_ABSENT:
                self._absent.clear()
            for name in asked:
                parked = self._wanted.pop(name, [])
                key = keys.get(name)
                if key is None:
                    if parked:
                        self._early[name] = parked
                    pause = ABSENT.after(self._absent.get(name, (now, 0.0))[1])
                    self._absent[name] = now + pause, pause
                    self.refused += len(parked)
                    continue
                self._absent.pop(name, None)
                self._parked -= len(parked)
                self._keys[name] = key
                self._unparked += parked
            while len(self._keys) > _MAX_KEYS:
                self._keys.popitem(last=False)
        if self._unparked:
            self._wake()

    def forget(self, run_ids: set[int]) -> None:
        """Forget the keys of runs that do not exist any more."""
        with self._lock:
            for name in [name for name, key in self._keys.items() if key.run_id in run_ids]:
                del self._keys[name]
