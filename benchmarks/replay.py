"""Senders that replay prebuilt datagrams as relays would: within credit and window, again after a loss."""

from __future__ import annotations

import itertools
import multiprocessing
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.site import Run
from hpctrack.stream.collector import mmsg
from hpctrack.stream.node import window
from hpctrack.stream.wire import bodies, datagrams, journal, layout
from hpctrack.stream.wire.names import Address

#: About what a line of a journal takes; offsets are made up from it.
_LINE_BYTES = 100
_TIMEOUT = 2.0
_BUFFER = 4 << 20
_GREETED = 50


@dataclass
class Stream:
    """A journal on its way."""

    ping: bytes
    datagrams: list[bytes]
    ends: list[int]
    acknowledged: int = 0
    """Datagrams that are committed."""
    sent: int = 0
    credit: int = 1 << 62
    since: float = 0.0


def stream(run: Run, rows: Sequence[journal.Row]) -> Stream:
    """Make the datagrams of one journal."""
    name = run.task.to_bytes(8, "little")
    ping = datagrams.Header(layout.PING, run.submission, run.task, 0, name, 0, 0, 1)
    made = Stream(datagrams.seal(run.key, ping), [], [])
    position = end = 0
    while position < len(rows):
        body, count = bodies.pack(rows[position : position + layout.MAX_LINES])
        start, end = end, end + count * _LINE_BYTES
        header = datagrams.Header(layout.DATA, run.submission, run.task, 0, name, start, end, 1)
        made.datagrams.append(datagrams.seal(run.key, header, body))
        made.ends.append(end)
        position += count
    return made


def replay(address: tuple[str, int], loads: Sequence[Callable[[], list[Stream]]]) -> float:
    """Send each load from a process of its own; returns seconds until the last acknowledgement."""
    context = multiprocessing.get_context("fork")
    ready, results = context.Barrier(len(loads)), context.SimpleQueue()

    def send(load: Callable[[], list[Stream]]) -> None:
        sender = _Sender(address, load())
        sender.greet()
        ready.wait()
        began = time.monotonic()
        sender.run()
        results.put((began, time.monotonic()))

    processes = [context.Process(target=send, args=(load,)) for load in loads]
    for process in processes:
        process.start()
    times = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return max(end for _, end in times) - min(began for began, _ in times)


class _Sender:
    def __init__(self, address: tuple[str, int], streams: list[Stream]) -> None:
        self._socket = mmsg.BatchSocket(Address("127.0.0.1", 0), buffer=_BUFFER)
        host = socket.inet_aton(address[0])
        self._target = struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", address[1], host)
        self._by_name = {
            (stream.datagrams[0][4:24], stream.datagrams[0][30:38]): stream for stream in streams
        }
        self._open = dict.fromkeys(map(id, streams))
        self._streams = streams
        self._limit = window.FIRST_LIMIT
        self._flying = 0

    def greet(self) -> None:
        """Wait until the collector answers for each journal, as relays do before they send what they have."""
        silent = {stream.ping[4:38]: stream.ping for stream in self._streams}
        while silent:
            self._socket.send([(ping, self._target) for ping in itertools.islice(silent.values(), _GREETED)])
            while self._socket.wait(0.05):
                for data, _ in self._socket.receive():
                    silent.pop(data[4:38], None)

    def run(self) -> None:
        """Send until everything is acknowledged."""
        while self._open:
            self._send()
            if not self._receive():
                self._socket.wait(0.05)
                self._look_for_losses()
        self._socket.close()

    def _send(self) -> None:
        now = time.monotonic()
        wanted: list[mmsg.Addressed] = []
        for stream in self._streams:
            first = stream.sent
            while (
                self._flying < self._limit
                and stream.sent < len(stream.ends)
                and (stream.ends[stream.sent] <= stream.credit or stream.sent == stream.acknowledged)
            ):
                wanted.append((stream.datagrams[stream.sent], self._target))
                stream.sent += 1
                self._flying += 1
            if stream.sent > first == stream.acknowledged:
                stream.since = now
            if self._flying >= self._limit:
                break
        self._socket.send(wanted)

    def _receive(self) -> int:
        answers = self._socket.receive()
        for data, _ in answers:
            header = datagrams.peek(data)
            stream = self._by_name[data[4:24], data[30:38]]
            if header.kind != layout.ACK:
                continue
            stream.credit = header.end
            before = stream.acknowledged
            while stream.acknowledged < len(stream.ends) and stream.ends[stream.acknowledged] <= header.start:
                stream.acknowledged += 1
            if stream.acknowledged > before:
                stream.since = time.monotonic()
                stream.sent = max(stream.sent, stream.acknowledged)
                self._flying = max(0, self._flying - (stream.acknowledged - before))
                self._limit = min(self._limit + stream.acknowledged - before, window.MAX_LIMIT)
            if stream.acknowledged == len(stream.ends) and id(stream) in self._open:
                del self._open[id(stream)]
                self._streams.remove(stream)
        return len(answers)

    def _look_for_losses(self) -> None:
        late = time.monotonic() - _TIMEOUT
        for stream in self._streams:
            if stream.sent > stream.acknowledged and stream.since < late:
                self._flying -= stream.sent - stream.acknowledged
                stream.sent, stream.since = stream.acknowledged, time.monotonic()
                self._limit = max(self._limit // 2, window.FIRST_LIMIT)
