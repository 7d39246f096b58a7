"""Folders of journals that their relay has left: run folders of this host, and folders in the spool."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from hpctrack.stream import folders, mirror, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Leftover:
    """One such folder."""

    def __init__(self, path: str, identity: folders.Identity, *, in_spool: bool) -> None:
        self.path = path
        self.identity = identity
        self._in_spool = in_spool
        self._lock = folders.Lock(path)
        self.files = tail.find(path)

    def take(self) -> bool:
        """Make it ours; False if somebody works in it. Raises OSError if it can't be written."""
        if not self._lock.take():
            return False
        self.identity = folders.read_identity(self.path) or self.identity
        self.files = tail.find(self.path)
        return True

    @property
    def is_over(self) -> bool:
        """Whether the processes that wrote here have ended."""
        if self._in_spool:
            return self.identity.closed
        return self.identity.closed or not folders.supervisor_lives(self.identity)

    def clear(self, is_delivered: Callable[[tail.File], bool]) -> bool:
        """Delete what is delivered and at rest; whether the folder is gone. Only after `take`."""
        now = self._lock.refresh()
        over = self.is_over
        if not self._in_spool:
            # The script may append to its journals by their names: all of them go, or none.
            if not over or not all(map(is_delivered, tail.find(self.path))):
                return False
            folders.remove(self.path)
            return True
        for file in tail.find(self.path):
            with contextlib.suppress(FileNotFoundError):
                if is_delivered(file) and (over or not file.whole or folders.at_rest(file.path, now)):
                    os.unlink(file.path)
        return mirror.remove_if_empty(self.path)

    def refresh(self) -> None:
        """Give a sign of life, to be repeated within a minute, if the folder is ours."""
        if self._lock.taken:
            self._lock.refresh()

    def release(self) -> None:
        """Give the folder back."""
        self._lock.release()


def of_run(path: str, run: folders.Identity, *, in_spool: bool) -> Iterator[Leftover]:
    """Yield the folders beside a run's own that hold journals of earlier attempts, each taken."""
    parent, own = os.path.split(path)
    label = own.rpartition(".")[0].rpartition(".")[0]  # without attempt and random digits
    for other in folders.others(parent, path):
        if not os.path.basename(other).startswith(label + "."):
            continue
        identity = folders.read_identity(other)
        if identity is None or identity.uuid not in (None, run.uuid) or identity.task != run.task:
            continue
        leftover = Leftover(other, identity, in_spool=in_spool)
        with contextlib.suppress(OSError):
            if leftover.take():
                yield leftover


def tails_of(found: Iterable[Leftover]) -> list[tail.Tail]:
    """Return one tail for each journal, whichever folders hold it."""
    holders: dict[bytes, list[Leftover]] = {}
    for leftover in found:
        for name in {file.journal for file in leftover.files}:
            holders.setdefault(name, []).append(leftover)
    tails = []
    for name, leftovers in holders.items():
        one = tail.Tail(file for leftover in leftovers for file in leftover.files if file.journal == name)
        if one.files[0].base:  # without its first line
            one.attempt = leftovers[0].identity.attempt
        if all(leftover.is_over for leftover in leftovers):
            with contextlib.suppress(OSError):
                one.close_line()
        tails.append(one)
    return tails
