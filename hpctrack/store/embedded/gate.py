"""The door to PostgreSQL's socket for other hosts: passes on a bounded number of connections with the key.

PostgreSQL itself gives each connection one of its ``max_connections``, and waits ``authentication_timeout``
for its login: a few silent connections lock the owner out. So PostgreSQL listens on its private socket only,
and this module passes TCP connections on to it, within bounds that leave PostgreSQL room:

* Only the addresses given to `Gate.open` are served; connections from others are closed at once.
* Only encrypted data is passed on (`encryption`). Unencrypted, a client may ask for encryption, and for a
  statement to be cancelled, since older clients can only do that unencrypted (PostgreSQL manual, "Canceling
  Requests in Progress").
* PostgreSQL does not see a connection until its startup message is complete and names the key of the door,
  which is in the private folder (PostgreSQL manual, "Message Flow"). The number of such connections is
  bounded: the next one replaces the oldest. The key is a setting in the message, which PostgreSQL ignores. It
  is no password: PostgreSQL asks for that as well.
* The number of connections that log in is bounded, too, until PostgreSQL has closed them; so is the number
  of sessions.

All runs in one thread: `turn` serves the connections that are ready, and returns. Each has a few buffers.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from typing import TYPE_CHECKING

from hpctrack.store.embedded import asking, encryption

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

_MAX_SILENT = 256
#: Of PostgreSQL's 50 connections: those that log in, those whose client has gone before it had logged in, and
#: sessions.
_MAX_LOGINS = 6
_MAX_LEAVING = 6
_MAX_SESSIONS = 24
_LOGIN_SECONDS = 8.0
_BUFFER = 1 << 18
#: PostgreSQL refuses longer ones itself (MAX_STARTUP_PACKET_LENGTH).
_MAX_STARTUP = 10000
#: Questions about encryption on one connection; clients ask two at most.
_MAX_QUESTIONS = 8
_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
#: The first byte if a client begins with TLS at once.
_CLIENT_HELLO = b"\x16"
_FULL = b"C53300\0Mtoo many sessions from other hosts\0"
_IN_CLEAR = b"C28000\0Mother hosts are let in encrypted only (sslmode=verify-ca, as hpctrack psql does)\0"
_EPHEMERAL_ATTEMPTS = 20


class _Link:
    """A client's connection, and after its startup message its connection to PostgreSQL."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None
        self.deadline = time.monotonic() + _LOGIN_SECONDS
        self.to_server = bytearray()
        self.to_client = bytearray()
        #: How often it has asked for encryption.
        self.questions = 0
        #: PostgreSQL's answers that are not parsed yet; None once it is ready for statements.
        self.said: bytearray | None = bytearray()
        self.is_in = False
        self.is_encrypted = False
        #: The contents of the request that cancels a statement of this session.
        self.cancel_key = b""
        self.ending = False

    @property
    def is_open(self) -> bool:
        return self.client.fileno() >= 0

    def hear(self, data: bytes) -> None:
        """Parse PostgreSQL's answers: whether the login succeeded (AuthenticationOk), and the cancel key."""
        if self.said is None:
            return
        self.said += data
        while len(self.said) >= 5:
            kind, length = struct.unpack_from("!cI", self.said)
            if len(self.said) < 1 + length:
                return
            contents = bytes(self.said[5 : 1 + length])
            del self.said[: 1 + length]
            self.is_in = self.is_in or (kind == b"R" and contents == bytes(4))
            if kind == b"K":
                self.cancel_key = contents
            if kind == b"Z":
                self.said = None
                return


