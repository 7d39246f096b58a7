"""An echo counts only if it is an answer, under the run's key, to what was asked."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid

import pytest

from hpctrack import errors
from hpctrack.stream.node import echo
from hpctrack.stream.wire import ciphers, datagrams, layout
from hpctrack.stream.wire.names import TASK_NONE, Address

SUBMISSION, SECRET = uuid.uuid4().bytes, b"s" * 32
KEY = ciphers.run_key(SECRET, TASK_NONE)


@contextlib.contextmanager
def answering(answer):
    """Listen, and send what ``answer`` makes of each datagram; yields the address and what has arrived."""
    arrived = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def serve():
            while True:
                data, address = sock.recvfrom(2000)
                if not data:
                    return
                arrived.append(data)
                for reply in answer(data):
                    sock.sendto(reply, address)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Address.of(sock), arrived
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
                own.sendto(b"", sock.getsockname())
            thread.join(10)


def pong(data, key=KEY):
    header = datagrams.peek(data)
    return [datagrams.answer(header, key, 0, 0)]


def test_an_echo_comes_back():
    with answering(pong) as (address, arrived):
        seconds = echo.ping(address, SUBMISSION, SECRET, 5.0)
    assert 0 < seconds < 5
    header = datagrams.peek(arrived[0])
    assert (header.kind, header.submission, header.task) == (layout.PING, SUBMISSION, -1)
    assert datagrams.verified(KEY, arrived[0])


def test_lost_questions_are_asked_again():
    first = iter([[], [b"noise"]])

    def answer(data):
        return next(first, None) if len(arrived) <= 2 else pong(data)

    with answering(answer) as (address, arrived):
        assert echo.ping(address, SUBMISSION, SECRET, 10.0) is not None
    assert len(arrived) >= 3


@pytest.mark.parametrize(
    "answer",
    [
        lambda data: [],
        lambda data: [data],  # our own question
        lambda data: pong(data, b"x" * 32),
        lambda data: [datagrams.seal(KEY, datagrams.peek(data)._replace(kind=layout.PONG, echo=99))],
        lambda data: [datagrams.seal(KEY, datagrams.peek(data)._replace(kind=layout.ACK))],
    ],
    ids=["nothing", "mirror", "forger", "another echo", "another kind"],
)
def test_what_is_no_echo_does_not_count(answer):
    with answering(answer) as (address, _):
        assert echo.ping(address, SUBMISSION, SECRET, 0.3) is None


def test_nobody_there_is_told():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        free = Address.of(sock)
    with pytest.raises(errors.CollectorUnavailable, match=f"nobody listens at 127.0.0.1:{free.port}"):
        echo.ping(free, SUBMISSION, SECRET, 5.0)
    with pytest.raises(errors.CollectorUnavailable, match="can't be found"):
        echo.ping(Address("no.such.host.invalid", 1), SUBMISSION, SECRET, 1.0)
