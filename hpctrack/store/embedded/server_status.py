"""Tells whether a server of this folder runs, here or on another host, and how to connect to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.store.embedded import asking, cluster_folder, listening, owner, postmaster
from hpctrack.store.embedded.owner import Action, Host, Owner

if TYPE_CHECKING:
    from hpctrack.store.embedded.asking import Door
    from hpctrack.store.embedded.cluster_folder import Place


class Seen(NamedTuple):
    """What `look` found out, and the action that follows."""

    action: Action
    record: Owner | None
    #: The living postmaster, if this boot of this host runs it.
    pid: int | None
    #: Where the server of another host answers.
    door: Door | None


def look(place: Place, here: Host) -> Seen:
    """Read the owner file, and find out whether the server that it names lives. Changes nothing."""
    record = owner.read(place.owner_file)
    leftover = False
    if record is None and place.postmaster_pid.exists():
        record = owner.read(place.owner_file)  # unless a server started just now
        leftover = record is None
    foreign = record is not None and record.host != here.name
    door = asking.answering(place, record) if record is not None and foreign else None
    pid = postmaster.find(place, record, here)
    action = owner.decide(record, here, alive=pid is not None, answers=door is not None, leftover=leftover)
    return Seen(action, record, pid, door)


def params(place: Place, seen: Seen) -> dict[str, str] | None:
    """Return libpq parameters of the server that was seen; None if it accepts no connections now."""
    if seen.record is None:
        return None
    if seen.door is not None:
        door = seen.door
        return {**cluster_folder.connection_params(place, door.address, door.port), **door.params()}
    if seen.action is Action.USE_HERE and seen.pid is not None and postmaster.is_ready(place, seen.pid):
        return local_params(place, seen.record, seen.pid)
    return None


def settled_params(place: Place, seen: Seen) -> dict[str, str] | None:
    """Return what `params` does, under the local lock: wait for a server that is starting.

    If the starter of a server died, complete the record.
    """
    if seen.record is not None and seen.pid is not None:
        if not postmaster.wait_ready(place, seen.pid):
            return None
        if seen.action is Action.ADOPT:
            started = postmaster.start_time(seen.pid)
            owner.replace(place.owner_file, seen.record._replace(pid=seen.pid, pid_start=started))
            seen = seen._replace(action=Action.USE_HERE)
    return params(place, seen)


def local_params(place: Place, record: Owner, pid: int) -> dict[str, str] | None:
    """Return parameters for the socket on this host, also if this session has a /tmp of its own."""
    for folder in (record.socket_dir, _as_seen_by(pid, record)):
        if listening.socket_accepts(Path(folder, cluster_folder.SOCKET)):
            return cluster_folder.connection_params(place, folder, cluster_folder.PORT)
    return None


def is_cut_off(place: Place, seen: Seen) -> bool:
    """Whether a server lives whose socket is gone, as after a cleaner of /tmp: nobody can connect to it."""
    if seen.record is None or seen.pid is None or not postmaster.is_ready(place, seen.pid):
        return False
    try:
        Path(_as_seen_by(seen.pid, seen.record), cluster_folder.SOCKET).lstat()
    except FileNotFoundError:
        return postmaster.is_postmaster(seen.pid, seen.record.pid_start, place.data)
    except OSError:
        pass
    return False


def _as_seen_by(pid: int, record: Owner) -> str:
    """Return the path of the socket's folder in the mount namespace of a process (proc(5), root)."""
    return f"/proc/{pid}/root{record.socket_dir}"


def refusal(place: Place, record: Owner | None) -> errors.OwnedElsewhere:
    """Return the error that says why no server may be started here."""
    if record is None:
        return errors.OwnedElsewhere(
            f"{place.postmaster_pid} is there but {place.owner_file} is not: PostgreSQL may run on another "
            "host; if it runs nowhere: hpctrack setup --take-over"
        )
    reach = asking.read(place, record)
    if reach is None:
        how = (
            "does not answer. It has been asked to let this host in, which takes a minute if it runs: "
            "try again, or run a command there"
        )
    elif reach.problem:
        how = f"lets no other host in: {reach.problem}; or run this there"
    elif not reach.addresses:
        how = "lets no other host in (embedded_listen): run this there"
    else:
        doors = " or ".join(f"{address} port {reach.port}" for address in reach.addresses)
        how = f"does not answer on {doors}: if a firewall is between, run this there"
    return errors.OwnedElsewhere(
        f"the embedded PostgreSQL runs, or last ran, on {record.where} and {how}; "
        "if that host is gone for good: hpctrack setup --take-over"
    )
