"""How hosts that share a home let each other in: one asks, the keeper of the server on the other answers.

A server listens on no network by itself. A command on another host leaves a file in ``asked``, with the
addresses between the two; the keeper (`keeper`) opens a door there, for that host alone, and writes into
``reach.json`` where it is, and beside it the certificate that it shows there. Hosts that have asked are let
in again from each start on, until they have not come for a month.
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
    """A way from a host to the server's: the address to connect to, and the one that it comes from."""

    to: str
    source: str


class Reach(NamedTuple):
    """Where the server of one start can be reached, and by whom."""

    #: Of the owner's record.
    token: str
    port: int
    addresses: tuple[str, ...]
    #: Addresses that are let in.
    guests: tuple[str, ...]
    #: What they have to say first (`gate`).
    key: str
    #: Why nobody can be let in, if nobody can.
    problem: str = ""


class Door(NamedTuple):
    """Where a server answers."""

    address: str
    port: int
    key: str
    #: Path of the certificate that it shows.
    certificate: str

    def params(self) -> dict[str, str]:
        """Return the libpq parameters that lead through it, whatever the environment says of encryption.

        The certificate is the only one that is believed, so no name in it matters. No other is shown, and
        no list of revoked ones is asked, which would have to be of all that sign (libpq's ``sslcrl``).
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
    """Return what a connection through a door has to set (libpq's ``options``)."""
    return f"hpctrack.door={key}"


def ask(place: Place, record: Owner, name: str) -> bool:
    """Ask to be let in, by a host's name; False if that has been asked before, in the same words.

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
    """Keep the mark of a host that uses the door fresh, so that it is not forgotten."""
    path = place.asked / name
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _AGAIN_SECONDS:
            os.utime(path)


def asked(place: Place) -> list[Way]:
    """Return the ways of all hosts that have asked, and not been away for too long."""
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
    """Return where the server of a record can be reached; None if its keeper has opened no door."""
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
    """Return why the server of a record can let nobody in; empty if it says nothing of the kind."""
    reach = read(place, record)
    return reach.problem if reach is not None else ""


def publish(place: Place, reach: Reach, certificate: bytes = b"") -> None:
    """Say where the server can be reached; ``certificate``: what it shows there, as PEM. Raises OSError."""
    path = place.certificate(reach.token)
    if certificate:
        files.replace(str(path), certificate)
    files.replace(str(place.reach_file), json.dumps(reach._asdict()).encode())
    for other in place.certificates():
        if other != path:
            other.unlink(missing_ok=True)


def is_published(place: Place, record: Owner, reach: Reach) -> bool:
    """Whether ``reach`` still stands there as `publish` wrote it, and its certificate."""
    is_shut = not reach.addresses
    return read(place, record) == reach and (is_shut or place.certificate(reach.token).exists())


def withdraw(place: Place, record: Owner) -> None:
    """Remove what `publish` wrote, unless it is about another server by now."""
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
    """Yield the ways to names and addresses; a name that means this host to itself leads nowhere."""
    seen = set()
    for address in addresses:
        for family, to in _resolved(address):
            source = listening.source_address(family, to)
            if source is None or to in seen or (listening.is_loopback(to) and to != address):
                continue
            seen.add(to)
            yield Way(to, source)


def _resolved(name: str) -> list[tuple[int, str]]:
    """Return the addresses of a name in digits, each after its family; none for an unknown name."""
    with contextlib.suppress(OSError):
        answers = socket.getaddrinfo(name, 9, type=socket.SOCK_DGRAM)
        return [(family, str(target[0])) for family, _, _, _, target in answers]
    return []
