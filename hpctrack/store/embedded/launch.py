"""Starts the keeper of a server, which starts the server, and tells it its orders."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from hpctrack.process import children

if TYPE_CHECKING:
    from hpctrack.store.embedded.cluster_folder import Place

MAX_ORDERS = 1 << 16


class Orders(NamedTuple):
    """What a keeper needs to know. A command sends it as JSON."""

    base: str
    #: The owner's record.
    record: dict[str, object]
    #: Command line of the postmaster.
    command: list[str]
    #: Descriptor of the folder lock, for the server.
    lock: int
    listen: str
    idle_exit: float


class Starting:
    """A server that is being started. Until `keep` is called it ends if this process ends."""

    def __init__(self, orders: Orders, log: BinaryIO) -> None:
        """Start the keeper, which starts the server. They inherit the folder lock and ``log`` only."""
        import subprocess

        self._told, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            keeper = subprocess.Popen(
                children.argv("hpctrack.store.embedded.keeper:main", str(told.fileno())), cwd="/",
                env=children.environ(children.without_run(os.environ)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(orders.lock, told.fileno()),
            )  # fmt: skip
            told.close()
            said = b""
            with contextlib.suppress(OSError):  # the keeper has died
                self._told.send(json.dumps(orders._asdict()).encode())
                said = self._told.recv(64)
            keeper.wait()  # the keeper forks: this is its parent half
        except BaseException:
            self.give_up()
            raise
        self.pid = int(said) if said else None

    def keep(self) -> None:
        """Let the server go on after this process ends."""
        with contextlib.suppress(OSError):
            self._told.send(b"k")
        self._told.close()

    def give_up(self) -> None:
        """Have the keeper end the server."""
        self._told.close()


def note_use(place: Place) -> None:
    """Note that the server is used now: its keeper does not end it for `idle_exit` seconds."""
    with contextlib.suppress(OSError):
        os.utime(place.owner_file)


def use_mark(place: Place) -> int:
    """Return a number that changes with each `note_use`; 0 without an owner file."""
    try:
        return place.owner_file.stat().st_mtime_ns
    except OSError:
        return 0