class Gate:
    """Passes connections on to a Unix socket."""

    def __init__(self, target: str, key: str) -> None:
        """``target``: path of the socket; ``key``: the key that a startup message has to name."""
        self._target = target
        self._key = asking.setting(key).encode()
        self._context: ssl.SSLContext | None = None
        self._selector = selectors.DefaultSelector()
        self._wanted: tuple[str, ...] = ()
        self._doors: dict[str, socket.socket] = {}
        self._guests: frozenset[str] = frozenset()
        #: Oldest first.
        self._silent: dict[_Link, None] = {}
        self._logins: dict[_Link, None] = {}
        self._sessions: dict[_Link, None] = {}
        #: Connections to PostgreSQL whose client has gone, and whether they had logged in.
        self._leaving: dict[socket.socket, bool] = {}

    def open(
        self, addresses: Iterable[str], guests: Iterable[str], context: ssl.SSLContext | None
    ) -> tuple[int, tuple[str, ...]]:
        """Listen on the addresses that this host has, for guests alone; without ``context`` on none.

        Returns port and addresses. Closes other listening sockets; sessions stay. Raises OSError.
        """
        self._guests = frozenset(guests)
        self._context = context
        wanted = tuple(dict.fromkeys(addresses)) if self._guests and context else ()
        if wanted != self._wanted or not self._doors:
            self._shut_doors()
            self._wanted = wanted
            self._doors = _listen(wanted)
            for door in self._doors.values():
                self._selector.register(door, selectors.EVENT_READ)
        listening = [door.getsockname() for door in self._doors.values()]
        return (listening[0][1] if listening else 0), tuple(name[0] for name in listening)

    def turn(self, seconds: float) -> None:
        """Wait so many seconds at most for connections that are ready, and serve each once."""
        for key, events in self._selector.select(seconds):
            if key.data is None:
                self._accept(key.fileobj)  # type: ignore[arg-type]
                continue
            link, side = key.data
            if link is None:
                self._see_off(key.fileobj)  # type: ignore[arg-type]
                continue
            try:
                self._serve(link, side, events)
            except (OSError, ValueError):  # ValueError: the socket is closed
                self._close(link)
        now = time.monotonic()
        for group in (self._silent, self._logins):
            while group and (oldest := next(iter(group))).deadline < now:
                self._close(oldest)

    def close(self) -> None:
        """Close everything."""
        self._shut_doors()
        for link in [*self._silent, *self._logins, *self._sessions]:
            self._close(link)
        for server in self._leaving:
            server.close()
        self._selector.close()

    def _shut_doors(self) -> None:
        for door in self._doors.values():
            self._selector.unregister(door)
            door.close()
        self._doors = {}

    def _accept(self, door: socket.socket) -> None:
        try:
            client, peer = door.accept()
        except OSError:  # the client has closed, or no descriptors are left
            self._evict(self._silent, 1)
            return
        if peer[0] not in self._guests:
            client.close()
            return
        self._evict(self._silent, _MAX_SILENT)
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        link = _Link(client)
        self._silent[link] = None
        self._arm(link)

    def _evict(self, group: dict[_Link, None], most: int) -> None:
        """Close the oldest connections of a group, until it has room for one more."""
        while len(group) >= most:
            self._close(next(iter(group)))

    def _serve(self, link: _Link, side: str, events: int) -> None:
        if events & selectors.EVENT_WRITE and link.is_open:
            self._write(link, side)
        if events & selectors.EVENT_READ and link.is_open:
            self._read(link, side)
        if link.is_open:
            self._arm(link)

    def _read(self, link: _Link, side: str) -> None:
        if side == "client":
            self._hear_client(link)
        elif link.server is not None:
            self._hear_server(link, link.server)

    def _hear_client(self, link: _Link) -> None:
        """Read from a client; unencrypted, no byte beyond its current message."""
        if link.is_encrypted or self._begins_with_tls(link):
            data = encryption.receive(link.client)
        else:
            data = link.client.recv(_missing(link.to_server))
        if data:
            link.to_server += data
            if link.server is None:
                self._start(link)
        elif data is not None:
            self._end(link, "client")

    def _hear_server(self, link: _Link, server: socket.socket) -> None:
        """Read from PostgreSQL; once the login has succeeded the connection counts as a session."""
        data = encryption.receive(server)
        if data is None:
            return
        link.to_client += data
        link.hear(data)
        if not data:
            self._end(link, "server")
        elif link.is_in and link in self._logins:
            del self._logins[link]
            self._sessions[link] = None

    def _begins_with_tls(self, link: _Link) -> bool:
        begins = not link.to_server and link.client.recv(1, socket.MSG_PEEK) == _CLIENT_HELLO
        if begins:
            self._encrypt(link)
        return begins

    def _encrypt(self, link: _Link) -> None:
        if self._context is None:
            raise ConnectionAbortedError
        self._wait_no_more_for(link.client)  # `begin` replaces the socket
        link.client = encryption.begin(self._context, link.client)
        link.is_encrypted = True

    def _end(self, link: _Link, side: str) -> None:
        """Deal with a side that has closed; a client still gets the data that is left for it."""
        if side == "client" or not link.to_client:
            self._close(link)
        else:
            link.ending = True

    def _write(self, link: _Link, side: str) -> None:
        target, data = (link.client, link.to_client) if side == "client" else (link.server, link.to_server)
        if target is not None and data:
            del data[: encryption.send(target, data)]
        if link.ending and not link.to_client:
            self._close(link)

    def _start(self, link: _Link) -> None:
        """Act on a client's first message once it is complete: a question, a cancellation, or a startup."""
        length, code = _announced(link.to_server)
        message = link.to_server[:length]
        if not 8 <= length <= _MAX_STARTUP:
            self._close(link)
        elif len(message) < length:
            return
        elif code in (_SSL, _GSS):
            self._answer(link, code)
        elif code == _CANCEL:
            self._admit(link, bytes(message[8:]) in self._cancel_keys())
        elif not encryption.is_spoken(link.client):
            self._refuse(link, _IN_CLEAR)
        elif len(self._sessions) + self._count_leaving(True) >= _MAX_SESSIONS and self._key in message:
            self._refuse(link, _FULL)
        else:
            self._admit(link, self._key in message)

    def _cancel_keys(self) -> set[bytes]:
        """Return the cancel keys of all sessions; a session has none until PostgreSQL has sent it."""
        return {link.cancel_key for link in self._sessions if link.cancel_key}

    def _answer(self, link: _Link, code: int) -> None:
        """Agree to TLS, and to no other encryption."""
        link.questions += 1
        if link.is_encrypted or link.questions > _MAX_QUESTIONS:
            self._close(link)
            return
        link.to_server.clear()
        link.client.send(b"S" if code == _SSL else b"N")  # never blocks: it is the first byte sent
        if code == _SSL:
            self._encrypt(link)

    def _refuse(self, link: _Link, why: bytes) -> None:
        """Send a client the reason of a refusal (manual, "Error and Notice Message Fields")."""
        fields = b"SFATAL\0VFATAL\0" + why + b"\0"
        link.to_client += b"E" + struct.pack("!I", 4 + len(fields)) + fields
        link.ending = True

    def _count_leaving(self, are_in: bool) -> int:
        return sum(is_in is are_in for is_in in self._leaving.values())

    def _admit(self, link: _Link, may_come_in: bool) -> None:
        """Connect a client to PostgreSQL, or close its connection."""
        if not may_come_in or self._count_leaving(False) >= _MAX_LEAVING:
            self._close(link)
            return
        self._evict(self._logins, _MAX_LOGINS)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.setblocking(False)
            server.connect(self._target)  # succeeds or fails at once (unix(7))
        except OSError:
            server.close()
            raise
        link.server = server
        del self._silent[link]
        self._logins[link] = None

    def _see_off(self, server: socket.socket) -> None:
        """Close a connection whose client has gone, once PostgreSQL has closed it."""
        try:
            gone = not server.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            self._selector.unregister(server)
            del self._leaving[server]
            server.close()

    def _arm(self, link: _Link) -> None:
        """Watch a link's sockets: to write if there is data, to read unless the buffer is full or it ends."""
        reads = not link.ending and len(link.to_server) < _BUFFER
        self._wait_for(link.client, (link, "client"), reads, bool(link.to_client))
        if link.server is not None:
            reads = not link.ending and len(link.to_client) < _BUFFER
            self._wait_for(link.server, (link, "server"), reads, bool(link.to_server))

    def _wait_for(self, end: socket.socket, data: tuple[_Link, str], reads: bool, writes: bool) -> None:
        events = selectors.EVENT_READ * reads | selectors.EVENT_WRITE * writes
        if not events:
            self._wait_no_more_for(end)
        elif self._is_waited_for(end):
            self._selector.modify(end, events, data)
        else:
            self._selector.register(end, events, data)

    def _wait_no_more_for(self, end: socket.socket) -> None:
        if self._is_waited_for(end):
            self._selector.unregister(end)

    def _is_waited_for(self, end: socket.socket) -> bool:
        """Whether the selector watches a socket. One that `_encrypt` failed to wrap has no descriptor."""
        return end.fileno() >= 0 and end.fileno() in self._selector.get_map()

    def _close(self, link: _Link) -> None:
        for group in (self._silent, self._logins, self._sessions):
            group.pop(link, None)
        self._wait_no_more_for(link.client)
        if link.is_open:
            encryption.end(link.client)
        if link.server is not None:
            self._wait_no_more_for(link.server)
            self._leave(link.server, link.is_in)
            link.server = None

    def _leave(self, server: socket.socket, is_in: bool) -> None:
        try:
            server.shutdown(socket.SHUT_WR)
        except OSError:
            server.close()
            return
        self._selector.register(server, selectors.EVENT_READ, (None, "server"))
        self._leaving[server] = is_in


