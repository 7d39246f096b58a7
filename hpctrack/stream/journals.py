"""The journals that a relay looks after: the run's own, here and in the spool, and what was left behind."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from hpctrack.stream import folders, journal_lines, leftovers, mirror, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hpctrack.stream.options import Config


class Journals:
    """All journals of a run that its relay knows of, and where their bytes are."""

    def __init__(
        self, config: Config, identity: folders.Identity, watermark: Callable[[tail.Tail], int]
    ) -> None:
        """``watermark`` says up to which offset a journal is acknowledged."""
        self._run_dir, self._spool_dir = config.run_dir, config.spool_dir
        self._identity = identity
        self._watermark = watermark
        self._watches = [tail.Watch(config.run_dir), tail.Watch(config.spool_dir)]
        self._tails: dict[bytes, tail.Tail] = {}
        self._leftovers: list[leftovers.Leftover] = []
        self._mirror = mirror.Mirror(config.spool_dir, identity)
        self._lock = folders.Lock(config.run_dir)

    def open(self) -> None:
        """Say whose they are, and that somebody works here. Raises OSError."""
        self._lock.take()
        folders.write_identity(self._run_dir, self._identity)

    def identify(self, identity: folders.Identity) -> Iterator[tail.Tail]:
        """Take in what the submission record says; yield the journals that earlier relays of the run left."""
        self._identity = self._mirror.identity = identity
        with contextlib.suppress(OSError):
            folders.write_identity(self._run_dir, identity)
        for path, in_spool in ((self._run_dir, False), (self._spool_dir, True)):
            self._leftovers += leftovers.of_run(path, identity, in_spool=in_spool)
        for one in leftovers.tails_of(self._leftovers):
            if self._tails.setdefault(one.name, one) is one:
                yield one

    def new(self) -> Iterator[tail.Tail]:
        """Yield journals that are there for the first time."""
        for watch in self._watches:
            for file in watch.new(time.time_ns()):
                known = self._tails.get(file.journal)
                if known is not None and [one.path for one in known.files] == [file.path]:
                    file = self._renamed(file)  # noqa: PLW2901 (another file has taken its place)
                elif not file.whole or known is not None:
                    continue
                if os.path.dirname(file.path) == self._spool_dir:
                    with contextlib.suppress(OSError):
                        self._mirror.claim()  # a process on another node made the folder, and nothing else
                one = self._tails[file.journal] = tail.Tail([file])
                yield one

    def _renamed(self, file: tail.File) -> tail.File:
        """Return a file under the next name that no journal has."""
        taken = {*self._tails, *(one.name for one in self)}
        while file.journal in taken:
            file = file._replace(journal=tail.next_name(file.journal))
        return file

    def __iter__(self) -> Iterator[tail.Tail]:
        """Return all of them."""
        return iter(self._tails.values())

    def here(self) -> list[tail.Tail]:
        """Return those that stand in the run folder alone."""
        return [one for one in self if os.path.dirname(one.files[0].path) == self._run_dir]

    def look(self) -> None:
        """Look how far they have grown."""
        for one in self:
            one.look()

    def end_lines(self) -> None:
        """The script has ended: no line here will be completed any more."""
        for one in self.here():
            with contextlib.suppress(OSError):  # the disk is full: its writer has counted the line
                one.close_line()

    def lost(self) -> dict[str, int]:
        """Return how many lines could not be written, by journal."""
        for one in self:
            one.read_header()
        return {one.name.hex(): one.lost for one in self if one.lost}

    def copy(self, limit: int) -> int:
        """Copy up to about ``limit`` bytes to the spool of what is not acknowledged; return how many.

        Raises OSError if the spool can't be written.
        """
        copied = 0
        for one in self.here():
            if copied < limit and self._mirror.end(one) < one.end and not _is_empty(one):
                copied += self._mirror.copy(one, self._watermark(one), limit - copied)
        return copied

    def keep_house(self, *, in_spool_for_good: bool) -> None:
        """Free the space of what is acknowledged; ``in_spool_for_good``: also of what is in the spool."""
        for one in self:
            watermark = self._watermark(one)
            one.give_back(max(watermark, self._mirror.end(one)) if in_spool_for_good else watermark)
            self._mirror.forget(one, watermark)

    def refresh(self) -> None:
        """Give a sign of life. Raises OSError."""
        self._lock.refresh()
        self._mirror.refresh()

    def clear(self, is_delivered: Callable[[tail.Tail], bool]) -> None:
        """Delete the folders of earlier relays that are delivered."""
        for one in list(self._leftovers):
            if one.clear(lambda file: self._is_delivered(file, is_delivered)):
                self._leftovers.remove(one)

    def _is_delivered(self, file: tail.File, is_delivered: Callable[[tail.Tail], bool]) -> bool:
        one = self._tails.get(file.journal)
        return one is not None and any(file.path == known.path for known in one.files) and is_delivered(one)

    def close(self, is_delivered: Callable[[tail.Tail], bool]) -> None:
        """Delete what nobody needs any more, and leave the rest to later relays and ``hpctrack sync``."""
        self.look()
        self.clear(is_delivered)
        for leftover in self._leftovers:
            leftover.release()
        needed = {file.path for one in self if not is_delivered(one) for file in one.files}
        for one in self:
            for file in one.files:
                in_spool = file.whole and os.path.dirname(file.path) == self._spool_dir
                if in_spool and file.path not in needed:
                    with contextlib.suppress(OSError):
                        os.unlink(file.path)
        kept = all(
            is_delivered(one) or self._mirror.end(one) >= one.end or _is_empty(one) for one in self.here()
        )
        self.keep_house(in_spool_for_good=False)
        self._mirror.close()
        if kept:
            folders.remove(self._run_dir)
        else:
            folders.write_identity(self._run_dir, self._identity._replace(closed=True))
        self._lock.release()


def _is_empty(one: tail.Tail) -> bool:
    """Whether a journal holds nothing that anybody would miss."""
    return one.end <= journal_lines.HEADER_SIZE and not one.lost
