"""Names that cross the wire."""

from __future__ import annotations

import re
import socket
import uuid

import pytest

from hpctrack.stream.wire.names import Address, RunName
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("node-1:80", "node-1", 80), ("10.0.0.1:65535", "10.0.0.1", 65535), ("[::1]:7", "::1", 7)],
)
def test_an_address_is_read_and_written(text, host, port):
    address = Address.parse(text)
    assert address == (host, port)
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "node-1", ":80", "node-1:", "node-1:http", "node-1:0", "node-1:65536"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="host:port"):
        Address.parse(text)


def test_of_several_words_those_are_known_that_are_addresses():
    assert Address.known(["h:1", "nowhere", "h:0", "[::1]:2"]) == [("h", 1), ("::1", 2)]


def test_a_host_may_stand_for_several_places():
    assert (socket.AF_INET, ("127.0.0.1", 80)) in Address("localhost", 80).resolve()
    assert Address("127.0.0.1", 80).resolve() == [(socket.AF_INET, ("127.0.0.1", 80))]


def test_a_name_that_can_be_no_host_is_an_error():
    with pytest.raises((OSError, UnicodeError)):
        Address("a" * 300, 80).resolve()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_who_listens_at_an_address_hears_callers_and_answers_them(host):
    try:
        listener = Address(host, 0).listen()
    except OSError:
        pytest.skip(f"{host} is none of this host")
    [(family, place)] = Address.of(listener).resolve()
    with listener, Address.caller(family) as caller:
        caller.sendto(b"question", place)
        data, sender = listener.recvfrom(100)
        listener.sendto(b"answer", sender)
        assert (data, caller.recv(100)) == (b"question", b"answer")
        assert not (listener.getblocking() or caller.getblocking())


def test_an_address_is_taken_once_and_left_as_it_was_found():
    with Address("127.0.0.1", 0).listen() as listener:
        taken = Address.of(listener)
        with pytest.raises(OSError, match="in use"):
            taken.listen()
    taken.listen().close()


@pytest.mark.parametrize(
    ("host", "everywhere"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("fe80::1%lo", False)]
)
def test_everywhere_is_known_by_its_host(host, everywhere):
    assert Address(host, 7).is_everywhere == everywhere


def test_only_addresses_know_what_carries_datagrams():
    stream = ROOT / "hpctrack/stream"
    found = [
        path
        for path in stream.rglob("*.py")
        if re.search(r"SOCK_DGRAM|AF_INET6?\b|UDP", path.read_text("utf-8"))
    ]
    # The other one looks for names and interfaces of this host, which are told where it listens everywhere.
    assert {str(path.relative_to(stream)) for path in found} == {"wire/names.py", "collector/addresses.py"}


def test_a_run_is_named_by_its_submission_and_task():
    submission = uuid.uuid4()
    assert RunName.of(str(submission), 3) == (submission.bytes, 3)