def _announced(said: bytearray) -> tuple[int, int]:
    """Return length and code of a client's first message; 8 and 0 until they have arrived."""
    return struct.unpack_from("!II", said) if len(said) >= 8 else (8, 0)


def _missing(said: bytearray) -> int:
    """Return how many bytes of that message are missing, as far as is known; 1 at least."""
    return max(_announced(said)[0] - len(said), 1)


def _listen(addresses: tuple[str, ...]) -> dict[str, socket.socket]:
    """Listen on all addresses that this host has, on one port that is free on each of them."""
    for _ in range(_EPHEMERAL_ATTEMPTS):
        doors: dict[str, socket.socket] = {}
        port = 0
        try:
            for address in addresses:
                door = _door(address, port)
                if door is not None:
                    doors[address] = door
                    port = door.getsockname()[1]
        except OSError:  # the port is taken on one of them
            for door in doors.values():
                door.close()
            continue
        return doors
    return {}


def _door(address: str, port: int) -> socket.socket | None:
    """Listen on an address; None if this host does not have it. Raises OSError if the port is taken."""
    import errno

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    door = socket.socket(family)
    try:
        if family == socket.AF_INET6:
            door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        door.bind((address, port))
        door.listen(128)
        door.setblocking(False)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            raise
        return None
    return door
