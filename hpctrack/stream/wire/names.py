"""Names that cross the wire: a run, a journal, and where a collector listens. Standard library only.

`RunName` is what nodes call a run, `JournalKey` what the collector and PostgreSQL call one of its journals.
Each of the three is an ordinary tuple, and a key of dictionaries.

`Address` is where a collector listens. It alone knows how that is written, and that datagrams travel over
UDP. A node looks up the places that an address stands for (`Address.resolve`), and sends to them from a
socket of `Address.caller`; a collector receives with the socket of `Address.listen`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from typing import TypeAlias

    #: An address family, and a socket address of it.
    Place: TypeAlias = tuple[int, Any]

TASK_NONE = -1
"""The task of a run that is not an array task."""
ADDRESS = "host:port"
"""How an `Address` is written, for people."""
CARRIER = "UDP"
"""What a firewall has to let through to an `Address`, for people."""


class RunName(NamedTuple):
    """A run, as nodes know it: PostgreSQL may not have given it an id yet."""

    submission: bytes
    """The submission's UUID: 16 bytes, in the order of its hexadecimal digits."""
    task: int
    """The array task id, or `TASK_NONE`."""

    @classmethod
    def of(cls, uuid: str, task: int) -> RunName:
        """Return the name of a task of the submission whose UUID is written so. Raises ValueError."""
        return cls(bytes.fromhex(uuid.replace("-", "")), task)


class JournalKey(NamedTuple):
    """A journal, as PostgreSQL knows it: the key of the table ``streams``."""

    run_id: int
    journal: str
    """Its id: 16 hexadecimal digits."""


class Address(NamedTuple):
    """Where a collector listens."""

    host: str
    port: int
    """0 listens on any free one."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``; an IPv6 address may stand in brackets. Raises ValueError."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not {ADDRESS}")
        return cls(host.strip("[]"), int(port))

    @classmethod
    def known(cls, texts: Iterable[str]) -> list[Address]:
        """Read several; a text that is no address is left out."""
        found = []
        for text in texts:
            with contextlib.suppress(ValueError):
                found.append(cls.parse(text))
        return found

    @classmethod
    def of(cls, listener: socket.socket) -> Address:
        """Return where a socket listens."""
        host, port = listener.getsockname()[:2]
        return cls(str(host), int(port))

    def __str__(self) -> str:
        """Return it as `parse` reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_everywhere(self) -> bool:
        """Whether who is bound to it listens on all interfaces. Raises ValueError for a host's name."""
        import ipaddress

        return ipaddress.ip_address(self.host).is_unspecified

    def resolve(self) -> list[Place]:
        """Return the places that the host stands for.

        Raises OSError, and UnicodeError for what can't be a host's name.
        """
        import socket  # late: who only parses needs none

        answers = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)
        return list(dict.fromkeys((family, place) for family, _, _, _, place in answers))

    @staticmethod
    def caller(family: int) -> socket.socket:
        """Return a socket that sends to places of a family, gets their answers, and never waits.

        Raises OSError.
        """
        import socket

        return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def listen(self) -> socket.socket:
        """Return a socket that is bound to it and never waits. Raises as `resolve` does."""
        import socket

        family, place = self.resolve()[0]
        listener = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(place)
        except OSError:
            listener.close()
            raise
        return listener
