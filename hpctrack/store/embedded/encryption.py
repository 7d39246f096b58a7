"""TLS at a keeper's door: the keeper's key and certificate, and sockets that don't block.

`Identity.make` makes both anew for each keeper. The key never leaves its memory. The certificate is in the
private folder (`asking`), and a client that reads it there trusts no other. So no authority has to sign it,
it holds no host name, and it need not expire: the next keeper has another one.
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

#: More than a record of TLS holds (16 KiB; RFC 8446, 5.1), so that one call never leaves a part of it unread.
_RECORD = 1 << 16
#: ALPN name that a client sends if it begins with TLS at once (PostgreSQL manual, "Direct SSL").
_PROTOCOL = "postgresql"


class Identity(NamedTuple):
    """The key and the certificate with which a keeper encrypts."""

    #: PEM.
    certificate: bytes
    context: ssl.SSLContext

    @classmethod
    def make(cls) -> Identity:
        """Make a key and its certificate. Raises `errors.MissingExtra` if that fails."""
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
    """Return a self-signed certificate that does not expire (RFC 5280, 4.1.2.5)."""
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
    """Return a server's context for TLS 1.2 or later; ``chain``: key and certificate, as PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols([_PROTOCOL])
    memory = os.memfd_create("key")  # ssl reads files only; one in the home could cross the network
    try:
        os.write(memory, chain)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context


def begin(context: ssl.SSLContext, connection: socket.socket) -> ssl.SSLSocket:
    """Return a socket that speaks TLS on a connection from now on, and does not block. Raises OSError."""
    return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)


def is_spoken(connection: socket.socket) -> bool:
    """Whether all data received from a connection was encrypted.

    ``version()`` asks TLS itself: a Python older than August 2023 silently goes on unencrypted if the other
    side hung up before TLS began (CVE-2023-40217).
    """
    return isinstance(connection, ssl.SSLSocket) and connection.version() is not None


def receive(connection: socket.socket) -> bytes | None:
    """Receive available data; None if there is none, empty if the other side has closed. Raises OSError."""
    try:
        return connection.recv(_RECORD)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None


def send(connection: socket.socket, data: bytearray) -> int:
    """Send the beginning of ``data``, as much as possible; return the number of bytes. Raises OSError.

    The next call must begin with the bytes that were not sent; more may follow them by then.
    """
    try:
        return connection.send(data)
    except (BlockingIOError, ssl.SSLWantWriteError):
        return 0


def end(connection: socket.socket) -> None:
    """Close a connection; over TLS, tell the other side first."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):  # without waiting for its answer
            connection.unwrap()
    connection.close()
