"""The door for other hosts: what is passed on, what is not, and who has to leave."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading

import pytest

from hpctrack.store.embedded import asking, encryption, gate
from tests.support.crowd import startup

SUCCESS = b"R\0\0\0\x08\0\0\0\0"
SASL = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
QUESTION = b"\0\0\0\x08\x04\xd2\x16\x2f"
KEY = "0123456789abcdef"
GSS_QUESTION = b"\0\0\0\x08\x04\xd2\x16\x30"


def options(key):
    return f"-c {asking.setting(key)}"


HELLO = startup("alice", options(KEY))
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


@pytest.fixture(scope="module")
def identity():
    return encryption.Identity.make()


@pytest.fixture
def door(backend, identity):
    """The address of a gate that is open to 127.0.0.1."""
    opened = gate.Gate(backend.path, KEY)
    port, addresses = opened.open(["127.0.0.1"], ["127.0.0.1"], identity.context)
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
    """Say something in clear."""
    connection = socket.create_connection(door, timeout=30)
    connection.sendall(said)
    return connection


def come(door, said=b""):
    """Say something encrypted."""
    connection = knock(door, QUESTION)
    assert connection.recv(1) == b"S"
    return encrypted(connection, said)


def encrypted(connection, said=b"", protocol=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocol:
        context.set_alpn_protocols([protocol])
    line = context.wrap_socket(connection)
    line.sendall(said)
    return line


def receive(connection, size):
    data = bytearray()
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return bytes(data)


def hung_up_on(connection):
    with contextlib.suppress(ConnectionError):
        return connection.recv(1) == b""
    return True


def log_in(door, backend):
    client = come(door, HELLO)
    server = backend.accept()
    assert receive(server, len(HELLO)) == HELLO
    server.sendall(SUCCESS + READY)
    assert receive(client, len(SUCCESS + READY)) == SUCCESS + READY
    return client, server


def test_nothing_reaches_postgresql_before_the_startup_message_is_whole(door, backend):
    client = knock(door)
    for number in range(len(GSS_QUESTION)):
        client.sendall(GSS_QUESTION[number : number + 1])
    assert client.recv(1) == b"N"
    for number in range(len(QUESTION)):
        client.sendall(QUESTION[number : number + 1])
    assert client.recv(1) == b"S"
    client = encrypted(client)
    for number in range(len(HELLO) - 1):
        client.sendall(HELLO[number : number + 1])
    assert backend.nobody_waits()
    client.sendall(HELLO[-1:] + b"more")
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
        startup("alice", options(KEY.upper())),
        startup("alice", options("")),
        startup(KEY),
        struct.pack("!IIII", 16, 80877102, 7, 7),
    ],
)
@pytest.mark.parametrize("arrives", [come, knock])
def test_what_is_no_startup_message_with_the_key_is_hung_up_on(door, backend, said, arrives):
    client = arrives(door)
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
        assert silent[-1].recv(1) == b"S"  # so it has been let in
    last = knock(door, QUESTION)
    assert last.recv(1) == b"S"
    assert hung_up_on(silent[0])
    assert encrypted(silent[1]).version()


def test_the_oldest_login_makes_room_and_sessions_stay(door, backend):
    client, server = log_in(door, backend)
    logins = []
    for _ in range(gate._MAX_LOGINS + 1):
        connection = come(door, HELLO)
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
    client = come(door, HELLO)
    server = backend.accept()
    other = b"N" + struct.pack("!I", 4 + 20) + SUCCESS + b"x" * 11  # its contents are no message
    for piece in (SASL, other, SUCCESS):
        for number in range(len(piece)):
            server.sendall(piece[number : number + 1])
    assert receive(client, len(SASL) + len(other) + len(SUCCESS)) == SASL + other + SUCCESS
    others = []
    for _ in range(gate._MAX_LOGINS):
        others.append((come(door, HELLO), backend.accept()))
    client.sendall(b"still here")
    assert receive(server, len(HELLO) + 10) == HELLO + b"still here"


def test_who_hangs_up_counts_until_postgresql_has_let_go(door, backend):
    served = []
    for _ in range(gate._MAX_LEAVING):
        client = come(door, HELLO)
        served.append(backend.accept())
        assert receive(served[-1], len(HELLO)) == HELLO
        client.close()
        assert served[-1].recv(1) == b""
    assert hung_up_on(come(door, HELLO))
    assert backend.nobody_waits()
    for server in served:
        server.sendall(SASL)  # said too late
        server.close()
    client = come(door, HELLO)
    while says_something_soon(client):
        client = come(door, HELLO)
    assert receive(backend.accept(), len(HELLO)) == HELLO


def test_sessions_are_bounded_and_say_so(door, backend):
    sessions = [log_in(door, backend) for _ in range(gate._MAX_SESSIONS)]
    refused = come(door, HELLO)
    said = receive(refused, 1000)
    assert said.startswith(b"E")
    assert b"C53300\0Mtoo many sessions from other hosts\0\0" in said
    assert struct.unpack("!I", said[1:5])[0] == len(said) - 1
    sessions[0][0].close()
    assert receive(sessions[0][1], 1) == b""
    refused = come(door, HELLO)
    assert receive(refused, 1) == b"E"  # PostgreSQL has not let go of it
    sessions[0][1].close()
    while True:
        client = come(door, HELLO)
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


def test_who_is_no_guest_is_hung_up_on_at_once(backend, identity):
    opened = gate.Gate(backend.path, KEY)
    port, addresses = opened.open(["127.0.0.1"], ["127.0.0.9"], identity.context)
    stranger = knock((addresses[0], port), QUESTION)
    opened.turn(5)
    assert hung_up_on(stranger)
    guest = socket.create_connection((addresses[0], port), timeout=30, source_address=("127.0.0.9", 0))
    guest.sendall(QUESTION)
    for _ in range(3):
        opened.turn(0.1)
    assert guest.recv(1) == b"S"
    opened.close()
    assert hung_up_on(guest)


def test_addresses_share_a_port_and_foreign_ones_are_passed_over(backend, identity):
    opened = gate.Gate(backend.path, KEY)
    guests = ["127.0.0.1"]
    port, addresses = opened.open(
        ["127.0.0.1", "127.0.0.2", "198.51.100.1", "nonsense"], guests, identity.context
    )
    assert addresses == ("127.0.0.1", "127.0.0.2")
    assert opened.open(["127.0.0.1", "127.0.0.2", "198.51.100.1", "nonsense"], guests, identity.context) == (
        port,
        addresses,
    )
    for address in addresses:
        knock((address, port)).close()
    assert opened.open(["127.0.0.1"], [], identity.context) == (0, ())
    with pytest.raises(ConnectionRefusedError):
        knock((addresses[0], port))
    opened.close()


def test_it_listens_no_more_when_postgresql_is_gone(door, backend):
    backend.close()
    assert hung_up_on(come(door, HELLO))


IN_CLEAR = [HELLO, startup("alice"), startup("alice", options(KEY.upper()))]


@pytest.mark.parametrize("said", IN_CLEAR, ids=["with the key", "without", "another"])
@pytest.mark.parametrize("asks_for_gss", [False, True])
def test_who_does_not_ask_for_encryption_is_told_to(door, backend, said, asks_for_gss):
    client = knock(door)
    if asks_for_gss:
        client.sendall(GSS_QUESTION)
        assert client.recv(1) == b"N"
    for number in range(len(said)):
        client.sendall(said[number : number + 1])
    answer = receive(client, 1000)
    assert answer[:1] == b"E"
    assert struct.unpack("!I", answer[1:5])[0] == len(answer) - 1
    assert b"\0C28000\0M" in answer
    assert b"encrypted only" in answer
    assert hung_up_on(client)
    assert backend.nobody_waits()


@pytest.mark.parametrize(
    "more",
    [HELLO, HELLO + b"x" * 100_000, QUESTION, b"\x16\x03\x01"],
    ids=["hello", "much", "question", "tls"],
)
@pytest.mark.parametrize("resets", [False, True])
def test_nothing_that_was_said_in_clear_counts_as_encrypted(door, backend, more, resets):
    client = knock(door)
    if resets:  # before TLS begins: some Pythons go on in clear then
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        client.sendall(QUESTION + more)
        if not resets:
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
    client.close()
    assert backend.nobody_waits()


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01", QUESTION, QUESTION + b"\x16", HELLO[:5]])
@pytest.mark.parametrize("turns", [0, 1, 3])
def test_who_breaks_off_in_the_middle_is_forgotten_and_stops_nobody(backend, identity, said, turns):
    opened = gate.Gate(backend.path, KEY)
    port, (address,) = opened.open(["127.0.0.1"], ["127.0.0.1"], identity.context)
    client = knock((address, port), said)
    for _ in range(turns):
        opened.turn(0.05)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close(2) resets
    client.close()
    for _ in range(4):
        opened.turn(0.05)
    assert not opened._silent
    opened.close()


def test_nothing_can_be_cancelled_with_no_key(door, backend):
    client = come(door, HELLO)
    server = backend.accept()
    server.sendall(SUCCESS)  # no key is told yet
    assert receive(client, len(SUCCESS)) == SUCCESS
    assert hung_up_on(knock(door, struct.pack("!II", 8, 80877102)))
    assert backend.nobody_waits()


@pytest.mark.parametrize("said", [QUESTION, GSS_QUESTION, QUESTION + HELLO])
def test_no_question_about_encryption_is_answered_twice(door, backend, said):
    assert hung_up_on(come(door, said))
    assert backend.nobody_waits()


def test_tls_may_begin_at_once(door, backend):
    client = encrypted(knock(door), HELLO, protocol="postgresql")
    assert client.selected_alpn_protocol() == "postgresql"
    assert receive(backend.accept(), len(HELLO)) == HELLO


@pytest.mark.parametrize("arrives", [come, knock])
def test_a_statement_can_be_cancelled_encrypted_and_as_older_clients_do(door, backend, arrives):
    session = log_in(door, backend)
    cancel = struct.pack("!II", 16, 80877102) + READY[5:13]
    canceller = arrives(door, cancel)
    assert receive(backend.accept(), 16) == cancel
    canceller.close()
    assert hung_up_on(arrives(door, cancel[:-1] + b"x"))
    assert backend.nobody_waits()
    session[0].sendall(b"x")
    assert receive(session[1], 1) == b"x"


def test_a_client_is_told_that_the_connection_has_ended(door, backend):
    client, server = log_in(door, backend)
    server.sendall(b"last words")
    server.close()
    client.suppress_ragged_eofs = False
    assert receive(client, 1000) == b"last words"  # and not ssl.SSLEOFError


def test_without_tls_nobody_is_let_in(backend):
    opened = gate.Gate(backend.path, KEY)
    assert opened.open(["127.0.0.1"], ["127.0.0.1"], None) == (0, ())
    opened.close()
