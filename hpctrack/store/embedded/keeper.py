"""The keeper of a PostgreSQL of the personal mode: the process that starts it, stays beside it, and ends it.

`launch` starts this process, which starts the server as its child. From then on, every two seconds, it

* ends the server if for ``idle_exit`` seconds no command has used it (`launch.note_use`) and no session has
  done anything;
* ends it if its folder is gone, or has another owner;
* cuts the log if it has grown;
* opens a door to hosts that have asked for one (`asking`, `gate`).

It ends when the server ends. If it is killed, the kernel ends the server (prctl(2), PR_SET_PDEATHSIG), so
that no server stays for ever. It imports the standard library only, until another host asks (`encryption`).
It sends the server no queries; it looks at its processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.store.embedded import (
    asking,
    cluster_folder,
    encryption,
    gate,
    launch,
    listening,
    owner,
    postgres_binaries,
    postmaster,
)
from hpctrack.store.embedded.asking import Reach
from hpctrack.store.embedded.cluster_folder import Place
from hpctrack.store.embedded.launch import Orders
from hpctrack.store.embedded.owner import Host

if TYPE_CHECKING:
    import subprocess

    from hpctrack.store.embedded.owner import Owner

_LOOK_SECONDS = 2.0
#: Looks for which the owner file may be missing: `owner.remove` renames it for a moment.
_HOMELESS_LOOKS = 3
_END_SECONDS = 10.0
#: The least ``idle_exit``: the process that started a server needs time to begin to use it.
_LEAST_SECONDS = 1.0
#: The least ``idle_exit`` while there are sessions: an idle collector does something every ten seconds.
_SESSION_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Start a server, and stay until it has ended."""
    if os.fork():
        os._exit(0)  # so that the starter need not wait for the keeper
    told = socket.socket(fileno=int(sys.argv[1]))
    orders = Orders(**json.loads(told.recv(launch.MAX_ORDERS)))
    place = Place(Path(orders.base))
    server = _start(orders, place)
    os.close(orders.lock)
    with contextlib.suppress(OSError):
        told.send(str(server.pid).encode())
    wanted = told.recv(1)
    told.close()
    if not wanted:  # the process that started it has given up, or died
        server.send_signal(signal.SIGINT)
        server.wait()
        return
    fields = {**orders.record, "addresses": tuple(orders.record["addresses"])}  # type: ignore[arg-type]
    record = owner.Owner(**fields)  # type: ignore[arg-type]
    Keeper(place, record, server, orders.listen, orders.idle_exit).run()


def _start(orders: Orders, place: Place) -> subprocess.Popen[bytes]:
    import ctypes
    import subprocess

    prctl = ctypes.CDLL(None).prctl
    keeper = os.getpid()

    def end_with_keeper() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)  # a fast shutdown
        if os.getppid() != keeper:
            os._exit(1)

    return subprocess.Popen(
        orders.command, cwd=place.data, stdin=subprocess.DEVNULL, env=postgres_binaries.ENVIRONMENT,
        start_new_session=True, pass_fds=(orders.lock,), preexec_fn=end_with_keeper,  # noqa: PLW1509 (no thread here)
    )  # fmt: skip


def _say(what: str) -> None:
    with contextlib.suppress(OSError):  # the disk may be full
        os.write(2, f"keeper: {what}\n".encode(errors="replace"))


