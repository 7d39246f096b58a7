"""Addresses, and whether a server answers there: a door over TCP, PostgreSQL on a Unix socket."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: PostgreSQL manual, "Message Formats": an SSLRequest, which a door answers with one byte.
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
NONE = "none"
_PROBE_SECONDS = 2.0
_EVERYWHERE = {"*": ("0.0.0.0", "::"), "0.0.0.0": ("0.0.0.0",), "::": ("::",)}  # noqa: S104 (only if configured)


def answering(addresses: Iterable[str], port: int) -> str | None:
    """Return the first address where a door answers, within about two seconds for all of them."""
    from concurrent.futures import ThreadPoolExecutor

    wanted = list(addresses)
    if not wanted:
        return None
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(lambda address: _answers(address, port), wanted))
    return next((address for address, answered in zip(wanted, answers, strict=True) if answered), None)


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=_PROBE_SECONDS) as connection:
            connection.sendall(_SSL_REQUEST)
            return connection.recv(1) == b"S"
    except OSError:
        return False


def socket_accepts(path: Path) -> bool:
    """Say whether a process listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PROBE_SECONDS)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def bound(listen: str) -> tuple[str, ...]:
    """Return the addresses to bind for a list as in ``listen_addresses``; "none" means no address."""
    if listen.strip() == NONE:
        return ()
    return tuple(address for word in _listed(listen) for address in _EVERYWHERE.get(word, (word,)))


def addresses(host: str, listen: str) -> tuple[str, ...]:
    """Return this host's addresses for others, best first; ``listen``: the setting ``embedded_listen``."""
    listed = _listed(listen)
    if listed and listed != [NONE] and _EVERYWHERE.keys().isdisjoint(listed):
        return tuple(listed)
    routes = (source_address(socket.AF_INET, "192.0.2.1"), source_address(socket.AF_INET6, "2001:db8::1"))
    return (host, *(route for route in routes if route))


def _listed(listen: str) -> list[str]:
    return [word.strip() for word in listen.split(",") if word.strip()]


def is_loopback(address: str) -> bool:
    """Whether a numeric address leads to the host itself."""
    return address.startswith("127.") or address == "::1"


def source_address(family: int, target: str) -> str | None:
    """Return the source address of packets to a target. Sends none: only connects a UDP socket (udp(7))."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return str(probe.getsockname()[0])
    return None
