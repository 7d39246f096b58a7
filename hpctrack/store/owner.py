"""Which host may run the embedded PostgreSQL of a folder that several hosts share.

The rules are one pure function, `decide`. Around it: the owner file, the few looks at the world that the
rules need (is that process alive, does that port answer), and `find`, which puts them together.

A server on a shared home is guarded three times, since each guard has a hole that another one covers:

* the **owner file** names host, boot and process. It is created by link(2), which is atomic on NFS too
  (open(2) on Linux, O_EXCL); only its own host, or `take_over`, ever removes it;
* the **local lock**, in a folder of this host, so that two commands on one host do not both take over;
* the **folder lock**, flock(2) beside the data, whose file descriptor the server and all its children
  inherit. While any of them lives on any host that shares locks, no second server starts. It needs no
  judgement about process ids; but some file systems have no locks, hence the other two.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import stat
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hpctrack.settings import Settings

#: PostgreSQL manual, "Message Formats": an SSLRequest, which every server answers with one byte, N or S.
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
_PROBE_SECONDS = 2.0
POLL_SECONDS = 0.02
DBNAME = "hpctrack"
#: What a server's processes are called (proc(5), comm); root's is called unshare for a moment.
_COMMANDS = ("postgres", "unshare")


class Host(NamedTuple):
    """A host between two boots of it."""

    name: str
    boot_id: str

    @classmethod
    def here(cls) -> Host:
        """Return this host. The boot id is the kernel's (proc(5), /proc/sys/kernel/random)."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return cls(socket.gethostname(), boot_id)


class Owner(NamedTuple):
    """What the owner file says: where the server of this folder runs, or last ran."""

    host: str
    boot_id: str
    port: int
    #: Where other hosts try to reach it, best first.
    addresses: tuple[str, ...]
    #: Its socket folder, local to its host.
    socket_dir: str
    #: UTC, ISO 8601.
    since: str
    #: Random, so that a record is told from its successor.
    token: str
    #: The postmaster; None while it is being started.
    pid: int | None = None
    #: Clock ticks after boot (proc(5), field 22 of stat), so that a reused pid is not taken for it.
    pid_start: int | None = None

    @property
    def where(self) -> str:
        """Describe the owner for messages."""
        return f"{self.host} ({f'port {self.port}' if self.pid else 'starting'}, since {self.since})"


class Place(NamedTuple):
    """Where things are."""

    base: Path

    @classmethod
    def of(cls, settings: Settings) -> Place:
        """Return the place that the settings name; touches nothing."""
        return cls(Path(os.path.realpath(settings.data_dir)) / "postgres")

    @property
    def data(self) -> Path:
        """The data folder (PGDATA)."""
        return self.base / "data"

    @property
    def owner_file(self) -> Path:
        """Who runs it."""
        return self.base / "owner.json"

    @property
    def passfile(self) -> Path:
        """User and password as libpq reads them; in the data folder, so that both come into being at once."""
        return self.data / "passfile"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.base / "server.log"

    @property
    def postmaster_pid(self) -> Path:
        """PostgreSQL's own lock file (manual, "Database File Layout")."""
        return self.data / "postmaster.pid"

    def local_dir(self) -> Path:
        """Make, or check, the folder on this host for socket and lock.

        The same for every session of the user, so it depends on no environment variable.
        """
        digest = hashlib.sha256(os.fsencode(self.base)).hexdigest()[:12]
        return private_dir(Path(f"/tmp/hpctrack-{os.geteuid()}-{digest}"))  # noqa: S108 (checked)

    def read_postmaster_pid(self) -> list[str]:
        """Return the lines of postmaster.pid: pid first, status eighth; empty if there is none."""
        try:
            return self.postmaster_pid.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []


class Action(Enum):
    """What a command on this host has to do to get at the server."""

    USE_HERE = "connect by the local socket"
    ADOPT = "its starter died: complete the record, then connect"
    USE_THERE = "connect over TCP"
    START = "no server runs: start one"
    REFUSE = "it may run elsewhere: do not start a second one"


def decide(
    owner: Owner | None, here: Host, *, alive: bool = False, answers: bool = False, leftover: bool = False
) -> Action:
    """Decide from the owner file and what was seen.

    ``alive``: a postmaster of this folder is a process of this host; means something only if the record is
    of this host and boot. ``answers``: a PostgreSQL answers at the recorded addresses. ``leftover``: there
    is a postmaster.pid, the mark of a server that did not end cleanly.
    """
    if owner is None:
        # No record, yet signs of a server: somebody deleted the record, perhaps of a living server elsewhere.
        return Action.REFUSE if leftover else Action.START
    if owner.host != here.name:
        return Action.USE_THERE if answers else Action.REFUSE
    # Process ids of an earlier boot mean nothing now, whatever runs under them.
    if owner.boot_id != here.boot_id or not alive:
        return Action.START
    return Action.USE_HERE if owner.pid is not None else Action.ADOPT


