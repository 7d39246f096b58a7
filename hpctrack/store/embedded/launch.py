"""How a server of the personal mode is started: by a keeper of its own, which gets its orders here."""

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
    """What a keeper is told."""

    base: str
    #: The owner's record.
    record: dict[str, object]
    #: What starts the server.
    command: list[str]
    #: Descriptor of the folder lock, for the server.
    lock: int
    listen: str
    idle_exit: float


class Starting:
    """A server that is being started. It ends with the process that starts it, until `keep`."""

    def __init__(self, orders: Orders, log: BinaryIO) -> None:
        """Start the keeper, which starts the server; both hold nothing of ours but the folder lock."""
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
            with contextlib.suppress(OSError):  # it has died
                self._told.send(json.dumps(orders._asdict()).encode())
                said = self._told.recv(64)
            keeper.wait()  # it has forked
        except BaseException:
            self.give_up()
            raise
        self.pid = int(said) if said else None

    def keep(self) -> None:
        """Let the server live on without us."""
        with contextlib.suppress(OSError):
            self._told.send(b"k")
        self._told.close()

    def give_up(self) -> None:
        """Tell the keeper to end the server that it has started."""
        self._told.close()


def note_use(place: Place) -> None:
    """Say that somebody uses the server now: it is not ended for a while."""
    with contextlib.suppress(OSError):
        os.utime(place.owner_file)


def use_mark(place: Place) -> int:
    """Return what changes whenever that is said."""
    try:
        return place.owner_file.stat().st_mtime_ns
    except OSError:
        return 0
