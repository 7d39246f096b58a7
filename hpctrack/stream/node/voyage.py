"""The voyage: a run's journals on their way to its collector.

The relay begins it when it has found the submission record, which holds the run's key: nothing can be sent
before. Each round it has the `outbox` look at the journals, and calls `receive` and `send`. Until the
collector's first answer the relay adds its own journal only, which then holds ids only; from then on
(`answered`) all of them.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from hpctrack import files
from hpctrack.stream.node.outbox import BURST, Link, Outbox, Run
from hpctrack.stream.node.timetable import Timetable
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import Address

if TYPE_CHECKING:
    from hpctrack.stream.node.options import Config
    from hpctrack.stream.wire.records import Record

#: Seconds between two looks for an address while there is none.
_TURN_PAUSE = 0.5


class Voyage:
    """One run's outbox, its link, and what its collector has shown of itself."""

    def __init__(self, record: Record, config: Config) -> None:
        self.record = record
        #: Whether the site has no datagrams: all goes by the spool.
        self.by_spool = record.transport == "spool"
        #: Whether the collector has shown that it knows the run's key.
        self.answered = False
        #: When the first datagram went out, by the monotonic clock; None before.
        self.first_sent: float | None = None
        self.outbox = Outbox(Run.of(record, config.task))
        self._site_address = os.path.join(config.spool, "collector")
        self._link = Link(self._addresses)
        self._timetable = Timetable()

    def _addresses(self) -> list[Address]:
        """Return where the collector is: the record says it, or the file of a personal collector."""
        if self.record.collector:
            return Address.known(self.record.collector)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            said = files.read(self._site_address, records.MAX_ADDRESSES).decode("ascii")
            return Address.known(said.split())
        return []

    def receive(self, now: float) -> bool:
        """Take in what has arrived; whether the collector has just answered for the first time."""
        for datagram in self._link.receive():
            self.outbox.receive(datagram, now)
        is_first = not self.by_spool and not self.answered and self.outbox.heard is not None
        self.answered |= is_first
        return is_first

    def send(self, now: float) -> bool:
        """Send what is due; whether there is more that can go at once."""
        if self.by_spool:
            return False
        self._link.watch(self.outbox)
        if not self._link.ready and self._timetable.take_turn("address", now, _TURN_PAUSE):
            self._link.turn()
        if not self._link.ready:
            return False
        sent = 0
        for datagram in self.outbox.datagrams(now):
            self._link.send(datagram)
            sent += 1
        if sent and self.first_sent is None:
            self.first_sent = now
        return sent >= BURST

    def filenos(self) -> list[int]:
        """Return the sockets to poll."""
        return self._link.filenos()

    def close(self) -> None:
        """Close the sockets."""
        self._link.close()
