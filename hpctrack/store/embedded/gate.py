"""The door to PostgreSQL's socket for other hosts: it lets in those that say the key, and bounds all others.

PostgreSQL itself gives each connection one of its ``max_connections``, and waits ``authentication_timeout``
until it says who it is: a few silent connections lock the owner out. So PostgreSQL listens on its private
socket only, and this passes on what comes over TCP, within bounds that leave PostgreSQL room:

* only from addresses that were let in (`Gate.open`); all others are hung up on at once;
* only what was encrypted (`encryption`): in clear a client may ask for that, and for a statement to be
  cancelled, as older clients can't do otherwise (PostgreSQL manual, "Canceling Requests in Progress");
* a connection that has not said what it wants is known here only. Their number is bounded: the next one takes
  the place of the oldest;
* PostgreSQL sees a connection once its startup message is whole and holds the key of the door, which stands
  in the private folder (PostgreSQL manual, "Message Flow"). The key comes as a setting, which PostgreSQL
  ignores. It is no password: that is asked for behind the door;
* the number of connections that log in is bounded, too, until PostgreSQL has let go of them; so is the number
  of those that have logged in.

It is one thread: `turn` serves what is there, and returns. Nothing is kept beyond a few buffers.
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
#: Of PostgreSQL's 50 connections: those that log in, those that it has not let go of yet, and those that have
#: logged in.
_MAX_LOGINS = 6
_MAX_LEAVING = 6
_MAX_SESSIONS = 24
_LOGIN_SECONDS = 8.0
_BUFFER = 1 << 18
#: PostgreSQL refuses longer ones itself (MAX_STARTUP_PACKET_LENGTH).
_MAX_STARTUP = 10000
#: About encryption; a client asks two of them.
_MAX_QUESTIONS = 8
_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
#: With which TLS begins where nobody has asked for it.
_CLIENT_HELLO = b"\x16"
_FULL = b"C53300\0Mtoo many sessions from other hosts\0"
_IN_CLEAR = b"C28000\0Mother hosts are let in encrypted only (sslmode=verify-ca, as hpctrack psql does)\0"
_EPHEMERAL_ATTEMPTS = 20


class _Link:
    """A client, and once it has said what it wants, its connection to PostgreSQL."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None
        self.deadline = time.monotonic() + _LOGIN_SECONDS
        self.to_server = bytearray()
        self.to_client = bytearray()
        #: How often it has asked for encryption.
        self.questions = 0
        #: What PostgreSQL said that is not understood yet, until it is ready for statements.
        self.said: bytearray | None = bytearray()
        self.is_in = False
        self.is_encrypted = False
        #: With which a statement of this session can be cancelled.
        self.cancel_key = b""
        self.ending = False

    @property
    def is_open(self) -> bool:
        return self.client.fileno() >= 0

    def hear(self, data: bytes) -> None:
        """Take in what PostgreSQL says: whether the login has succeeded (AuthenticationOk), and its key."""
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
        """``target``: path of the socket; ``key``: what a startup message has to hold."""
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
        #: Connections to PostgreSQL that nobody is behind any more, and whether they have logged in.
        self._leaving: dict[socket.socket, bool] = {}

    def open(
        self, addresses: Iterable[str], guests: Iterable[str], context: ssl.SSLContext | None
    ) -> tuple[int, tuple[str, ...]]:
        """Listen on those of the addresses that are of this host, for guests alone; without TLS on none.

        Returns port and addresses. What was open elsewhere is closed; sessions stay. Raises OSError.
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
        """Serve what comes within so many seconds, once."""
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
            except (OSError, ValueError):  # the latter of a socket that is closed, also in `ssl`
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
        except OSError:  # hung up already; or there are no descriptors left
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
        """Make room for one more."""
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
        """Read from a client; in clear no byte more than what it says there."""
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
        """Read from PostgreSQL; a client that it lets in has a session from then on."""
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
        self._wait_no_more_for(link.client)  # it becomes another socket
        link.client = encryption.begin(self._context, link.client)
        link.is_encrypted = True

    def _end(self, link: _Link, side: str) -> None:
        """One side has hung up: the other gets what is left for it, and that is all."""
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
        """See what a client wants, as soon as it has said that."""
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
        """Return the keys that cancel statements; a session that was not told its key yet has none."""
        return {link.cancel_key for link in self._sessions if link.cancel_key}

    def _answer(self, link: _Link, code: int) -> None:
        """Agree to TLS, and to no other encryption."""
        link.questions += 1
        if link.is_encrypted or link.questions > _MAX_QUESTIONS:
            self._close(link)
            return
        link.to_server.clear()
        link.client.send(b"S" if code == _SSL else b"N")  # there is room: nothing else has been sent
        if code == _SSL:
            self._encrypt(link)

    def _refuse(self, link: _Link, why: bytes) -> None:
        """Tell a client why it can't come in (manual, "Error and Notice Message Fields")."""
        fields = b"SFATAL\0VFATAL\0" + why + b"\0"
        link.to_client += b"E" + struct.pack("!I", 4 + len(fields)) + fields
        link.ending = True

    def _count_leaving(self, are_in: bool) -> int:
        return sum(is_in is are_in for is_in in self._leaving.values())

    def _admit(self, link: _Link, may_come_in: bool) -> None:
        """Connect a client to PostgreSQL, or hang up on it."""
        if not may_come_in or self._count_leaving(False) >= _MAX_LEAVING:
            self._close(link)
            return
        self._evict(self._logins, _MAX_LOGINS)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.setblocking(False)
            server.connect(self._target)  # at once, or not at all (unix(7))
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
        """Wait for what can go on: what is full or has ended is not read from."""
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
    """Return the length of what a client begins to say, and its kind; before that is known, 8 and 0."""
    return struct.unpack_from("!II", said) if len(said) >= 8 else (8, 0)


def _missing(said: bytearray) -> int:
    """Return how many bytes are still to come of that, as far as is known; one at least."""
    return max(_announced(said)[0] - len(said), 1)


def _listen(addresses: tuple[str, ...]) -> dict[str, socket.socket]:
    """Listen on all the addresses that are of this host, on one port that is free on each of them."""
    for _ in range(_EPHEMERAL_ATTEMPTS):
        doors: dict[str, socket.socket] = {}
        port = 0
        try:
            for address in addresses:
                door = _door(address, port)
                if door is not None:
                    doors[address] = door
                    port = door.getsockname()[1]
        except OSError:  # taken on one of them
            for door in doors.values():
                door.close()
            continue
        return doors
    return {}


def _door(address: str, port: int) -> socket.socket | None:
    """Listen on an address; None if it is none of this host. Raises OSError if the port is taken there."""
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
