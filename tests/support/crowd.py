"""A crowd at a door: connections that stand there and say nothing, or half of what is needed, also encrypted.

Run as ``crowd.py ADDRESS PORT USER OPTIONS`` it says ``here`` once all have come, replaces those who are
hung up on until its standard input ends, and then says how many it made.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys

EACH = 200
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"


def startup(user: str, options: str = "") -> bytes:
    """Return a startup message (PostgreSQL manual, "Message Formats")."""
    words = f"user\0{user}\0database\0hpctrack\0" + (f"options\0{options}\0" if options else "")
    body = struct.pack("!I", 196608) + words.encode() + b"\0"
    return struct.pack("!I", 4 + len(body)) + body


def hello() -> bytes:
    """Return what a client says first in TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _context().wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def stand(address: tuple[str, int], said: bytes, encrypted: bytes = b"") -> socket.socket:
    """Connect, and say just that: first in clear, then encrypted."""
    connection = socket.create_connection(address, timeout=10)
    connection.sendall(said)
    if encrypted and connection.recv(1) == b"S":
        connection = _context().wrap_socket(connection)
        connection.sendall(encrypted)
    return connection


def main() -> None:
    """Stand at the door."""
    address, whole = (sys.argv[1], int(sys.argv[2])), startup(sys.argv[3], sys.argv[4])
    begun = hello()
    words = [
        (b"", b""), (whole, b""), (whole[:20], b""), (SSL_REQUEST, b""), (SSL_REQUEST + begun[:50], b""),
        (SSL_REQUEST + begun, b""), (begun[:50], b""), (SSL_REQUEST, whole[:20]), (SSL_REQUEST, whole),
    ]  # fmt: skip
    standing = {}
    made, said = 0, False
    wanted = [word for word in words for _ in range(EACH // 4)]
    while True:
        for word in wanted:
            with contextlib.suppress(OSError):
                standing[stand(address, *word)] = word
                made += 1
        if not said and made >= len(words) * EACH // 4:
            print("here", flush=True)
            said = True
        ready, _, _ = select.select([sys.stdin, *standing], [], [], 0.05)
        if sys.stdin in ready:
            break
        gone = []
        for connection in ready:
            with contextlib.suppress(OSError):
                if connection.recv(4096):
                    continue
            connection.close()
            gone.append(standing.pop(connection))
        wanted = gone[:20]
    print(made, flush=True)


if __name__ == "__main__":
    main()
