"""Names that cross the wire: a run, a journal, and where a collector listens. Standard library only.

`RunName` is what nodes call a run, `JournalKey` what the collector and PostgreSQL call one of its journals.
`Address` is how people and files write where a collector is. Each is an ordinary tuple, and a key of
dictionaries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import socket

TASK_NONE = -1
"""The task of a run that is not an array task."""


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

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``; an IPv6 address may stand in brackets. Raises ValueError."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not host:port")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        """Return it as `parse` reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def resolve(self) -> list[tuple[socket.AddressFamily, Any]]:
        """Return the address family and the socket address of each place that the host stands for.

        Raises OSError, and UnicodeError for what can't be a host's name.
        """
        import socket  # late: who only parses needs none

        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)
        return list(dict.fromkeys((family, place) for family, _, _, _, place in found))
