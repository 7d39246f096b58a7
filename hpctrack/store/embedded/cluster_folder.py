"""The folder of the embedded PostgreSQL: its paths, its initdb, its configuration, its login."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import files

if TYPE_CHECKING:
    from hpctrack.settings import Settings
    from hpctrack.store.embedded.owner import Owner
    from hpctrack.store.embedded.postgres_binaries import Binaries

DBNAME = "hpctrack"
PORT = 5432
"""Part of the socket's name only; the socket's folder is this server's alone."""
_LONGEST_NAME = 63
SOCKET = f".s.PGSQL.{PORT}"
_CERTIFICATE = "certificate-"

#: For one user on a shared login node (PostgreSQL manual, "Server Configuration").
_SETTINGS = {
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "50",  # collector, commands and notebooks of one user
    "shared_buffers": "128MB",  # touched only as far as it is used
    "huge_pages": "off",  # the node's huge pages are for others
    "dynamic_shared_memory_type": "mmap",  # /dev/shm may be tiny, and logind empties it (RemoveIPC) at logout
    "max_parallel_workers_per_gather": "1",  # two cores of a node that all share, at most
    "max_parallel_maintenance_workers": "0",
    "jit": "off",  # costs more than our queries take
    "max_logical_replication_workers": "0",  # no replication: one process and much WAL less
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "min_wal_size": "32MB",  # the home has a quota
    "max_wal_size": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",  # the collector acknowledges what is committed, and then the node forgets it
    "listen_addresses": "",  # `gate` lets other login nodes in
    "port": str(PORT),
    "authentication_timeout": "5s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "hpctrack",  # what ps shows
    # The client gets the errors of its statements: they need not fill the log, which `keeper` cuts.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}
#: Also a connection over the socket needs the password (manual, "The pg_hba.conf File").
_HBA = "local all all scram-sha-256\n"


class Place(NamedTuple):
    """The paths of an embedded PostgreSQL's files."""

    base: Path

    @classmethod
    def of(cls, settings: Settings) -> Place:
        """Return the place that the settings name. Changes nothing."""
        return cls(Path(os.path.realpath(settings.data_dir)) / "postgres")

    @property
    def data(self) -> Path:
        """The data folder (PGDATA)."""
        return self.base / "data"

    @property
    def owner_file(self) -> Path:
        """The owner file, see `owner`."""
        return self.base / "owner.json"

    @property
    def passfile(self) -> Path:
        """User and password, in libpq's format. In the data folder, so that both are made in one rename."""
        return self.data / "passfile"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.base / "server.log"

    @property
    def postmaster_pid(self) -> Path:
        """PostgreSQL's own lock file (manual, "Database File Layout")."""
        return self.data / "postmaster.pid"

    @property
    def hosts(self) -> Path:
        """The folder of files that name each host's `host_folder`."""
        return self.base / "hosts"

    @property
    def asked(self) -> Path:
        """The folder of other hosts' questions, see `asking`."""
        return self.base / "asked"

    @property
    def reach_file(self) -> Path:
        """The file that tells where other hosts reach the server, see `asking.Reach`."""
        return self.base / "reach.json"

    def certificate(self, token: str) -> Path:
        """The file of the certificate that a server shows to other hosts; ``token``: its owner file's."""
        return self.base / f"{_CERTIFICATE}{token}.pem"

    def certificates(self) -> list[Path]:
        """Return the certificate files that exist, also of earlier servers."""
        return list(self.base.glob(f"{_CERTIFICATE}*.pem"))

    def make_base(self) -> None:
        """Make `base`, or check that only this user can enter it."""
        files.make_folder(str(self.base), within=str(self.base.parent))

    def read_postmaster_pid(self) -> list[str]:
        """Return the lines of postmaster.pid: pid first, status eighth; empty if there is none."""
        try:
            return self.postmaster_pid.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []


def initialise(place: Place, binaries: Binaries) -> None:
    """Make the cluster, with password and database, in a new folder, and rename that to `Place.data`.

    A start that is killed here leaves only the new folder; the next start removes it (`sweep`).
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
        include = "include_if_exists = 'hpctrack.conf'  # written anew at each start\n# Settings below win.\n"
        _write(data / "postgresql.conf", include)
        data.rename(place.data)
    finally:
        sweep(place)


def _write(path: Path, text: str) -> None:
    files.replace(str(path), text.encode(), sync=True)


def sweep(place: Place) -> None:
    """Remove folders that `initialise` has left."""
    import shutil

    for leftover in place.base.glob("new-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def sweep_sockets(folder: Path) -> None:
    """Remove the sockets of a killed server. Only the holder of both locks may call this."""
    for leftover in folder.glob(f"{SOCKET}*"):
        leftover.unlink(missing_ok=True)


def configure(place: Place, record: Owner, major: int) -> None:
    """Write the configuration files for the server of a record."""
    _write(place.data / "hpctrack.conf", configuration(record, major))
    _write(place.data / "pg_hba.conf", _HBA)


def _user() -> str:
    """Return the superuser's name: the account's, or hpctrack's if PostgreSQL reserves it ("CREATE ROLE")."""
    import pwd

    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container without accounts
        return DBNAME
    reserved = name.startswith("pg_") or name in ("public", "none")
    # The owner of an extension must not contain these (src/backend/commands/extension.c).
    return DBNAME if reserved or set(name) & set("\"$'\\") or len(name.encode()) > _LONGEST_NAME else name


def configuration(record: Owner, major: int) -> str:
    """Return the text of ``hpctrack.conf`` for the server of a record; ``major`` is PostgreSQL's release."""
    values = {
        **_SETTINGS,
        **({"io_method": "sync"} if major >= 18 else {}),  # three processes less
        "unix_socket_directories": record.socket_dir,
    }
    return "".join(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in values.items())


def connection_params(place: Place, host: str, port: int) -> dict[str, str]:
    """Return libpq parameters; ``host`` is a socket folder, or an address."""
    user = re.split(r"(?<!\\):", place.passfile.read_text(encoding="utf-8"))[3]
    return {
        "host": host,
        "port": str(port),
        "user": re.sub(r"\\(.)", r"\1", user),
        "passfile": str(place.passfile),
        "dbname": DBNAME,
        "require_auth": "scram-sha-256",
    }


def _escape(field: str) -> str:
    return re.sub(r"([\\:])", r"\\\1", field)
