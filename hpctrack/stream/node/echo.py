"""An echo from a collector: a PING under a run's own key, and its PONG."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.stream.wire import ciphers, datagrams, layout
from hpctrack.stream.wire.names import TASK_NONE, Address

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

#: Seconds between two questions: datagrams get lost, and collectors look up keys.
_PAUSE = 0.25


def ping(address: Address, submission: bytes, secret: bytes, seconds: float) -> float | None:
    """Return how many seconds an echo from an address takes; None if none comes in time.

    The run is that of a submission without tasks. Raises `errors.CollectorUnavailable` for a host that has no
    address, or on which nobody listens.
    """
    key = ciphers.run_key(secret, TASK_NONE)
    try:
        family, place = address.resolve()[0]
    except (OSError, ValueError) as error:  # UnicodeError is a ValueError
        raise errors.CollectorUnavailable(f"{address} can't be found: {error}") from None
    with Address.caller(family) as sock:
        try:
            sock.connect(place)
            return _await(sock, key, submission, time.monotonic() + seconds)
        except ConnectionRefusedError:
            raise errors.CollectorUnavailable(f"nobody listens at {address}") from None
        except OSError as error:
            raise errors.CollectorUnavailable(f"{address}: {error.strerror}") from None


def _await(sock: socket.socket, key: bytes, submission: bytes, deadline: float) -> float | None:
    sent: dict[int, float] = {}
    journal = os.urandom(8)
    while (now := time.monotonic()) < deadline:
        token = len(sent) + 1
        sent[token] = now
        header = datagrams.Header(layout.PING, submission, TASK_NONE, 0, journal, 0, 0, token)
        sock.send(datagrams.seal(key, header))
        for answer in _answers(sock, min(now + _PAUSE, deadline)):
            header = datagrams.peek(answer)
            if header.kind == layout.PONG and header.echo in sent and datagrams.verified(key, answer):
                return time.monotonic() - sent[header.echo]
    return None


def _answers(sock: socket.socket, deadline: float) -> Iterator[bytes]:
    """Yield what arrives and can be a datagram of ours."""
    while (rest := deadline - time.monotonic()) > 0:
        if not select.select([sock], [], [], rest)[0]:
            return
        answer = sock.recv(layout.MAX_DATAGRAM + 1)
        try:
            datagrams.peek(answer)
        except errors.WireError:
            continue
        yield answer
