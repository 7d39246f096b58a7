"""Names that cross the wire."""

from __future__ import annotations

import socket
import uuid

import pytest

from hpctrack.stream.wire.names import Address, RunName


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


def test_a_host_may_stand_for_several_places():
    assert (socket.AF_INET, ("127.0.0.1", 80)) in Address("localhost", 80).resolve()
    assert Address("127.0.0.1", 80).resolve() == [(socket.AF_INET, ("127.0.0.1", 80))]


def test_a_name_that_can_be_no_host_is_an_error():
    with pytest.raises((OSError, UnicodeError)):
        Address("a" * 300, 80).resolve()


def test_a_run_is_named_by_its_submission_and_task():
    submission = uuid.uuid4()
    assert RunName.of(str(submission), 3) == (submission.bytes, 3)
