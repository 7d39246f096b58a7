"""The journals of a relay's run: in the run folder, in the spool, and in folders of earlier attempts.

`hpctrack.stream.disk.removal` says which files are removed, when, and on which evidence.
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
    """All journals of a run that its relay knows of, and up to where each is copied."""

    def __init__(
        self, config: Config, identity: folders.Identity, watermark: Callable[[tail.Tail], int]
    ) -> None:
        """``watermark`` returns the offset up to which a journal is acknowledged."""
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
        #: How often a journal proved to be cut while it was copied.
        self.cuts = 0
        #: How often somebody removed the run folder.
        self.removed = 0

    def open(self) -> None:
        """Lock the run folder and write its identity; make the folder if it is gone. Raises OSError."""
        if not os.path.isdir(self._run_dir):
            self.removed += 1
            files.make_folder(self._run_dir, within=os.path.dirname(self._run_dir))
            self._lock = folders.Lock(self._run_dir)
        self._lock.take()
        folders.write_identity(self._run_dir, self._identity)

    def stay(self) -> int:
        """Make the run folder anew if a script or a cleaner removed it; return how often that has happened.

        Raises OSError.
        """
        if not os.path.isdir(self._run_dir):
            self.open()
        return self.removed

    def note_script(self, pid: int, start: str) -> None:
        """Write down the script's process, which may outlive supervisor and relay. Raises OSError."""
        self._identity = self._mirror.identity = self._identity._replace(script=pid, script_start=start)
        folders.write_identity(self._run_dir, self._identity)

    def identify(self, uuid: str) -> Iterator[tail.Tail]:
        """Note the UUID of the submission record; yield the journals that the run's earlier relays left."""
        identity = self._identity = self._mirror.identity = self._identity._replace(uuid=uuid)
        with contextlib.suppress(OSError):
            folders.write_identity(self._run_dir, identity)
        for path, in_spool in ((self._run_dir, False), (self._spool_dir, True)):
            with contextlib.suppress(OSError):  # a folder that can't be listed is left to later relays
                self._leftovers += leftovers.of_run(path, identity, in_spool=in_spool)
        for journal in leftovers.tails_of(self._leftovers):
            if self._tails.setdefault(journal.name, journal) is journal:
                yield journal

    def new(self) -> Iterator[tail.Tail]:
        """Yield journals that are new since the last call."""
        self._take_in()
        for watch in self._watches:
            for file in watch.new(time.time_ns()):
                known = self._tails.get(file.journal)
                if known is not None and [held.path for held in known.files] == [file.path]:
                    file = self._renamed(file)  # noqa: PLW2901 (another file has taken its place)
                elif not file.whole or known is not None:
                    continue
                if os.path.dirname(file.path) == self._spool_dir:
                    with contextlib.suppress(OSError):
                        self._mirror.claim()  # a process on another node made the folder, and nothing else
                journal = self._tails[file.journal] = tail.Tail([file])
                yield journal

    def _take_in(self, *, known: bool = False) -> None:
        """Take in a file that a shell put in the journal's place; make the folder anew if it is gone."""
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
        taken = {*self._tails, *(journal.name for journal in self)}
        while file.journal in taken:
            file = file._replace(journal=marks.next_name(file.journal))
        return file

    def __iter__(self) -> Iterator[tail.Tail]:
        """Iterate over all journals."""
        return iter(self._tails.values())

    def here(self) -> list[tail.Tail]:
        """Return the journals whose files are in the run folder."""
        return [journal for journal in self if os.path.dirname(journal.files[0].path) == self._run_dir]

    @property
    def trouble(self) -> OSError | None:
        """Why some journals can't be seen now; None if all can."""
        troubles = [watch.trouble for watch in self._watches] + [journal.trouble for journal in self]
        return next(filter(None, troubles), None)

    def look(self) -> None:
        """Look how far they have grown."""
        for journal in self:
            journal.look()

    def end_lines(self) -> None:
        """Void incomplete last lines of this node's journals: the script has ended."""
        self._take_in(known=True)
        places = (self._run_dir,) if self._several_nodes else (self._run_dir, self._spool_dir)
        for journal in self:
            if os.path.dirname(journal.files[0].path) in places:
                journal.close_line()

    def lost(self) -> dict[str, int]:
        """Return how many lines could not be written, by journal."""
        for journal in self:
            journal.read_header()
        return {journal.name.hex(): journal.lost for journal in self if journal.lost}

    def copy(self, limit: int, sent: Callable[[tail.Tail], bool]) -> int:
        """Copy up to about ``limit`` bytes that are not acknowledged to the spool; return how many.

        A journal that can't be read now waits. A journal that was cut continues as a new one: the outbox does
        that for the journals that it sends (``sent`` tells), this method for all others. Raises OSError if
        the spool can't be written.
        """
        copied = 0
        for journal in self.here():
            if not self._mirror.is_true(journal) or journal.shrunk:
                self.cuts += 1
                if sent(journal):
                    continue
                journal.begin_anew()
            waits = (
                journal.trouble is None and self._mirror.end(journal) < journal.end and not journal.is_blank
            )
            if copied < limit and waits:
                copied += self._mirror.copy(journal, self._watermark(journal), limit - copied)
        return copied

    def keep_house(self, *, in_spool_for_good: bool) -> None:
        """Free the space of acknowledged bytes; with ``in_spool_for_good`` also of bytes in the spool."""
        for journal in self:
            watermark = self._watermark(journal)
            journal.give_back(
                max(watermark, self._mirror.settled(journal)) if in_spool_for_good else watermark
            )
            self._mirror.forget(journal, watermark)

    def refresh(self) -> None:
        """Refresh the locks, to be called within each minute. Raises OSError."""
        if not self._lock.taken:
            self._lock.take()  # a delivery had it when the relay started
        if self._lock.taken:
            self._lock.refresh()
        self._mirror.refresh()

    def clear(self, safe: Callable[[tail.Tail], int]) -> None:
        """Delete the files of earlier relays that are delivered.

        ``safe`` returns the offset up to which PostgreSQL has a journal.
        """
        if not self._leftovers:
            return
        prove = self._prover(safe)
        for leftover in list(self._leftovers):
            with contextlib.suppress(OSError):
                if leftover.clear(prove):
                    self._leftovers.remove(leftover)

    def _prover(self, safe: Callable[[tail.Tail], int]) -> Callable[[tail.File], removal.Proof | None]:
        # If two journals hold a file, the later one counts.
        holders = {file.path: journal for journal in self for file in journal.files}

        def prove(file: tail.File) -> removal.Proof | None:
            journal = holders.get(file.path)
            if journal is None:
                return None
            try:
                return removal.Proof(journal.descriptor(file), file.base, safe(journal))
            except OSError:
                return None

        return prove

    def close(self, safe: Callable[[tail.Tail], int]) -> None:
        """Delete all files with a proof; later relays and ``hpctrack sync`` do the rest. Raises OSError."""
        self.look()
        self.clear(safe)
        for leftover in self._leftovers:
            leftover.release()
        for journal in self:
            self._mirror.forget(journal, safe(journal))
        identity = self._identity
        ignored = {identity.pid}
        over = removal.nobody_writes(self._run_dir, identity, in_spool=False, ignored=ignored)
        withdrawn = over or removal.nobody_writes(
            self._run_dir, identity, in_spool=False, ignored=ignored, but_strangers=True
        )
        if withdrawn:
            removal.withdraw(self._run_dir, in_spool=False)
            removal.withdraw(self._spool_dir, in_spool=True)
        kept = {journal.name: self._kept(journal) for journal in self.here()}
        self._mirror.close(over=over and not self._several_nodes, prove=self._prover(safe))
        prove = self._prover(lambda journal: max(safe(journal), kept.get(journal.name, 0)))
        if not removal.clear(self._run_dir, removal.Keeping(in_spool=False, over=over), prove):
            folders.write_identity(self._run_dir, identity._replace(closed=over, withdrawn=withdrawn))
        self._lock.release()

    def _kept(self, journal: tail.Tail) -> int:
        """Return the offset up to which the spool has a journal; its end if it is blank."""
        if journal.is_blank:
            return journal.end
        with contextlib.suppress(OSError):
            return self._mirror.synced(journal) if self._mirror.is_true(journal) else 0
        return 0
