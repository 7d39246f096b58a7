"""A collector of the user's own: started where none runs, found by its lock and its address file."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from hpctrack import errors, files
from hpctrack.process import children
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import Address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpctrack.settings import Settings

LOG_BYTES = 1 << 20
_MAX_SIGNATURE = 1 << 12


def log_path(settings: Settings) -> str:
    """Return where a collector that was started by a command logs."""
    return os.path.join(settings.data_dir, "collector.log")


def address_path(settings: Settings) -> str:
    """Return the file in which the user's own collector says where it is."""
    return os.path.join(settings.spool, "collector")


def ensure_running(settings: Settings) -> bool:
    """Start a collector on this host if the user has none; whether one was started.

    Says so in one line on standard error. Raises `errors.CollectorUnavailable` where none can be started.
    """
    try:
        files.make_folder(settings.data_dir)
        with Lock(settings) as lock:
            if not lock.acquire() or lives_elsewhere(settings):
                return False
            if "SLURMD_NODENAME" in os.environ:
                raise errors.CollectorUnavailable(
                    "no collector runs, and none is started inside a job: it would end with the job; "
                    "run hpctrack sync on a login node"
                )
            _start(settings, lock)
    except OSError as error:
        raise errors.CollectorUnavailable(
            f"no collector can be started: {error.filename or settings.data_dir}: {error.strerror}"
        ) from error
    sys.stderr.write(
        f"hpctrack: started a collector on {socket.gethostname()}, log in {log_path(settings)}\n"
    )
    return True


class Lock:
    """The lock that the user's one collector holds while it lives; the file says who that is.

    A command that starts a collector hands the lock on to it: of several commands at once only one starts it.
    """

    def __init__(self, settings: Settings, held: int | None = None) -> None:
        """``held``: descriptor of the file, locked, by which another process handed it on."""
        self._path = os.path.join(settings.data_dir, "collector.lock")
        self._descriptor = held

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> bool:
        """Take the lock if it is free, or ours already. Raises OSError."""
        if self._descriptor is not None:
            return True
        descriptor = files.open_or_create(self._path)
        free = False
        try:
            free = files.try_lock(descriptor)  # without locks two collectors may run: it costs no data
        finally:
            if not free:
                os.close(descriptor)
        if free:
            self._descriptor = descriptor
        return free

    @property
    def descriptor(self) -> int:
        """Of the file, locked; -1 while it is not."""
        return -1 if self._descriptor is None else self._descriptor

    def sign(self, pid: int | None = None) -> None:
        """Write down who holds it: this process, or the one that it is handed on to."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{socket.gethostname()} {pid or os.getpid()}\n".encode(), 0)

    def is_lost(self) -> bool:
        """Whether what is held is not the file by this name any more: somebody removed the folder."""
        if self._descriptor is None:
            return True
        try:
            return not os.path.samestat(os.fstat(self._descriptor), os.stat(self._path))
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENOTDIR)

    def holder(self) -> str:
        """Return who holds it, in words."""
        host, pid = self._signature()
        return f"process {pid} on {host}" if host and pid else "somewhere"

    def process(self) -> int | None:
        """Return the process that holds it, if that is one of this host."""
        host, pid = self._signature()
        return int(pid) if host == socket.gethostname() and pid.isdecimal() else None

    def host(self) -> str:
        """Return the host of who holds it, or held it last; empty if nobody has."""
        return self._signature()[0]

    def _signature(self) -> tuple[str, str]:
        try:
            host, _, pid = files.read(self._path, _MAX_SIGNATURE).decode("utf-8").strip().partition(" ")
        except (OSError, UnicodeDecodeError):
            return "", ""
        return host, pid

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def stop(settings: Settings, seconds: float = 30.0) -> bool:
    """End the user's own collector on this host, everything received committed; False if none runs.

    Raises `errors.CollectorUnavailable` for one on another host, or one that does not end.
    """
    if not os.path.isdir(settings.data_dir):
        return False
    with Lock(settings) as lock:
        if lock.acquire():
            return False
        pid = lock.process()
        if pid is None:
            raise errors.CollectorUnavailable(f"the collector is {lock.holder()}: stop it there")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while not lock.acquire():
            if time.monotonic() > deadline:
                raise errors.CollectorUnavailable(f"the collector ({lock.holder()}) has not ended yet")
            time.sleep(0.1)
    return True


def lives_elsewhere(settings: Settings) -> bool:
    """Whether a collector on another host is known to live, where locks do not reach from host to host."""
    host = Lock(settings).host()
    return bool(host) and host != socket.gethostname() and _lives_on(host, settings)


def _lives_on(host: str, settings: Settings) -> bool:
    """Whether PostgreSQL has lately heard of a collector on this host."""
    from hpctrack.store import database, embedded
    from hpctrack.store.write import collectors

    if settings.personal and embedded.running(settings) is None:
        return False
    with (
        contextlib.suppress(errors.StoreError),
        contextlib.closing(database.connect(settings, autocommit=True)) as connection,
    ):
        return any(row.live and row.host == host for row in collectors.fetch(connection))
    return False


def _start(settings: Settings, lock: Lock) -> None:
    """Start a collector that survives this command and its terminal, and hand the lock on to it."""
    log = log_path(settings)
    if os.path.exists(log) and os.path.getsize(log) > LOG_BYTES:
        os.replace(log, log + ".1")
    with open(files.open_or_create(log, os.O_WRONLY | os.O_APPEND), "ab") as output:
        held = lock.descriptor
        # All of the configuration is in the environment: what this folder's file says is not asked again.
        told = ("collector", "--detached", str(held), "--config-path", os.devnull)
        process = subprocess.Popen(
            children.argv("hpctrack.cli.main:main", *told),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=children.environ({**children.without_run(os.environ), **environment(settings)}),
            start_new_session=True,
            pass_fds=(held,),
        )
        lock.sign(process.pid)


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that make another process see the same settings (`hpctrack.settings.load`)."""
    values: Mapping[str, Any] = settings._asdict()
    variables = {
        f"HPCTRACK_{name.upper()}": _text(value)
        for name, value in values.items()
        if name != "dsn" and value is not None
    }
    return variables | {f"HPCTRACK_DSN_{name.upper()}": value for name, value in (settings.dsn or {}).items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def write_addresses(settings: Settings, addresses: Sequence[Address]) -> None:
    """Say in the spool where the collector is. Raises OSError."""
    files.make_folder(settings.spool, within=settings.data_dir)
    files.replace(address_path(settings), "".join(f"{address}\n" for address in addresses).encode())


def read_addresses(settings: Settings) -> list[Address]:
    """Return what the address file says; nothing if there is none."""
    try:
        said = files.read(address_path(settings), records.MAX_ADDRESSES).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return Address.known(said.split())


def wait_for_addresses(settings: Settings, seconds: float = 10.0) -> list[Address]:
    """Wait until a collector that is being started says where it is, at most so long."""
    deadline = time.monotonic() + seconds
    while not (addresses := read_addresses(settings)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return addresses


def remove_addresses(settings: Settings, addresses: Sequence[Address]) -> None:
    """Take the address file away if it still says this."""
    if read_addresses(settings) == list(addresses):
        with contextlib.suppress(OSError):
            os.unlink(address_path(settings))
