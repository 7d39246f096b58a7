"""Which host may run the embedded PostgreSQL of a folder that several hosts share.

The rules are one pure function, `decide`, of the owner file and of what `server_status` found out (whether
the process is alive, whether the port answers).

Three guards prevent a second server on a shared home, since each has a gap that another one covers:

* the **owner file** names host, boot and process. It is created by link(2), which is atomic on NFS too
  (open(2) on Linux, O_EXCL); only its own host, or `server.take_over`, ever removes it;
* the **local lock**, in a folder of this host, so that two commands on one host do not both take over;
* the **folder lock**, flock(2) beside the data, whose file descriptor the server and all its children
  inherit. While any of them lives on any host that shares locks, no second server starts. It does not depend
  on process ids; but some file systems have no locks, hence the other two.

The two locks are in `host_locks`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from hpctrack import errors, files

#: Size of an owner file.
_MAX_BYTES = 1 << 16


class Host(NamedTuple):
    """A host, during one boot."""

    name: str
    boot_id: str

    @classmethod
    def here(cls) -> Host:
        """Return this host. The boot id is the kernel's (proc(5), /proc/sys/kernel/random)."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return cls(socket.gethostname(), boot_id)


class Owner(NamedTuple):
    """The contents of the owner file: where the server of this folder runs, or last ran."""

    host: str
    boot_id: str
    #: Names and addresses of its host, best first; `asking.Reach` has where it can be reached.
    addresses: tuple[str, ...]
    #: Its socket folder, local to its host.
    socket_dir: str
    #: UTC, ISO 8601.
    since: str
    #: Random, so that a record differs from its successor.
    token: str
    #: The postmaster; None while it is being started.
    pid: int | None = None
    #: When that process started, in clock ticks after boot (proc(5), field 22 of stat): pids are reused.
    pid_start: int | None = None

    @property
    def where(self) -> str:
        """Describe the owner for messages."""
        return f"{self.host} ({'' if self.pid else 'starting, '}since {self.since})"

    @property
    def age(self) -> float:
        """Seconds since `since`, by this host's clock."""
        return abs((datetime.now(timezone.utc) - datetime.fromisoformat(self.since)).total_seconds())


class Action(Enum):
    """What a command on this host has to do to connect to the server."""

    USE_HERE = "connect by the local socket"
    ADOPT = "its starter died: complete the record, then connect"
    USE_THERE = "connect over TCP"
    START = "no server runs: start one"
    REFUSE = "it may run elsewhere: do not start a second one"


def decide(
    owner: Owner | None, here: Host, *, alive: bool = False, answers: bool = False, leftover: bool = False
) -> Action:
    """Decide from the owner file and from what `server_status` found out.

    ``alive``: a process of this host is the postmaster of this folder; matters only if the record is of this
    host and boot. ``answers``: a PostgreSQL answers at the recorded addresses. ``leftover``: there is no
    record, but a postmaster.pid, so that a server runs or did not end cleanly.
    """
    if owner is None:
        # The record was deleted, perhaps while its server lives on another host.
        return Action.REFUSE if leftover else Action.START
    if owner.host != here.name:
        return Action.USE_THERE if answers else Action.REFUSE
    # Process ids of an earlier boot may belong to any process now.
    if owner.boot_id != here.boot_id or not alive:
        return Action.START
    return Action.USE_HERE if owner.pid is not None else Action.ADOPT


def read(path: Path) -> Owner | None:
    """Read the owner file; None if there is none."""
    try:
        fields = json.loads(files.read(str(path), _MAX_BYTES))
        datetime.fromisoformat(fields["since"])
        return Owner(**{**fields, "addresses": tuple(fields["addresses"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise errors.EmbeddedError(
            f"{path} can't be understood: delete it if no host runs this PostgreSQL any more"
        ) from None


def create(path: Path, owner: Owner) -> bool:
    """Create the owner file, complete at once; False if there is one already."""
    return files.create_whole(str(path), _contents(owner))


def replace(path: Path, owner: Owner) -> None:
    """Replace the owner file. Only the owner may."""
    files.replace(str(path), _contents(owner), sync=True)


def remove(path: Path, owner: Owner) -> bool:
    """Remove the owner file if it is still this record; False if another record has taken its place.

    Between reading and unlinking it another process could replace it. So it is renamed first, then read, and
    put back if it is another record.
    """
    aside = path.with_name(f"{path.name}.{owner.token}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    moved = read(aside)
    ours = moved is not None and moved.token == owner.token
    if not ours:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return ours


def _contents(owner: Owner) -> bytes:
    return json.dumps(owner._asdict(), indent=1).encode()
