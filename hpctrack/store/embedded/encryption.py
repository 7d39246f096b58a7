"""TLS at a keeper's door: a key and a certificate of its own, and a socket that speaks it without waiting.

`Identity.make` makes both anew at each start of a keeper. The key never leaves its memory; the certificate
lies in the private folder (`asking`), from where a client takes it as the only one that it believes. So
nobody has to sign it, no name stands in it, and it does not expire: it ends with its keeper.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors

if TYPE_CHECKING:
    import socket

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

#: A record of TLS holds at most 16 KiB; as long as more is asked for, none is left half read (RFC 8446, 5.1).
_RECORD = 1 << 16
#: How a client names the protocol if it begins with TLS at once (PostgreSQL manual, "Direct SSL").
_PROTOCOL = "postgresql"


class Identity(NamedTuple):
    """The key and the certificate with which a keeper encrypts."""

    #: PEM.
    certificate: bytes
    context: ssl.SSLContext

    @classmethod
    def make(cls) -> Identity:
        """Make a key and its certificate. Raises `errors.MissingExtra` where that can't be done."""
        try:
            key = _generate()
            certificate = _sign(key)
            return cls(certificate, _context(_pem(key) + certificate))
        except (ImportError, OSError) as error:
            reason = " ".join(str(error).split())
            raise errors.MissingExtra(
                f"nothing can be encrypted there ({reason}): pip install 'hpctrack[embedded]'"
            ) from error


def _generate() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _sign(key: EllipticCurvePrivateKey) -> bytes:
    """Return a certificate that a key has signed for itself, good at all times (RFC 5280, 4.1.2.5)."""
    from datetime import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hpctrack")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    begin, end = datetime(2000, 1, 1), datetime(9999, 12, 31, 23, 59, 59)
    certificate = builder.not_valid_before(begin).not_valid_after(end).sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, serialization.NoEncryption())


def _context(chain: bytes) -> ssl.SSLContext:
    """Return what speaks TLS 1.2 or later as the server; ``chain``: key and certificate, as PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols([_PROTOCOL])
    memory = os.memfd_create("key")  # ssl reads files only, and a home may cross the network in clear
    try:
        os.write(memory, chain)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context


def begin(context: ssl.SSLContext, connection: socket.socket) -> ssl.SSLSocket:
    """Return a connection that speaks TLS from now on, and does not wait. Raises OSError."""
    return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)


def is_spoken(connection: socket.socket) -> bool:
    """Whether all that is received from a connection was encrypted.

    It is asked of TLS itself: Pythons before August 2023 go on in clear, without a word, if the other side
    has hung up before they begin (CVE-2023-40217).
    """
    return isinstance(connection, ssl.SSLSocket) and connection.version() is not None


def receive(connection: socket.socket) -> bytes | None:
    """Receive what is there; None if nothing is, empty if the other side has ended. Raises OSError."""
    try:
        return connection.recv(_RECORD)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None


def send(connection: socket.socket, data: bytearray) -> int:
    """Send the beginning of it, as much as can be; return how much that was. Raises OSError.

    What could not be sent has to be sent with the next call, and more may stand behind it by then.
    """
    try:
        return connection.send(data)
    except (BlockingIOError, ssl.SSLWantWriteError):
        return 0


def end(connection: socket.socket) -> None:
    """Close a connection, and say so where TLS is spoken."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):  # it is not waited for what the other side says
            connection.unwrap()
    connection.close()