# --- the owner file ---------------------------------------------------------------------------------------


def read(path: Path) -> Owner | None:
    """Read the owner file; None if there is none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Owner(**{**fields, "addresses": tuple(fields["addresses"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise errors.EmbeddedError(
            f"{path} can't be understood: delete it if no host runs this PostgreSQL any more"
        ) from None


def create(path: Path, owner: Owner) -> bool:
    """Create the owner file, complete at once; False if there is one already."""
    draft = _write_draft(path, owner)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def replace(path: Path, owner: Owner) -> None:
    """Replace the owner file; only for who owns it."""
    _write_draft(path, owner).replace(path)


def remove(path: Path, owner: Owner) -> bool:
    """Remove the owner file if it is still this record; False if another record has taken its place.

    Looking first and unlinking then could hit a record made in between. So it is moved aside, looked at,
    and put back if it is another's.
    """
    aside = path.with_name(f"{path.name}.{owner.token}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    found = read(aside)
    ours = found is not None and found.token == owner.token
    if not ours:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return ours


def _write_draft(path: Path, owner: Owner) -> Path:
    draft = path.with_name(f"{path.name}.{owner.token}.new")
    with os.fdopen(
        os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        json.dump(owner._asdict(), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return draft


# --- looks at the world -----------------------------------------------------------------------------------


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot; None if it is gone or a zombie."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def works_in(pid: int, folder: Path) -> bool:
    """Say whether a process works in a folder, as every process of a PostgreSQL does in its data folder."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return False


def is_postmaster(pid: int, started: int | None, data: Path) -> bool:
    """Say whether a process of this host is the postmaster of a data folder."""
    now = start_time(pid)
    return now is not None and started in (None, now) and works_in(pid, data)


def processes(data: Path) -> list[int]:
    """List the processes of this host that belong to the PostgreSQL of a data folder, orphans included."""
    names = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [pid for pid in map(int, names) if _is_postgres(pid) and works_in(pid, data)]


def _is_postgres(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip() in _COMMANDS
    except OSError:
        return False


def answering(addresses: Iterable[str], port: int) -> str | None:
    """Return the first address where a PostgreSQL answers, within about two seconds for all of them."""
    from concurrent.futures import ThreadPoolExecutor

    wanted = list(addresses)
    if not wanted:
        return None
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(lambda address: _answers(address, port), wanted))
    return next((address for address, answered in zip(wanted, answers, strict=True) if answered), None)


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=_PROBE_SECONDS) as connection:
            connection.sendall(_SSL_REQUEST)
            return connection.recv(1) in (b"N", b"S")
    except OSError:
        return False


def socket_accepts(path: Path) -> bool:
    """Say whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PROBE_SECONDS)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def free_port(listen: str) -> int:
    """Return a TCP port that is free now on the addresses (``listen_addresses``) of a server."""
    everywhere = any(word.strip() in ("*", "0.0.0.0", "::") for word in listen.split(","))  # noqa: S104
    if everywhere and socket.has_dualstack_ipv6():
        # One socket for both families: PostgreSQL is content if it can bind one of them, we are not.
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
            return int(server.getsockname()[1])
    first = "" if everywhere or not listen.strip() else listen.partition(",")[0].strip()
    family = socket.AF_INET6 if ":" in first else socket.AF_INET
    with socket.create_server((first, 0), family=family) as server:
        return int(server.getsockname()[1])


def addresses(host: str, listen: str) -> tuple[str, ...]:
    """Return where other hosts reach a server with these ``listen_addresses``."""
    listed = [word.strip() for word in listen.split(",") if word.strip()]
    if not any(word in ("*", "0.0.0.0", "::") for word in listed):  # noqa: S104
        return tuple(listed)
    routes = (_source_address(socket.AF_INET, "192.0.2.1"), _source_address(socket.AF_INET6, "2001:db8::1"))
    return (host, *(route for route in routes if route))


def _source_address(family: socket.AddressFamily, target: str) -> str | None:
    """Return the address packets would leave from; connecting a UDP socket sends none (udp(7))."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return str(probe.getsockname()[0])
    return None


# --- is there a server? -----------------------------------------------------------------------------------


