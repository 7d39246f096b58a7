"""Where the collector listens, and where compute nodes reach it."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, TypeAlias

import psutil

from hpctrack import errors
from hpctrack.stream.collector.mmsg import BatchSocket
from hpctrack.stream.wire.names import Address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hpctrack.settings import Settings

    _IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: As many addresses as relays are told, at most.
_MAX_ADDRESSES = 8


def bind(settings: Settings, before: Sequence[Address]) -> BatchSocket:
    """Bind as configured; where any port will do, the one of ``before`` if it is free: relays know it.

    Raises `errors.CollectorUnavailable`.
    """
    wanted = _everywhere(Address(settings.collector_bind, settings.collector_port))
    failure: OSError | None = None
    for port in (wanted.port,) if wanted.port else (*sorted({address.port for address in before}), 0):
        try:
            return BatchSocket(wanted._replace(port=port))
        except OSError as error:
            failure = error
    raise errors.CollectorUnavailable(f"can't listen on {wanted}: {failure}") from failure


def _everywhere(wanted: Address) -> Address:
    """Return the address to bind for one: on a host without IPv4, ``::`` in place of ``0.0.0.0``."""
    if wanted.host != str(ipaddress.IPv4Address(0)):
        return wanted
    versions = {ipaddress.ip_address(host).version for host in _interfaces(with_ipv6=True)}
    return wanted._replace(host=str(ipaddress.IPv6Address(0))) if versions == {6} else wanted


def reachable(bound: Address) -> list[Address]:
    """Return where others reach a socket that is bound to an address, best first."""
    if not bound.is_everywhere:
        return [bound]
    hosts = filter(None, [_name(), *_interfaces(with_ipv6=":" in bound.host)])
    return [bound._replace(host=host) for host in dict.fromkeys(hosts)][:_MAX_ADDRESSES]


def _name() -> str | None:
    """Return this host's name; None if it means loopback here, and so says nothing to others."""
    name = socket.getfqdn()
    try:
        places = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    return None if any(ipaddress.ip_address(place[4][0]).is_loopback for place in places) else name


def _interfaces(*, with_ipv6: bool) -> list[str]:
    """Return the addresses of this host; loopback only where there is nothing else."""
    families = (socket.AF_INET, socket.AF_INET6) if with_ipv6 else (socket.AF_INET,)
    usable = [address for address in _addresses(families) if not address.is_link_local]
    outside = [address for address in usable if not address.is_loopback]
    return [str(address) for address in outside or usable]


def _addresses(families: Sequence[socket.AddressFamily]) -> Iterator[_IP]:
    """Yield what the interfaces of this host have; what is known by its interface alone is left out."""
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family in families and "%" not in entry.address:
                yield ipaddress.ip_address(entry.address)
