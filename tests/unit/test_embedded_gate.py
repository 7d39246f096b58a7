"""The door for other hosts: what is passed on, what is not, and who has to leave."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

import pytest

from hpctrack.store.embedded import gate
from tests.integration.embedded.crowd import startup

SUCCESS = b"R\0\0\0\x08\0\0\0\0"
SASL = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
QUESTION = b"\0\0\0\x08\x04\xd2\x16\x2f"
KEY = "0123456789abcdef"
HELLO = startup("alice", gate.options(KEY))
READY = b"K\0\0\0\x0c\0\0\0\x07secrZ\0\0\0\x05I"


class Backend:
    """Stands for PostgreSQL: takes connections, and does what the test does with them."""

    def __init__(self, path):
        self.path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(128)
        self._listener.settimeout(30)

    def accept(self):
        connection, _ = self._listener.accept()
        connection.settimeout(30)
        return connection

    def nobody_waits(self):
        self._listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            self._listener.accept()
        self._listener.settimeout(30)
        return True

    def close(self):
        self._listener.close()


@pytest.fixture
def backend(tmp_path):
    made = Backend(tmp_path / "s")
    yield made
    made.close()


@pytest.fixture
def door(backend):
    """The address of a gate that is open to 127.0.0.1."""
    opened = gate.Gate(backend.path, KEY)
    port, addresses = opened.open(["127.0.0.1"], ["127.0.0.1"])
    over = threading.Event()

    def serve():
        while not over.is_set():
            opened.turn(0.02)

    thread = threading.Thread(target=serve)
    thread.start()
    yield addresses[0], port
    over.set()
    thread.join()
    opened.close()


def knock(door, said=b""):
    connection = socket.create_connection(door, timeout=30)
    connection.sendall(said)
    return connection


def receive(connection, size):
    data = b""
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return data


def hung_up_on(connection):
    with contextlib.suppress(ConnectionError):
        return connection.recv(1) == b""
    return True


def log_in(door, backend):
    client = knock(door, HELLO)
    server = backend.accept()
    assert receive(server, len(HELLO)) == HELLO
    server.sendall(SUCCESS + READY)
    assert receive(client, len(SUCCESS + READY)) == SUCCESS + READY
    return client, server


def test_nothing_reaches_postgresql_before_the_startup_message_is_whole(door, backend):
    said = QUESTION + HELLO
    client = knock(door)
    for number in range(len(said) - 1):
        client.sendall(said[number : number + 1])
    assert client.recv(1) == b"N"  # and not its neighbour's: it has no TLS
    assert backend.nobody_waits()
    client.sendall(said[-1:] + b"more")
    server = backend.accept()
    assert receive(server, len(HELLO) + 4) == HELLO + b"more"


@pytest.mark.parametrize(
    "said",
    [
        struct.pack("!II", 7, 196608),
        struct.pack("!II", 10001, 196608),
        struct.pack("!II", 0xFFFFFFFF, 196608),
        b"GET / HTTP/1.1\r\n\r\n",
        QUESTION * 1000,
        startup("alice"),
        startup("alice", gate.options(KEY.upper())),
        startup("alice", gate.options("")),
        startup(KEY),
        struct.pack("!IIII", 16, 80877102, 7, 7),
    ],
)
def test_what_is_no_startup_message_with_the_key_is_hung_up_on(door, backend, said):
    client = knock(door)
    with contextlib.suppress(ConnectionError):
        client.sendall(said)
    with contextlib.suppress(ConnectionError):
        while client.recv(4096):
            pass
    assert backend.nobody_waits()


def test_the_oldest_silent_one_makes_room(door):
    silent = []
    for _ in range(gate._MAX_SILENT):
        silent.append(knock(door, QUESTION))
        assert silent[-1].recv(1) == b"N"  # so it has been let in
    last = knock(door, QUESTION)
    assert last.recv(1) == b"N"
    assert hung_up_on(silent[0])
    silent[1].sendall(QUESTION)
    assert silent[1].recv(1) == b"N"


def test_the_oldest_login_makes_room_and_sessions_stay(door, backend):
    client, server = log_in(door, backend)
    logins = []
    for _ in range(gate._MAX_LOGINS + 1):
        connection = knock(door, HELLO)
        its = backend.accept()
        its.sendall(SASL)
        assert receive(connection, len(SASL)) == SASL
        logins.append((connection, its))
    assert hung_up_on(logins[0][0])
    assert receive(logins[0][1], len(HELLO) + 1) == HELLO
    logins[1][1].sendall(SUCCESS)
    assert receive(logins[1][0], len(SUCCESS)) == SUCCESS
    client.sendall(b"x" * 1_000_000)
    assert receive(server, 1_000_000) == b"x" * 1_000_000


def test_a_success_that_comes_in_pieces_and_after_other_messages_is_seen(door, backend):
    client = knock(door, HELLO)
    server = backend.accept()
    other = b"N" + struct.pack("!I", 4 + 20) + SUCCESS + b"x" * 11  # its contents are no message
    for piece in (SASL, other, SUCCESS):
        for number in range(len(piece)):
            server.sendall(piece[number : number + 1])
    assert receive(client, len(SASL) + len(other) + len(SUCCESS)) == SASL + other + SUCCESS
    others = []
    for _ in range(gate._MAX_LOGINS):
        others.append((knock(door, HELLO), backend.accept()))
    client.sendall(b"still here")
    assert receive(server, len(HELLO) + 10) == HELLO + b"still here"


def test_who_hangs_up_counts_until_postgresql_has_let_go(door, backend):
    served = []
    for _ in range(gate._MAX_LEAVING):
        client = knock(door, HELLO)
        served.append(backend.accept())
        assert receive(served[-1], len(HELLO)) == HELLO
        client.close()
        assert served[-1].recv(1) == b""
    assert hung_up_on(knock(door, HELLO))
    assert backend.nobody_waits()
    for server in served:
        server.sendall(SASL)  # said too late
        server.close()
    client = knock(door, HELLO)
    while says_something_soon(client):
        client = knock(door, HELLO)
    assert receive(backend.accept(), len(HELLO)) == HELLO


def test_only_what_runs_behind_the_door_can_be_cancelled(door, backend):
    client, server = log_in(door, backend)
    cancel = struct.pack("!II", 16, 80877102) + READY[5:13]
    asking = knock(door, cancel)
    assert receive(backend.accept(), 16) == cancel
    asking.close()
    assert hung_up_on(knock(door, cancel[:-1] + b"x"))
    assert backend.nobody_waits()
    client.sendall(b"x")
    assert receive(server, 1) == b"x"


def test_sessions_are_bounded_and_say_so(door, backend):
    sessions = [log_in(door, backend) for _ in range(gate._MAX_SESSIONS)]
    refused = knock(door, HELLO)
    said = receive(refused, 1000)
    assert said.startswith(b"E")
    assert b"C53300\0Mtoo many sessions from other hosts\0\0" in said
    assert struct.unpack("!I", said[1:5])[0] == len(said) - 1
    sessions[0][0].close()
    assert receive(sessions[0][1], 1) == b""
    refused = knock(door, HELLO)
    assert receive(refused, 1) == b"E"  # PostgreSQL has not let go of it
    sessions[0][1].close()
    while True:
        client = knock(door, HELLO)
        if not says_something_soon(client):
            break
    assert receive(backend.accept(), len(HELLO)) == HELLO


def says_something_soon(client):
    client.settimeout(0.3)
    with contextlib.suppress(TimeoutError, ConnectionError):
        client.recv(1)
        return True
    return False


def test_what_one_side_said_last_arrives_and_a_slow_reader_holds_the_other_back(door, backend):
    client, server = log_in(door, backend)
    sent = bytes(1 << 24)
    writer = threading.Thread(target=lambda: (server.sendall(sent), server.close()))
    writer.start()
    writer.join(0.5)
    assert writer.is_alive()  # nobody reads: it is not all taken in
    assert receive(client, len(sent) + 1) == sent
    writer.join()
    assert hung_up_on(client)


def test_who_is_no_guest_is_hung_up_on_at_once(backend):
    opened = gate.Gate(backend.path, KEY)
    port, addresses = opened.open(["127.0.0.1"], ["127.0.0.9"])
    stranger = knock((addresses[0], port), HELLO)
    opened.turn(5)
    assert hung_up_on(stranger)
    guest = socket.create_connection((addresses[0], port), timeout=30, source_address=("127.0.0.9", 0))
    guest.sendall(QUESTION)
    for _ in range(3):
        opened.turn(0.1)
    assert guest.recv(1) == b"N"
    opened.close()
    assert hung_up_on(guest)


def test_addresses_share_a_port_and_foreign_ones_are_passed_over(backend):
    opened = gate.Gate(backend.path, KEY)
    guests = ["127.0.0.1"]
    port, addresses = opened.open(["127.0.0.1", "127.0.0.2", "198.51.100.1", "nonsense"], guests)
    assert addresses == ("127.0.0.1", "127.0.0.2")
    assert opened.open(["127.0.0.1", "127.0.0.2", "198.51.100.1", "nonsense"], guests) == (port, addresses)
    for address in addresses:
        knock((address, port)).close()
    assert opened.open(["127.0.0.1"], []) == (0, ())
    with pytest.raises(ConnectionRefusedError):
        knock((addresses[0], port))
    opened.close()


def test_it_listens_no_more_when_postgresql_is_gone(door, backend):
    backend.close()
    assert hung_up_on(knock(door, HELLO))