def find(place: Place, here: Host, *, refuse: bool = True, locked: bool = False) -> dict[str, str] | None:
    """Return libpq parameters of the server of this folder; None if it does not run.

    ``refuse``: raise `errors.OwnedElsewhere` where no other server may be started. ``locked`` (the caller
    holds the local lock): wait for a server that is starting, and complete the record of a dead starter.
    """
    record = read(place.owner_file)
    if record is None and place.postmaster_pid.exists():
        record = read(place.owner_file)  # not a server that started just now
        leftover = record is None
    else:
        leftover = False
    foreign = record is not None and record.host != here.name
    there = answering(record.addresses, record.port) if record is not None and foreign else None
    pid = postmaster(place, record, here)
    action = decide(record, here, alive=pid is not None, answers=there is not None, leftover=leftover)
    if action is Action.REFUSE and refuse and (foreign or locked):
        raise errors.OwnedElsewhere(_elsewhere(place, record))
    if record is None:
        return None
    if action is Action.USE_THERE and there is not None:
        return _params(place, record, there)
    if pid is None or (action is Action.ADOPT and not locked) or (locked and not wait_ready(place, pid)):
        return None
    if action is Action.ADOPT:
        replace(place.owner_file, record._replace(pid=pid, pid_start=start_time(pid)))
    return local_params(place, record) if _is_ready(place, pid) else None


def _elsewhere(place: Place, record: Owner | None) -> str:
    if record is None:
        return (
            f"{place.postmaster_pid} is there but {place.owner_file} is not: PostgreSQL may run on another "
            "host; if it runs nowhere: hpctrack setup --take-over"
        )
    return (
        f"the embedded PostgreSQL runs, or last ran, on {record.where} and does not answer: run this there, "
        "or, if that host is gone for good: hpctrack setup --take-over"
    )


def postmaster(place: Place, record: Owner | None, here: Host) -> int | None:
    """Return the pid of the living postmaster, if this boot of this host runs it."""
    if record is None or (record.host, record.boot_id) != here:
        return None
    pid = record.pid
    if pid is None:  # its starter died or is at work; then postmaster.pid, of this host for sure, knows more
        first = (place.read_postmaster_pid() or [""])[0]
        pid = int(first) if first.isdecimal() else None
    return pid if pid is not None and is_postmaster(pid, record.pid_start, place.data) else None


def _is_ready(place: Place, pid: int) -> bool:
    """Say whether it accepts connections, by what it wrote itself (as pg_ctl does)."""
    lines = place.read_postmaster_pid()
    return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def wait_ready(place: Place, pid: int, seconds: float = 90.0) -> bool:
    """Wait until a server accepts connections; False if it ends instead."""
    deadline = time.monotonic() + seconds
    while not _is_ready(place, pid):
        if not is_postmaster(pid, None, place.data):
            return False
        if time.monotonic() > deadline:
            raise errors.EmbeddedError(
                f"PostgreSQL is still starting after {seconds:.0f} s, try again later; log: {place.log}"
            )
        time.sleep(POLL_SECONDS)
    return True


def local_params(place: Place, record: Owner) -> dict[str, str] | None:
    """Return parameters for this host: the socket, or TCP where this session has a /tmp of its own."""
    if socket_accepts(Path(record.socket_dir, f".s.PGSQL.{record.port}")):
        return _params(place, record, record.socket_dir)
    address = answering(record.addresses, record.port)
    return None if address is None else _params(place, record, address)


def _params(place: Place, record: Owner, host: str) -> dict[str, str]:
    user = re.split(r"(?<!\\):", place.passfile.read_text(encoding="utf-8"))[3]
    return {
        "host": host,
        "port": str(record.port),
        "user": re.sub(r"\\(.)", r"\1", user),
        "passfile": str(place.passfile),
        "dbname": DBNAME,
        "require_auth": "scram-sha-256",
    }


# --- locks and folders ------------------------------------------------------------------------------------


def private_dir(path: Path) -> Path:
    """Make a folder that only this user can enter, or check that it is one; its parent is made if missing.

    Others may have put something under a predictable name in /tmp: lstat, so that a link is not followed.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise errors.EmbeddedError(f"{path} is not a folder of this user: refusing to use it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
    return path


@contextlib.contextmanager
def local_lock(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock among the processes of this host; raises `errors.EmbeddedError` when it stays taken."""
    deadline = time.monotonic() + seconds
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            # A cleaner of /tmp may have removed the file meanwhile: then this lock would guard nothing.
            if try_lock(descriptor) and os.fstat(descriptor).st_nlink:
                yield
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise errors.EmbeddedError(
                f"another command has been starting PostgreSQL for {seconds:.0f} s ({path})"
            )
        time.sleep(POLL_SECONDS)


def try_lock(descriptor: int) -> bool:
    """Take flock(2) if it is free. True as well where there are no locks: other guards must do then."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    return True
