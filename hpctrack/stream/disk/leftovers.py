"""Folders of journals whose relay has ended: run folders of this host, and folders in the spool."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from hpctrack.stream.disk import appending, folders, removal, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Leftover:
    """A folder of journals whose relay has ended."""

    def __init__(self, path: str, identity: folders.Identity, *, in_spool: bool, ended: bool = False) -> None:
        """``ended``: according to Slurm or PostgreSQL this attempt is over, on all nodes.

        Raises OSError if the folder can't be listed.
        """
        self.path = path
        self.identity = identity
        self.in_spool = in_spool
        self._ended = ended
        self._lock = folders.Lock(path)
        self.files = tail.find(path)

    def take(self) -> bool:
        """Take its lock; False if another process works in it. Raises OSError if it can't be written."""
        if not self._lock.take():
            return False
        self.identity = folders.read_identity(self.path) or self.identity
        if not self.in_spool and not self.identity.withdrawn:
            with contextlib.suppress(OSError):
                appending.Name(self.path, self.identity.base_job_id, self.identity.task).take_in(known=True)
        self.files = tail.find(self.path)
        return True

    @property
    def is_over(self) -> bool:
        """Whether the processes that wrote here have ended."""
        return removal.nobody_writes(self.path, self.identity, in_spool=self.in_spool, ended=self._ended)

    def clear(self, prove: Callable[[tail.File], removal.Proof | None]) -> bool:
        """Delete files that are proven to be delivered; return whether the folder is gone. Only after `take`.

        Raises OSError if it can't be listed.
        """
        now, over = self._lock.refresh(), self.is_over
        if not (over or self.in_spool or self.identity.withdrawn) and self._is_left_to_strangers():
            removal.withdraw(self.path, in_spool=False)
        return removal.clear(self.path, removal.Keeping(self.in_spool, over, now), prove)

    def _is_left_to_strangers(self) -> bool:
        return removal.nobody_writes(
            self.path, self.identity, in_spool=False, ended=self._ended, but_strangers=True
        )

    def refresh(self) -> None:
        """Refresh the lock if we hold it; to be called within each minute."""
        if self._lock.taken:
            self._lock.refresh()

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


def of_run(path: str, run: folders.Identity, *, in_spool: bool) -> Iterator[Leftover]:
    """Yield the folders beside a run's own that hold journals of its earlier attempts, each taken."""
    parent, own = os.path.split(path)
    label = own.rpartition(".")[0].rpartition(".")[0]  # without attempt and random digits
    for other in folders.others(parent, path):
        if not os.path.basename(other).startswith(label + "."):
            continue
        identity = folders.read_identity(other)
        if identity is None or not _may_be(identity, run):
            continue
        with contextlib.suppress(OSError):
            # Slurm starts an attempt only when the one before has ended on all nodes.
            ended = identity.attempt < run.attempt
            leftover = Leftover(other, identity, in_spool=in_spool, ended=ended)
            if leftover.take():
                yield leftover


def _may_be(identity: folders.Identity, run: folders.Identity) -> bool:
    """Whether an identity may be a run's: its UUID is null if the relay had not found the record."""
    return identity.uuid in (None, run.uuid) and identity.task == run.task


def tails_of(leftovers: Iterable[Leftover]) -> list[tail.Tail]:
    """Return one tail for each journal, also if several folders hold parts of it."""
    holders: dict[bytes, list[tuple[Leftover, tail.File]]] = {}
    cut = set()
    for leftover in leftovers:
        for file in leftover.files:
            name, was_cut = _name(file)
            holders.setdefault(name, []).append((leftover, file))
            cut |= {name} if was_cut else set()
    over = {id(leftover): leftover.is_over for held in holders.values() for leftover, _ in held}
    tails = []
    for name, held in holders.items():
        journal = tail.Tail((file for _, file in held), name)
        journal.was_cut = name in cut
        if journal.files[0].base:  # without its first line
            journal.attempt = held[0][0].identity.attempt
        if all(over[id(leftover)] for leftover, _ in held):
            journal.close_line()
        tails.append(journal)
    return tails


def _name(file: tail.File) -> tuple[bytes, bool]:
    """Return the name of the journal in a file, and whether it was cut since it was last read."""
    if not file.whole:
        return file.journal, False
    journal = tail.Tail([file])
    journal.close()
    return journal.name, journal.was_cut
