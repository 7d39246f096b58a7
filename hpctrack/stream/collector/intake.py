"""The receiving side of the collector: sockets to verified, decoded datagrams, in a queue of bounded memory.

Nothing is answered here but a PING under the right key: acknowledgements come from who commits.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.stream.collector import arrays
from hpctrack.stream.wire import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hpctrack import model
    from hpctrack.stream.collector.keys import Keys, RunKey
    from hpctrack.stream.collector.mmsg import Addressed, BatchSocket

#: Bytes of datagrams that wait to be stored.
INTAKE = 64 << 20
#: While several runs send, a run may take so many times the room that is left, and a user twice that: there
#: is always room for others. Several do for so many seconds after one that was not alone.
_SHARE = 4
_CONTENDED_SECONDS = 1.0
#: What one costs beside its bytes.
_OVERHEAD = 600
#: Seconds that the first datagram of a batch waits for company.
LINGER = 0.01
_POLL_SECONDS = 1.0
#: Of an address that has sent so many datagrams within a second that were refused, and no other since,
#: only one in so many is looked at until the second is over: floods then cost little more than their copying.
_REFUSED, _SAMPLE = 256, 16
_PERIOD = 1.0
_MAX_ADDRESSES = 10_000


class Datagram(NamedTuple):
    """A verified DATA datagram."""

    header: wire.Header
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

    def put(self, datagrams: Sequence[Datagram]) -> int:
        """Add datagrams as far as there is room for their runs; returns how many were left out."""
        left_out, now = 0, time.monotonic()
        with self._changed:
            if not self._queue:
                self._oldest = now
            for datagram in datagrams:
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
            rest = self._oldest + LINGER - time.monotonic()
            while rest > 0 and len(self._queue) < limit and not self._closed:
                self._changed.wait(rest)
                rest = self._oldest + LINGER - time.monotonic()
            taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
            for datagram, size in taken:
                self._charge(datagram.run, -size)
            self._oldest = time.monotonic()
            return [datagram for datagram, _ in taken]

    def close(self) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def finished(self) -> bool:
        """Whether nothing is left and nothing more will come."""
        return self._closed and not self._queue


class Receiver:
    """Receives in a thread of its own, until it is stopped and the socket is empty."""

    def __init__(
        self, sock: BatchSocket, keys: Keys, intake: Intake, watermark: Callable[[int, str], int]
    ) -> None:
        """``watermark`` says of a run's journal how far it is committed, 0 if that is not known."""
        self._socket = sock
        self._keys = keys
        self._intake = intake
        self._watermark = watermark
        self._stopping = threading.Event()
        #: Datagrams by what became of them; written by this thread alone.
        self.counts: Counter[str] = Counter()
        #: How many datagrams of an address were refused in this period, since the last that was not.
        self._refused: dict[bytes, int] = {}
        self._period = 0.0

    def stop(self) -> None:
        """Have it take what has arrived, and end."""
        self._stopping.set()
        self._socket.wake()

    def run(self) -> None:
        """Receive until stopped; then close the queue."""
        try:
            while True:
                stopping = self._stopping.is_set()
                if not self._receive() and stopping:
                    return
        finally:
            self._intake.close()

    def _receive(self) -> bool:
        """Take in a batch; returns whether there was anything."""
        arrived = self._keys.found()
        received = self._socket.receive()
        if not received and not arrived:
            if not self._stopping.is_set():
                self._socket.wait(_POLL_SECONDS)
            received = self._socket.receive()
        self.counts["datagrams"] += len(received)
        self.counts["bytes"] += sum(len(data) for data, _ in received)
        if self._refused:
            self._begin_anew(time.monotonic())
        datagrams = [d for one in arrived + received if (d := self._judge(one)) is not None]
        if datagrams:
            left_out = self._intake.put(datagrams)
            self.counts["overflow"] += left_out
            self.counts["accepted"] += len(datagrams) - left_out
        return bool(received or arrived)

    def _begin_anew(self, now: float) -> None:
        """Let bygones be bygones: whoever floods on is found out again."""
        if now >= self._period or len(self._refused) > _MAX_ADDRESSES:
            self._refused.clear()
            self._period = now + _PERIOD

    def _judge(self, arrived: Addressed) -> Datagram | None:
        """Verify a datagram, unless its address has flooded us a moment ago."""
        address = arrived[1]
        refused = self._refused.get(address, 0)
        if refused >= _REFUSED and refused % _SAMPLE:
            self._refused[address] = refused + 1
            self.counts["flood"] += 1
            return None
        datagram = self._verify(arrived)
        if datagram is None:
            self._refused[address] = self._refused.get(address, 0) + 1
        return datagram

    def _verify(self, arrived: Addressed) -> Datagram | None:
        """Return a datagram that is for us and under its run's key; counts why not, otherwise."""
        data, address = arrived
        try:
            header = wire.peek(data)
        except errors.WireError as error:
            self.counts[str(error)] += 1
            return None
        if header.kind not in (wire.DATA, wire.PING):
            self.counts["wrong kind"] += 1
            return None
        name = (header.submission, header.task)
        run = self._keys.find(name)
        if run is None:
            if not self._keys.want(name, arrived):
                self.counts["unknown run"] += 1
            return None
        if not wire.verified(run.key, data):
            self.counts["wrong MAC"] += 1
            return None
        self._refused.pop(address, None)
        if header.kind == wire.PING:
            self.counts["pings"] += 1
            watermark = self._watermark(run.run_id, header.journal.hex())
            self._socket.send([(wire.answer(header, run.key, watermark, watermark), address)])
            return None
        if not run.run_id:
            self.counts["unknown run"] += 1
            return None
        body = wire.body(run.key, data)
        return Datagram(header, body, run, address, _decoded(header, body))


def _decoded(header: wire.Header, body: bytes) -> model.Contents | None:
    if header.parts > 1:
        return None
    try:
        return arrays.decode(body)
    except errors.WireError:
        return None  # who stores it will find out, and set it aside
