"""Does a server of this folder run, here or on another host, and how is it reached?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.store.embedded import cluster_folder, listening, owner, postmaster
from hpctrack.store.embedded.owner import Action, Host, Owner

if TYPE_CHECKING:
    from hpctrack.store.embedded.cluster_folder import Place


class Seen(NamedTuple):
    """What a look at a folder showed, and what follows from it."""

    action: Action
    record: Owner | None
    #: The living postmaster, if this boot of this host runs it.
    pid: int | None
    #: Where the server of another host answers.
    address: str | None


def look(place: Place, here: Host) -> Seen:
    """Look at the owner file, and whether what it names lives. Changes nothing."""
    record = owner.read(place.owner_file)
    leftover = False
    if record is None and place.postmaster_pid.exists():
        record = owner.read(place.owner_file)  # not a server that started just now
        leftover = record is None
    foreign = record is not None and record.host != here.name
    address = listening.answering(record.addresses, record.port) if record is not None and foreign else None
    pid = postmaster.find(place, record, here)
    action = owner.decide(record, here, alive=pid is not None, answers=address is not None, leftover=leftover)
    return Seen(action, record, pid, address)


def params(place: Place, seen: Seen) -> dict[str, str] | None:
    """Return libpq parameters of the server that was seen; None if it accepts no connections now."""
    if seen.record is None:
        return None
    if seen.address is not None:
        return cluster_folder.connection_params(place, seen.address, seen.record.port)
    if seen.action is Action.USE_HERE and seen.pid is not None and postmaster.is_ready(place, seen.pid):
        return local_params(place, seen.record)
    return None


def settled_params(place: Place, seen: Seen) -> dict[str, str] | None:
    """Like `params`, for who holds the local lock: wait for a server that is starting, adopt an orphaned one.

    The record of a server whose starter died is completed.
    """
    if seen.record is not None and seen.pid is not None:
        if not postmaster.wait_ready(place, seen.pid):
            return None
        if seen.action is Action.ADOPT:
            started = postmaster.start_time(seen.pid)
            owner.replace(place.owner_file, seen.record._replace(pid=seen.pid, pid_start=started))
            seen = seen._replace(action=Action.USE_HERE)
    return params(place, seen)


def local_params(place: Place, record: Owner) -> dict[str, str] | None:
    """Return parameters for this host: the socket, or TCP where this session has a /tmp of its own."""
    if listening.socket_accepts(Path(record.socket_dir, f".s.PGSQL.{record.port}")):
        return cluster_folder.connection_params(place, record.socket_dir, record.port)
    address = listening.answering(record.addresses, record.port)
    return None if address is None else cluster_folder.connection_params(place, address, record.port)


def refusal(place: Place, record: Owner | None) -> errors.OwnedElsewhere:
    """Make the error that says why no server may be started here."""
    if record is None:
        return errors.OwnedElsewhere(
            f"{place.postmaster_pid} is there but {place.owner_file} is not: PostgreSQL may run on another "
            "host; if it runs nowhere: hpctrack setup --take-over"
        )
    return errors.OwnedElsewhere(
        f"the embedded PostgreSQL runs, or last ran, on {record.where} and does not answer: run this there, "
        "or, if that host is gone for good: hpctrack setup --take-over"
    )
