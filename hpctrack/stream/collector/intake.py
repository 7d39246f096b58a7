"""The receiving side of the collector: sockets to verified, decoded datagrams, in a queue of bounded memory.

Nothing is answered here but a PING under the right key: acknowledgements come from the committer.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.stream.collector import arrays
from hpctrack.stream.collector.figures import UNKNOWN_RUN, Received
from hpctrack.stream.collector.worker import Worker
from hpctrack.stream.wire import datagrams, layout
from hpctrack.stream.wire.names import JournalKey, RunName

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hpctrack import model
    from hpctrack.stream.collector.keys import Keys, RunKey
    from hpctrack.stream.collector.mmsg import Addressed, BatchSocket

#: Bytes of datagrams that wait to be stored.
INTAKE = 64 << 20
#: While several runs send, a run may take so many times the room that is left, and a user twice that: there
#: is always room for others. Several do for so many seconds after a datagram of another run than the last.
_SHARE = 4
_CONTENDED_SECONDS = 1.0
#: Bytes of memory that a datagram takes beside its own.
_OVERHEAD = 600
#: Seconds that the first datagram of a batch waits for company.
LINGER = 0.01
_POLL_SECONDS = 1.0
#: After so many datagrams in a row of one address that were refused within a second, only one in so many is
#: looked at until the second is over: a flood then costs little more than its copying.
_REFUSED, _SAMPLE = 256, 16
_PERIOD = 1.0
_MAX_ADDRESSES = 10_000


class Datagram(NamedTuple):
    """A verified DATA datagram."""

    header: datagrams.Header
    body: bytes
    run: RunKey
    address: bytes
    """Where answers go (struct sockaddr)."""
    contents: model.Contents | None = None
    """The body decoded: here, while the thread that stores waits for PostgreSQL; None for parts of one."""

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        decoded = 0 if self.contents is None else arrays.footprint(self.contents)
        return len(self.body) + _OVERHEAD + decoded


class Intake:
    """A queue between the thread that receives and the one that stores, bounded in bytes."""

    def __init__(self, capacity: int = INTAKE) -> None:
        self._capacity = capacity
        self._size = 0
        #: Bytes of each run and of each user; those without any are left out.
        self._shares: dict[int | str, int] = {}
        self._last: int | None = None
        self._contended = 0.0
        #: With about how many bytes of memory each takes.
        self._queue: deque[tuple[Datagram, int]] = deque()
        self._oldest = 0.0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def fill(self) -> float:
        """How full it is, from 0 to 1."""
        return self._size / self._capacity

    @property
    def lag(self) -> float:
        """About how many seconds the oldest datagram has waited; 0 while none waits."""
        return time.monotonic() - self._oldest if self._queue else 0.0

    def __len__(self) -> int:
        """Return the number of datagrams that wait."""
        return len(self._queue)

    def put(self, verified: Sequence[Datagram]) -> int:
        """Add datagrams as far as there is room for their runs; returns how many were left out."""
        left_out, now = 0, time.monotonic()
        with self._changed:
            if not self._queue:
                self._oldest = now
            for datagram in verified:
                if datagram.run.run_id != self._last:
                    self._contended = now + _CONTENDED_SECONDS if self._last is not None else 0.0
                    self._last = datagram.run.run_id
                if self._has_room(datagram.run, now):
                    size = datagram.size
                    self._charge(datagram.run, size)
                    self._queue.append((datagram, size))
                else:
                    left_out += 1
            self._changed.notify()
        return left_out

    def _has_room(self, run: RunKey, now: float) -> bool:
        room = self._capacity - self._size
        shares = self._shares
        if room <= 0 or now >= self._contended:
            return room > 0
        return shares.get(run.run_id, 0) <= _SHARE * room and shares.get(run.user, 0) <= 2 * _SHARE * room

    def _charge(self, run: RunKey, size: int) -> None:
        self._size += size
        shares = self._shares
        for name in (run.run_id, run.user):
            shares[name] = shares.get(name, 0) + size
            if not shares[name]:
                del shares[name]

    def take(self, limit: int, seconds: float) -> list[Datagram]:
        """Take up to ``limit`` datagrams, oldest first, after a moment for company; waits so long for any."""
        with self._changed:
            if not self._queue and not self._closed:
                self._changed.wait(seconds)
            if not self._queue:
                return []
            self._linger(limit)
            taken = []
            for _ in range(min(limit, len(self._queue))):
                datagram, size = self._queue.popleft()
                self._charge(datagram.run, -size)
                taken.append(datagram)
            self._oldest = time.monotonic()
            return taken

    def _linger(self, limit: int) -> None:
        """Wait until the oldest datagram has waited long enough for company, or there is enough of that."""
        rest = self._oldest + LINGER - time.monotonic()
        while rest > 0 and len(self._queue) < limit and not self._closed:
            self._changed.wait(rest)
            rest = self._oldest + LINGER - time.monotonic()

    def close(self) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def finished(self) -> bool:
        """Whether nothing is left and nothing more will come."""
        return self._closed and not self._queue


class Receiver(Worker):
    """Receives until it is stopped and the socket is empty; then closes the queue."""

    NAME = "receive"
    TROUBLES = ()

    def __init__(
        self, sock: BatchSocket, keys: Keys, intake: Intake, watermark: Callable[[JournalKey], int]
    ) -> None:
        """``watermark`` says of a run's journal how far it is committed, 0 if that is not known."""
        super().__init__()
        self._socket = sock
        self._keys = keys
        self._intake = intake
        self._watermark = watermark
        self._drained = False
        #: Datagrams, written by this thread alone: those of `figures.Received`, and the others by reason.
        self.datagrams = self.bytes = self.accepted = self.pings = self.overflow = 0
        self.refused: Counter[str] = Counter()
        #: How many datagrams of an address were refused in this period, since the last good one.
        self._floods: dict[bytes, int] = {}
        self._period = 0.0

    def figures(self) -> Received:
        """Return what this thread has counted."""
        return Received(
            self.datagrams, self.bytes, self.accepted, self.pings, self.overflow, dict(self.refused)
        )

    def stop(self) -> None:
        """Stop the thread, once it has taken in what has arrived."""
        super().stop()
        self._socket.wake()

    def step(self) -> float:
        """Take in a batch."""
        was_stopped = self._stopping.is_set()
        self._drained = not self._receive() and was_stopped
        return 0.0

    def is_done(self) -> bool:
        """Whether the thread was stopped, and all that had arrived is taken in."""
        return self._drained

    def finish(self) -> None:
        """Close the queue."""
        self._intake.close()

    def _receive(self) -> bool:
        """Take in a batch; returns whether there was anything."""
        parked = self._keys.unparked()
        received = self._next(wait=not parked)
        self.datagrams += len(received)
        self.bytes += sum(len(data) for data, _ in received)
        if self._floods:
            self._begin_period(time.monotonic())
        verified = list(filter(None, map(self._judge, parked + received)))
        if verified:
            left_out = self._intake.put(verified)
            self.overflow += left_out
            self.accepted += len(verified) - left_out
        return bool(received or parked)

    def _next(self, *, wait: bool) -> list[Addressed]:
        """Return what has arrived; with ``wait``, unless the collector ends, wait for something."""
        received = self._socket.receive()
        if received or not wait:
            return received
        if not self._stopping.is_set():
            self._socket.wait(_POLL_SECONDS)
        return self._socket.receive()

    def _begin_period(self, now: float) -> None:
        """Forget the refused addresses once per period; one that keeps flooding is detected again."""
        if now >= self._period or len(self._floods) > _MAX_ADDRESSES:
            self._floods.clear()
            self._period = now + _PERIOD

    def _judge(self, arrived: Addressed) -> Datagram | None:
        """Verify a datagram, unless its address has flooded us a moment ago."""
        address = arrived[1]
        refused = self._floods.get(address, 0)
        if refused >= _REFUSED and refused % _SAMPLE:
            self._floods[address] = refused + 1
            self.refused["flood"] += 1
            return None
        datagram = self._verify(arrived)
        if datagram is None:
            self._floods[address] = self._floods.get(address, 0) + 1
        return datagram

    def _verify(self, arrived: Addressed) -> Datagram | None:
        """Return a datagram that is for us and under its run's key; counts why not, otherwise."""
        data, address = arrived
        try:
            header = datagrams.peek(data)
        except errors.WireError as error:
            self.refused[str(error)] += 1
            return None
        if header.kind not in (layout.DATA, layout.PING):
            self.refused["wrong kind"] += 1
            return None
        name = RunName(header.submission, header.task)
        run = self._keys.find(name)
        if run is None:
            if not self._keys.want(name, arrived):
                self.refused[UNKNOWN_RUN] += 1
            return None
        if not datagrams.verified(run.key, data):
            self.refused["wrong MAC"] += 1
            return None
        self._floods.pop(address, None)
        if header.kind == layout.PING:
            self._answer(header, run, address)
            return None
        return self._open(header, run, arrived)

    def _answer(self, header: datagrams.Header, run: RunKey, address: bytes) -> None:
        """Answer a PING."""
        self.pings += 1
        watermark = self._watermark(JournalKey(run.run_id, header.journal.hex()))
        self._socket.send([(datagrams.answer(header, run.key, watermark, watermark), address)])

    def _open(self, header: datagrams.Header, run: RunKey, arrived: Addressed) -> Datagram | None:
        """Return a verified DATA datagram, opened; a submission without a run has no data."""
        data, address = arrived
        if not run.run_id:
            self.refused[UNKNOWN_RUN] += 1
            return None
        body = datagrams.body(run.key, data)
        return Datagram(header, body, run, address, _decoded(header, body))


def _decoded(header: datagrams.Header, body: bytes) -> model.Contents | None:
    if header.parts > 1:
        return None
    try:
        return arrays.decode(body)
    except errors.WireError:
        return None  # the committer finds out, and sets it aside
