"""The journals that a relay looks after: the run's own, here and in the spool, and what was left behind.

What is removed, when and on which evidence, says `hpctrack.stream.disk.removal`.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from hpctrack import files
from hpctrack.stream.disk import appending, folders, leftovers, marks, mirror, removal, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hpctrack.stream.node.options import Config


class Journals:
    """All journals of a run that its relay knows of, and where their bytes are."""

    def __init__(
        self, config: Config, identity: folders.Identity, watermark: Callable[[tail.Tail], int]
    ) -> None:
        """``watermark`` says up to which offset a journal is acknowledged."""
        self._run_dir, self._spool_dir = config.run_dir, config.spool_dir
        self._several_nodes = config.several_nodes
        self._identity = identity
        self._watermark = watermark
        self._watches = [tail.Watch(config.run_dir), tail.Watch(config.spool_dir)]
        place = config.spool_dir if config.shared else config.run_dir
        self._name = appending.Name(place, config.base_job_id, config.task)
        self._tails: dict[bytes, tail.Tail] = {}
        self._leftovers: list[leftovers.Leftover] = []
        self._mirror = mirror.Mirror(config.spool_dir, identity)
        self._lock = folders.Lock(config.run_dir)
        #: How often it turned out while copying that somebody had cut a journal.
        self.cuts = 0
        #: How often somebody has taken the run folder away.
        self.removed = 0

    def open(self) -> None:
        """Say whose they are, and that somebody works here. Raises OSError."""
        if not os.path.isdir(self._run_dir):
            self.removed += 1
            files.make_folder(self._run_dir, within=os.path.dirname(self._run_dir))
            self._lock = folders.Lock(self._run_dir)
        self._lock.take()
        folders.write_identity(self._run_dir, self._identity)

    def stay(self) -> int:
        """Make the run folder anew where a script, or a cleaner, has taken it away; return how often it has.

        Raises OSError.
        """
        if not os.path.isdir(self._run_dir):
            self.open()
        return self.removed

    def note_script(self, pid: int, start: str) -> None:
        """Write down which process may go on writing here though supervisor and relay are gone."""
        self._identity = self._mirror.identity = self._identity._replace(script=pid, script_start=start)
        folders.write_identity(self._run_dir, self._identity)

    def identify(self, uuid: str) -> Iterator[tail.Tail]:
        """Take in what the submission record says; yield the journals that earlier relays of the run left."""
        identity = self._identity = self._mirror.identity = self._identity._replace(uuid=uuid)
        with contextlib.suppress(OSError):
            folders.write_identity(self._run_dir, identity)
        for path, in_spool in ((self._run_dir, False), (self._spool_dir, True)):
            with contextlib.suppress(OSError):  # a place that can't be looked through is left to others
                self._leftovers += leftovers.of_run(path, identity, in_spool=in_spool)
        for one in leftovers.tails_of(self._leftovers):
            if self._tails.setdefault(one.name, one) is one:
                yield one

    def new(self) -> Iterator[tail.Tail]:
        """Yield journals that are there for the first time."""
        self._take_in()
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

    def _take_in(self, *, known: bool = False) -> None:
        """Take in what a shell has put in the journal's place, where need be into a folder made anew."""
        with contextlib.suppress(OSError):  # it is tried again at the next look
            try:
                self._name.take_in(known=known)
            except FileNotFoundError:
                if self._name.folder == self._spool_dir:
                    folders.make(self._spool_dir)
                else:
                    self.open()
                self._name.take_in(known=known)

    def _renamed(self, file: tail.File) -> tail.File:
        """Return a file under the next name that no journal has."""
        taken = {*self._tails, *(one.name for one in self)}
        while file.journal in taken:
            file = file._replace(journal=marks.next_name(file.journal))
        return file

    def __iter__(self) -> Iterator[tail.Tail]:
        """Return all of them."""
        return iter(self._tails.values())

    def here(self) -> list[tail.Tail]:
        """Return those that stand in the run folder alone."""
        return [one for one in self if os.path.dirname(one.files[0].path) == self._run_dir]

    @property
    def trouble(self) -> OSError | None:
        """Why some of them can't be seen at this moment; None if all can."""
        troubles = [watch.trouble for watch in self._watches] + [one.trouble for one in self]
        return next(filter(None, troubles), None)

    def look(self) -> None:
        """Look how far they have grown."""
        for one in self:
            one.look()

    def end_lines(self) -> None:
        """The script has ended: no line that this node wrote will be completed any more."""
        self._take_in(known=True)
        places = (self._run_dir,) if self._several_nodes else (self._run_dir, self._spool_dir)
        for one in self:
            if os.path.dirname(one.files[0].path) in places:
                one.close_line()

    def lost(self) -> dict[str, int]:
        """Return how many lines could not be written, by journal."""
        for one in self:
            one.read_header()
        return {one.name.hex(): one.lost for one in self if one.lost}

    def copy(self, limit: int, sent: Callable[[tail.Tail], bool]) -> int:
        """Copy up to about ``limit`` bytes to the spool of what is not acknowledged; return how many.

        A journal that can't be read now waits. One that somebody has cut is another one from now on, which
        whoever sends it sees to: ``sent`` says of which that is so. Raises OSError if the spool can't be
        written.
        """
        copied = 0
        for one in self.here():
            if not self._mirror.is_true(one) or one.shrunk:
                self.cuts += 1
                if sent(one):
                    continue
                one.begin_anew()
            waits = one.trouble is None and self._mirror.end(one) < one.end and not one.is_blank
            if copied < limit and waits:
                copied += self._mirror.copy(one, self._watermark(one), limit - copied)
        return copied

    def keep_house(self, *, in_spool_for_good: bool) -> None:
        """Free the space of what is acknowledged; ``in_spool_for_good``: also of what is in the spool."""
        for one in self:
            watermark = self._watermark(one)
            one.give_back(max(watermark, self._mirror.settled(one)) if in_spool_for_good else watermark)
            self._mirror.forget(one, watermark)

    def refresh(self) -> None:
        """Give a sign of life. Raises OSError."""
        if not self._lock.taken:
            self._lock.take()  # somebody delivered from here before there was a relay
        if self._lock.taken:
            self._lock.refresh()
        self._mirror.refresh()

    def clear(self, safe: Callable[[tail.Tail], int]) -> None:
        """Delete what earlier relays have left, as far as it is delivered.

        ``safe`` returns up to which offset of a journal PostgreSQL has everything.
        """
        if not self._leftovers:
            return
        prove = self._prover(safe)
        for one in list(self._leftovers):
            with contextlib.suppress(OSError):
                if one.clear(prove):
                    self._leftovers.remove(one)

    def _prover(self, safe: Callable[[tail.Tail], int]) -> Callable[[tail.File], removal.Proof | None]:
        holders = {file.path: one for one in self for file in one.files}  # of two the one that came later

        def prove(file: tail.File) -> removal.Proof | None:
            one = holders.get(file.path)
            if one is None:
                return None
            try:
                return removal.Proof(one.descriptor(file), file.base, safe(one))
            except OSError:
                return None

        return prove

    def close(self, safe: Callable[[tail.Tail], int]) -> None:
        """Delete what nobody needs any more, and leave the rest to later relays and ``hpctrack sync``."""
        self.look()
        self.clear(safe)
        for leftover in self._leftovers:
            leftover.release()
        for one in self:
            self._mirror.forget(one, safe(one))
        identity = self._identity
        ignored = {identity.pid}
        over = removal.nobody_writes(self._run_dir, identity, in_spool=False, ignored=ignored)
        withdrawn = over or removal.nobody_writes(
            self._run_dir, identity, in_spool=False, ignored=ignored, but_strangers=True
        )
        if withdrawn:
            removal.withdraw(self._run_dir, in_spool=False)
            removal.withdraw(self._spool_dir, in_spool=True)
        kept = {one.name: self._kept(one) for one in self.here()}
        self._mirror.close(over=over and not self._several_nodes, prove=self._prover(safe))
        prove = self._prover(lambda one: max(safe(one), kept.get(one.name, 0)))
        if not removal.clear(self._run_dir, removal.Keeping(in_spool=False, over=over), prove):
            folders.write_identity(self._run_dir, identity._replace(closed=over, withdrawn=withdrawn))
        self._lock.release()

    def _kept(self, one: tail.Tail) -> int:
        """Return up to which offset the spool has a journal, or that it holds nothing to keep."""
        if one.is_blank:
            return one.end
        with contextlib.suppress(OSError):
            return self._mirror.synced(one) if self._mirror.is_true(one) else 0
        return 0
