"""The outbox: journals of one run, on their way to the collector. Shared by the relay and by `spool.deliver`.

It joins the pure parts, `journal`, `wire` and `window`, with the files of `tail`. It has no socket and no
clock of its own: `Link` has the first, callers the second.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.stream.disk.marks import next_name
from hpctrack.stream.node.window import Window
from hpctrack.stream.wire import bodies, ciphers, datagrams, journal, layout
from hpctrack.stream.wire.names import Address, RunName

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from hpctrack.stream.disk.tail import Tail
    from hpctrack.stream.node.window import Stream
    from hpctrack.stream.wire.datagrams import Header
    from hpctrack.stream.wire.names import Place
    from hpctrack.stream.wire.records import Record

#: Times that a journal may be cut by its writer and start again under the next name.
_MAX_RENEWALS = 64
#: Time-outs in a row after which a collector that did answer may be somewhere else.
_PATIENCE = 3
#: Datagrams that are sent before answers are looked at.
BURST = 64
_ANSWERS = (layout.ACK, layout.HELD, layout.PONG)


class Run(NamedTuple):
    """Whose journals these are."""

    name: RunName
    key: bytes

    @classmethod
    def of(cls, record: Record, task: int) -> Run:
        """Return the run of a submission record and one of its tasks."""
        return cls(RunName.of(record.uuid, task), ciphers.run_key(bytes.fromhex(record.secret), task))

    def __repr__(self) -> str:
        return f"<Run {self.name.submission.hex()}:{self.name.task}>"  # the key is for no log


class _Shipment:
    """One journal: its tail, its stream, and lines that are read and not packed."""

    def __init__(self, tail: Tail, stream: Stream) -> None:
        self.tail, self.stream = tail, stream
        self.lines: list[journal.Line] = []
        self.next = 0
        self.renewals = 0

    def cut_anew(self, offset: int) -> None:
        self.tail.seek(offset)
        self.lines, self.next = [], 0

    def has_line(self) -> bool:
        if self.next == len(self.lines):
            self.lines, self.next = self.tail.read(), 0
        return bool(self.lines)


def _random() -> float:
    return int.from_bytes(os.urandom(4), "little") / 2**32  # the module of this name loads much


class Outbox:
    """Ships journals from their watermarks until everything is acknowledged."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._window = Window(_random)
        self._shipments: dict[bytes, _Shipment] = {}
        #: When the last answer came; None before the first.
        self.heard: float | None = None
        #: How often somebody cut a journal.
        self.cuts = 0

    def add(self, tail: Tail, *, first: bool = False) -> None:
        """Take up a journal; ``first`` ones go before all others. None goes by the name of another."""
        while tail.name in self._shipments:
            tail.name = next_name(tail.name)
        self.cuts += tail.was_cut
        self._shipments[tail.name] = _Shipment(
            tail, self._window.open(tail.name, tail.files[0].base, first=first)
        )

    def remove(self, tail: Tail) -> None:
        """Forget a journal."""
        self._window.close(self._shipments.pop(tail.name).stream)

    def tails(self) -> list[Tail]:
        """Return the journals."""
        return [shipment.tail for shipment in self._shipments.values()]

    def watermark(self, tail: Tail) -> int:
        """Return up to which offset a journal is acknowledged."""
        return self._shipments[tail.name].stream.watermark

    def holds(self, tail: Tail) -> bool:
        """Whether it ships a journal."""
        shipment = self._shipments.get(tail.name)
        return shipment is not None and shipment.tail is tail

    def idle(self, tail: Tail) -> bool:
        """Whether nothing of a journal is on its way, and nothing more of it can be read now."""
        shipment = self._shipments[tail.name]
        return not shipment.stream.flights and not shipment.has_line()

    def delivered(self, tail: Tail) -> bool:
        """Whether all that the journal's files hold at this moment is read and acknowledged."""
        return self.idle(tail) and tail.is_read

    def safe(self, tail: Tail) -> int:
        """Return up to which offset nothing of a journal is missing in PostgreSQL.

        That is the watermark; of a journal that is delivered, the end of the comments and blanks behind it.
        """
        return tail.offset if self.delivered(tail) else self.watermark(tail)

    def drained(self) -> bool:
        """Whether all of them are delivered."""
        return all(self.delivered(tail) for tail in self.tails())

    def look(self) -> bool:
        """Look for what was appended to the journals; whether there is anything to read."""
        grown = False
        for shipment in list(self._shipments.values()):
            grown |= shipment.tail.look()
        self.renew()
        return grown

    def renew(self) -> bool:
        """Begin again with journals that turned out to be cut; whether there were any."""
        renewed = False
        for shipment in list(self._shipments.values()):
            if shipment.tail.shrunk:
                shipment.tail.look()  # more may have been read than was there when it was last looked at
            if shipment.tail.shrunk and shipment.renewals < _MAX_RENEWALS:
                self._renew(shipment)
                renewed = True
        return renewed

    def datagrams(self, now: float) -> Iterator[bytes]:
        """Yield what is to be sent now, at most about `BURST` datagrams."""
        sent = 0
        for datagram in self._waiting(now):
            sent += 1
            yield datagram
        progress = True
        while progress and sent < BURST:
            progress = False
            for stream in list(self._window.hungry()):
                if self._pack(self._shipments[stream.journal]):
                    progress = True
                    for datagram in self._waiting(now):
                        sent += 1
                        yield datagram

    def _waiting(self, now: float) -> Iterator[bytes]:
        for flight in self._window.send(now):
            yield datagrams.sign(
                self._run.key,
                datagrams.Header(
                    layout.DATA,
                    *self._run.name,
                    self._shipments[flight.stream.journal].tail.attempt,
                    flight.stream.journal,
                    flight.start,
                    flight.end,
                    flight.token,
                    flight.part,
                    flight.parts,
                ),
                flight.content,
            )

    def _pack(self, shipment: _Shipment) -> bool:
        """Cut the next range of a journal; False if there is nothing to cut."""
        if not shipment.has_line():
            return False
        body, count = bodies.pack(itertools.islice(shipment.lines, shipment.next, None))
        end = shipment.lines[shipment.next + count - 1].end
        if len(body) > layout.MAX_BODY * layout.MAX_PARTS:
            body = self._torn(shipment, end)
        shipment.next += count
        self._window.add(shipment.stream, end, datagrams.contents(self._run.key, body))
        return True

    def _torn(self, shipment: _Shipment, end: int) -> bytes:
        """Return what stands for a line that needs too many parts; it goes alone."""
        line, doubts = shipment.lines[shipment.next], shipment.tail.doubts
        if doubts is not None and doubts.wants_torn:
            doubts.note_too_large(len(line.cells) if isinstance(line, journal.Row) else 1)
        return bodies.pack([journal.Torn(end)])[0]

    def receive(self, datagram: bytes, now: float) -> bool:
        """Take in an answer; whether it is one to this run, under its key."""
        header = self._open(datagram)
        if header is None:
            return False
        self.heard = now
        cut = self._window.answered(header, now)
        if cut is not None:
            stream, offset = cut
            shipment = self._shipments[stream.journal]
            shipment.cut_anew(offset)
            if offset > shipment.tail.end:
                shipment.tail.look()
            self.renew()
        return True

    def _open(self, datagram: bytes) -> Header | None:
        """Return the header of an answer to this run; None for anything else."""
        try:
            header = datagrams.peek(datagram)
        except errors.WireError:
            return None
        is_ours = (header.submission, header.task) == self._run.name
        if is_ours and header.kind in _ANSWERS and datagrams.verified(self._run.key, datagram):
            return header
        return None

    def _renew(self, shipment: _Shipment) -> None:
        """The writer has emptied its journal: what comes now is a journal of its own, with the next name."""
        tail = shipment.tail
        self.cuts += 1
        self._window.close(shipment.stream)
        del self._shipments[tail.name]
        tail.begin_anew()
        tail.was_cut = False  # this one is counted
        self.add(tail)
        self._shipments[tail.name].renewals = shipment.renewals + 1

    def hurry(self, seconds: float) -> None:
        """Do as `Window.hurry`."""
        self._window.hurry(seconds)

    @property
    def timeouts(self) -> int:
        """How many time-outs there were since the last answer."""
        return self._window.timeouts

    def oldest(self) -> float | None:
        """Return when the oldest of what is not acknowledged was first sent; None if there is nothing."""
        return self._window.oldest()

    def wakeup(self) -> float | None:
        """Return when something is to be sent again; None for never."""
        return self._window.wakeup()