class Keeper:
    """Looks after a server until that has ended."""

    def __init__(
        self, place: Place, record: Owner, server: subprocess.Popen[bytes], listen: str, idle_exit: float
    ) -> None:
        self._place = place
        self._record = record
        self._server = server
        self._listen = listen
        self._idle_exit = max(idle_exit, _LEAST_SECONDS)
        self._key = os.urandom(16).hex()
        self._identity: encryption.Identity | None = None
        self._gate = gate.Gate(str(Path(record.socket_dir, cluster_folder.SOCKET)), self._key)
        self._sessions = _Sessions(server.pid)
        self._used = time.monotonic()
        self._mark = launch.use_mark(place)
        self._homeless = 0

    def run(self) -> None:
        """Look after the server until it has ended. Failures are logged, and the next turn tries again."""
        pause = min(_LOOK_SECONDS, self._idle_exit / 4)
        due = 0.0
        while self._server.poll() is None:
            try:
                self._gate.turn(min(pause, 0.5))
                if time.monotonic() >= due:
                    due = time.monotonic() + pause
                    self._look()
            except Exception as error:  # noqa: BLE001 (the server would end with this)
                _say(f"{type(error).__name__}: {error}")
                time.sleep(pause)
        self._gate.close()
        asking.withdraw(self._place, self._record)

    def _look(self) -> None:
        postmaster.cut_log(self._place)
        if self._is_homeless():
            _say("the folder is gone, or another server's: this one ends")
            postmaster.shut_down(self._place, self._server.pid, _END_SECONDS)
        elif self._is_idle():
            self._end()
        else:
            self._open()

    def _is_homeless(self) -> bool:
        """Whether the owner file was missing, or another's, at the last looks. Read errors don't count."""
        try:
            record = owner.read(self._place.owner_file)
        except (OSError, errors.HpctrackError):
            return False
        mine = record is not None and record.token == self._record.token
        self._homeless = 0 if mine else self._homeless + 1
        return self._homeless >= _HOMELESS_LOOKS

    def _is_idle(self) -> bool:
        mark, now = launch.use_mark(self._place), time.monotonic()
        if mark != self._mark or self._sessions.did_something():
            self._mark, self._used = mark, now
        patience = max(self._idle_exit, _SESSION_SECONDS) if self._sessions.exist() else self._idle_exit
        return now - self._used >= patience

    def _end(self) -> None:
        """End the server as a command would, unless one uses it after all."""
        from hpctrack.settings import Settings
        from hpctrack.store.embedded import server

        here = Host(self._record.host, self._record.boot_id)
        settings = Settings(data_dir=str(self._place.base.parent))
        if server.stop(settings, here, unless=lambda: not self._is_idle()):
            _say("nobody has used this server for a while: it has ended")

    def _open(self) -> None:
        """Open the door to hosts that have asked; publish where it is, again if that file was lost."""
        ways = asking.asked(self._place)
        wanted = listening.bound(self._listen) if self._listen else tuple(way.to for way in ways)
        guests = tuple(sorted({way.source for way in ways}))
        identity, problem = self._identify() if guests and wanted else (None, "")
        port, addresses = self._gate.open(wanted, guests, identity and identity.context)
        if guests:
            told = (
                listening.addresses(self._record.host, self._listen) if port and self._listen else addresses
            )
            reach = Reach(self._record.token, port, told, guests, self._key, problem)
            if not asking.is_published(self._place, self._record, reach):
                asking.publish(self._place, reach, identity.certificate if identity else b"")

    def _identify(self) -> tuple[encryption.Identity | None, str]:
        """Return key and certificate, made on first use; or None and the reason why they can't be made."""
        try:
            self._identity = self._identity or encryption.Identity.make()
        except errors.MissingExtra as error:
            return None, str(error)
        return self._identity, ""


class _Sessions:
    """The sessions of a server: its processes, whose titles tell what they do (ps(1))."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        #: By process id, how often the process has waited (`postmaster.switches`).
        self._switches: dict[int, str] = {}

    def exist(self) -> bool:
        """Whether there was a session at the last look."""
        return bool(self._switches)

    def did_something(self) -> bool:
        """Whether a session is at work, or was since the last look."""
        switches = {}
        busy = False
        for pid in postmaster.children(self._pid):
            title, woken = postmaster.title(pid), postmaster.switches(pid)
            if " [local] " in title:
                switches[pid] = woken
                busy = busy or not title.endswith(" idle") or self._switches.get(pid) != woken
        self._switches = switches
        return busy
