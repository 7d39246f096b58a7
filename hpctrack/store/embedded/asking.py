"""How a host gets access to a server that another host of the same home runs: it asks, the keeper lets it in.

A server listens on no network by itself. A command on another host writes a file into ``asked``, with pairs
of addresses: one of the server's host, and its own on the way there. The server's keeper (`keeper`) opens a
door on the former, for the latter alone. It writes where the door is into ``reach.json``, and the certificate
that it shows into a file beside that. Later servers open a door to these hosts from their start on, until a
host has not come for a month.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import files
from hpctrack.store.embedded import listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.store.embedded.cluster_folder import Place
    from hpctrack.store.embedded.owner import Owner

_MAX_BYTES = 1 << 16
_LAPSE_SECONDS = 30 * 86400.0
_AGAIN_SECONDS = 86400.0


class Way(NamedTuple):
    """A way from a host to the server's: the address to connect to, and the address to connect from."""

    to: str
    source: str


class Reach(NamedTuple):
    """Where other hosts reach a server, and which may: the contents of ``reach.json``."""

    #: The token of its owner file.
    token: str
    port: int
    addresses: tuple[str, ...]
    #: Addresses that are let in.
    guests: tuple[str, ...]
    #: The key that their connections have to name (`gate`).
    key: str
    #: Why no host can be let in; empty if hosts can.
    problem: str = ""


class Door(NamedTuple):
    """Where the server of another host answers."""

    address: str
    port: int
    key: str
    #: Path of the certificate that it shows.
    certificate: str

    def params(self) -> dict[str, str]:
        """Return the libpq parameters to connect through it. They override the environment's.

        Only this certificate is trusted, so no host name is checked. The client shows none, and has no
        revocation list: libpq (``sslcrl``) would need one for every authority.
        """
        return {
            "options": f"-c {setting(self.key)}",
            "sslmode": "verify-ca",
            "sslrootcert": self.certificate,
            "sslcertmode": "disable",
            "sslcrl": os.devnull,
            "ssl_min_protocol_version": "TLSv1.2",
            "gssencmode": "disable",
            "channel_binding": "disable",
        }


def setting(key: str) -> str:
    """Return the setting by which a connection names the door's key (libpq's ``options``)."""
    return f"hpctrack.door={key}"


def ask(place: Place, record: Owner, name: str) -> bool:
    """Ask for a door, for the host of this name; False if the same question is already there.

    Raises OSError.
    """
    path = place.asked / name
    ways = list(_ways(record.addresses))
    text = json.dumps({"ways": ways}).encode()
    with contextlib.suppress(OSError):
        young = time.time() - path.stat().st_mtime < _LAPSE_SECONDS
        if young and files.read(str(path), _MAX_BYTES) == text:
            return False
    files.make_folder(str(place.asked), within=str(place.base))
    files.replace(str(path), text)
    return True


def note_visit(place: Place, name: str) -> None:
    """Refresh a host's question once a day, when it uses the door, so that it does not lapse."""
    path = place.asked / name
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _AGAIN_SECONDS:
            os.utime(path)


def asked(place: Place) -> list[Way]:
    """Return the ways of all hosts that have asked, or used the door, within a month."""
    ways: list[Way] = []
    try:
        entries = list(place.asked.iterdir())
    except FileNotFoundError:
        return []
    for path in entries:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if time.time() - path.stat().st_mtime < _LAPSE_SECONDS:
                fields = json.loads(files.read(str(path), _MAX_BYTES))
                ways += [Way(str(to), str(source)) for to, source in fields["ways"]]
    return ways


def read(place: Place, record: Owner) -> Reach | None:
    """Return where the server of a record can be reached; None if its keeper has published nothing."""
    try:
        fields = json.loads(files.read(str(place.reach_file), _MAX_BYTES))
        reach = Reach(
            fields["token"],
            int(fields["port"]),
            tuple(fields["addresses"]),
            tuple(fields["guests"]),
            fields["key"],
            fields["problem"],
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return reach if reach.token == record.token else None


def problem(place: Place, record: Owner) -> str:
    """Return why the server of a record can let no host in; empty if nothing is known to prevent it."""
    reach = read(place, record)
    return reach.problem if reach is not None else ""


def publish(place: Place, reach: Reach, certificate: bytes = b"") -> None:
    """Publish where the server can be reached; ``certificate``: its certificate, as PEM. Raises OSError."""
    path = place.certificate(reach.token)
    if certificate:
        files.replace(str(path), certificate)
    files.replace(str(place.reach_file), json.dumps(reach._asdict()).encode())
    for other in place.certificates():
        if other != path:
            other.unlink(missing_ok=True)


def is_published(place: Place, record: Owner, reach: Reach) -> bool:
    """Whether the files that `publish` wrote for ``reach`` are still there."""
    is_shut = not reach.addresses
    return read(place, record) == reach and (is_shut or place.certificate(reach.token).exists())


def withdraw(place: Place, record: Owner) -> None:
    """Remove the files of `publish`, unless they are another server's by now."""
    if read(place, record) is not None:
        place.reach_file.unlink(missing_ok=True)
    place.certificate(record.token).unlink(missing_ok=True)


def answering(place: Place, record: Owner) -> Door | None:
    """Return where the server of another host answers, if it does."""
    reach = read(place, record)
    if reach is None:
        return None
    address = listening.answering(reach.addresses, reach.port)
    if address is None:
        return None
    return Door(address, reach.port, reach.key, str(place.certificate(reach.token)))


def _ways(addresses: tuple[str, ...]) -> Iterator[Way]:
    """Yield the ways to names and addresses, without names that resolve to loopback on this host."""
    seen = set()
    for address in addresses:
        for family, to in _resolved(address):
            source = listening.source_address(family, to)
            if source is None or to in seen or (listening.is_loopback(to) and to != address):
                continue
            seen.add(to)
            yield Way(to, source)


def _resolved(name: str) -> list[tuple[int, str]]:
    """Return the numeric addresses of a name, each after its family; none for an unknown name."""
    with contextlib.suppress(OSError):
        answers = socket.getaddrinfo(name, 9, type=socket.SOCK_DGRAM)
        return [(family, str(target[0])) for family, _, _, _, target in answers]
    return []