class Link:
    """The addresses where the collector may be, and a socket for each family of them that was tried."""

    def __init__(self, addresses: Callable[[], Sequence[Address]]) -> None:
        """``addresses`` returns them; it is asked again at each `turn`."""
        self._addresses = addresses
        self._targets: list[Place] = []
        self._sockets: dict[int, socket.socket] = {}
        self._target: Place | None = None
        self._timeouts = 0

    @property
    def ready(self) -> bool:
        """Whether there is an address to send to."""
        return self._target is not None

    def watch(self, box: Outbox) -> None:
        """Try the next address after each time-out, if nobody has answered before or not for some of them."""
        if box.timeouts > self._timeouts and (box.heard is None or box.timeouts >= _PATIENCE):
            self.turn()
        self._timeouts = box.timeouts

    def turn(self) -> None:
        """Try the next address."""
        targets: list[Place] = []
        for address in self._addresses():
            with contextlib.suppress(OSError, ValueError):  # UnicodeError is a ValueError
                targets += [place for place in address.resolve() if place not in targets]
        self._targets = targets
        if not targets:
            self._target = None
            return
        index = targets.index(self._target) + 1 if self._target in targets else 0
        self._target = targets[index % len(targets)]

    def send(self, datagram: bytes) -> bool:
        """Send one datagram; False if there is no address, or no room. What is lost is sent again anyway."""
        if self._target is None:
            return False
        family, place = self._target
        try:
            self._socket(family).sendto(datagram, place)
        except OSError:
            return False
        return True

    def _socket(self, family: int) -> socket.socket:
        if family not in self._sockets:
            self._sockets[family] = Address.caller(family)
        return self._sockets[family]

    def receive(self) -> Iterator[bytes]:
        """Yield the datagrams that have arrived."""
        for caller in self._sockets.values():
            try:
                while True:
                    yield caller.recv(layout.MAX_DATAGRAM + 1)
            except OSError:
                continue

    def filenos(self) -> list[int]:
        """Return what to poll."""
        return [caller.fileno() for caller in self._sockets.values()]

    def close(self) -> None:
        """Close the sockets."""
        for caller in self._sockets.values():
            caller.close()
        self._sockets.clear()
