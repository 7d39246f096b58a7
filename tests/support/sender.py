"""A simple sender of datagrams, for tests of the collector."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
import uuid

from hpctrack.stream.wire import bodies, ciphers, datagrams, journal, layout
from tests.support.waiting import PATIENCE, eventually


def split(key: bytes, header: datagrams.Header, body: bytes) -> list[bytes]:
    """Return the datagrams of one body: one, or as many parts as it needs."""
    pieces = datagrams.contents(key, body)
    return [
        datagrams.sign(key, header._replace(part=part, parts=len(pieces)), piece)
        for part, piece in enumerate(pieces)
    ]


class Sender:
    """Ships journals as a relay does, but simply: everything unacknowledged, again and again."""

    def __init__(self, address, name: uuid.UUID, secret: bytes, rng=None, loss=0.0) -> None:
        self.key = ciphers.run_key(secret, -1)
        self.submission = name.bytes
        self.rng, self.loss = rng or random.Random(0), loss
        self.token = 0
        self.is_heard = False
        self.acknowledged: dict[bytes, int] = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(address)

    def header(self, name: bytes, start: int, end: int, **options) -> datagrams.Header:
        self.token += 1
        return datagrams.Header(
            layout.DATA,
            self.submission,
            -1,
            options.pop("attempt", 0),
            name,
            start,
            end,
            self.token,
            **options,
        )

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            with contextlib.suppress(ConnectionRefusedError):
                self.socket.send(datagram)

    def answer(self, seconds: float = 0.2) -> datagrams.Header | None:
        """Return the next answer to what was sent; of pings only that to the first."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(2000)
        except (TimeoutError, BlockingIOError, ConnectionRefusedError):
            return None
        assert datagrams.verified(self.key, data)
        assert len(data) <= layout.HEADER_SIZE + layout.MAC_SIZE
        header = datagrams.peek(data)
        if header.kind == layout.PONG and self.is_heard:
            return self.answer(seconds)  # a busy machine: it was asked again before it could answer
        self.is_heard = True
        if header.kind == layout.ACK:
            self.acknowledged[header.journal] = max(header.start, self.acknowledged.get(header.journal, 0))
        return header

    def ping(self) -> None:
        """Wait until the collector answers under the key."""
        self.is_heard = False
        ping = datagrams.Header(layout.PING, self.submission, -1, 0, bytes(8), 0, 0, 1)

        def answered():
            self.send(datagrams.seal(self.key, ping))
            return self.answer()

        eventually(answered)

    def ship(self, name: bytes, bodies: list[bytes], *, window: int = 40, seconds: float = PATIENCE) -> None:
        """Ship a journal, 100 bytes to a range, over a network that loses, doubles and reorders."""
        deadline = time.monotonic() + seconds
        while self.acknowledged.get(name, 0) < 100 * len(bodies):
            assert time.monotonic() < deadline, "it was never acknowledged"
            first = self.acknowledged.get(name, 0) // 100
            flight = []
            for index in range(first, min(first + window, len(bodies))):
                header = self.header(name, 100 * index, 100 * index + 100)
                flight += split(self.key, header, bodies[index])
            if self.loss:
                self.rng.shuffle(flight)
                flight += self.rng.sample(flight, len(flight) // 4)
                flight = [datagram for datagram in flight if self.rng.random() >= self.loss]
            self.send(*flight)
            while self.answer(0.05 if first * 100 == self.acknowledged.get(name, 0) else 0.0) is not None:
                pass


def rows(first: int, count: int = 3, **more) -> bytes:
    lines = [
        journal.Row.of(0, step, None, 1.7e9, {"x": step + 0.5, **more})
        for step in range(first, first + count)
    ]
    body, packed = bodies.pack(lines)
    assert packed == count
    return body


def message(kind: str, **body) -> bytes:
    return bodies.pack([journal.Message(0, kind, json.dumps(body))])[0]


def logged(connection, run_id) -> dict[int, float]:
    """Return what PostgreSQL has of the rows that `rows` makes: x by step."""
    return dict(connection.execute("SELECT step, x FROM metrics WHERE run_id = %s", [run_id]).fetchall())


def whole(count: int) -> dict[int, float]:
    """Return what it should have of so many."""
    return {step: step + 0.5 for step in range(count)}


def stats(connection) -> dict:
    """Return what the collectors say once they have said something new."""
    query = "SELECT max(heartbeat) FROM collectors"
    (before,) = connection.execute(query).fetchone()
    eventually(lambda: connection.execute(query).fetchone()[0] not in (None, before))
    return connection.execute("SELECT stats FROM collectors ORDER BY heartbeat DESC LIMIT 1").fetchone()[0]
