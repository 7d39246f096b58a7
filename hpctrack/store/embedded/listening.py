"""Where a PostgreSQL listens (``listen_addresses``, Unix socket), and whether one answers there."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: PostgreSQL manual, "Message Formats": an SSLRequest, which every server answers with one byte, N or S.
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
_PROBE_SECONDS = 2.0
_EVERYWHERE = ("*", "0.0.0.0", "::")  # noqa: S104 (recognised, not bound)


def answering(addresses: Iterable[str], port: int) -> str | None:
    """Return the first address where a PostgreSQL answers, within about two seconds for all of them."""
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
            return connection.recv(1) in (b"N", b"S")
    except OSError:
        return False


def socket_accepts(path: Path) -> bool:
    """Say whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PROBE_SECONDS)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def free_port(listen: str) -> int:
    """Return a TCP port that is free now on the addresses (``listen_addresses``) of a server."""
    listed = _listed(listen)
    everywhere = _are_everywhere(listed)
    if everywhere and socket.has_dualstack_ipv6():
        # One socket for both families: PostgreSQL is content if it can bind one of them, we are not.
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
            return int(server.getsockname()[1])
    first = "" if everywhere or not listed else listed[0]
    family = socket.AF_INET6 if ":" in first else socket.AF_INET
    with socket.create_server((first, 0), family=family) as server:
        return int(server.getsockname()[1])


def addresses(host: str, listen: str) -> tuple[str, ...]:
    """Return where other hosts reach a server with these ``listen_addresses``, best first."""
    listed = _listed(listen)
    if not _are_everywhere(listed):
        return tuple(listed)
    routes = (_source_address(socket.AF_INET, "192.0.2.1"), _source_address(socket.AF_INET6, "2001:db8::1"))
    return (host, *(route for route in routes if route))


def _listed(listen: str) -> list[str]:
    return [word.strip() for word in listen.split(",") if word.strip()]


def _are_everywhere(listed: list[str]) -> bool:
    return any(word in _EVERYWHERE for word in listed)


def _source_address(family: socket.AddressFamily, target: str) -> str | None:
    """Return the address packets would leave from; connecting a UDP socket sends none (udp(7))."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return str(probe.getsockname()[0])
    return None
