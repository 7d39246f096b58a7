"""What has arrived of each journal, put in order: pure, in bounded memory. See docs/wire.md, "What the
collector answers".

The committer calls `unknown` and `learn` with the journals of a batch, `arrive` with each datagram, `learn`
again after the commit, and `ready` for what was held and now continues its journal.

Datagrams come in any order, twice, or in parts. A range that continues its journal joins the next batch; a
range beyond a gap is held until the gap closes; parts are held until they are complete. Everything here may
be forgotten at any time: the relay keeps what is not committed.

What is held is bounded by journal, by run, by user and in all. When there is no room, the user who holds most
gives way to a user who holds less than half of that; of the former's runs the one that holds most gives way,
of its journals likewise, and there what came last. This takes no longer with more users, runs or journals.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.stream.collector.greatest import Greatest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hpctrack import model
    from hpctrack.stream.wire import datagrams
    from hpctrack.stream.wire.names import JournalKey

#: Bytes that may be held of one journal, of a run, of a user's runs, and in all.
PER_JOURNAL = 8 << 20
PER_RUN = 16 << 20
PER_USER = 32 << 20
IN_ALL = 64 << 20
#: What holding costs beside the bytes themselves.
_OVERHEAD = 300
#: Journals that are remembered.
_MAX_JOURNALS = 100_000
#: Seconds without a datagram after which what is held of a journal is forgotten.
_IDLE = 60.0


class Verdict(enum.Enum):
    """What becomes of a datagram."""

    COMMITTED = enum.auto()
    """It is in PostgreSQL already."""
    JOINED = enum.auto()
    """It is part of the next batch."""
    HELD = enum.auto()
    DROPPED = enum.auto()
    """No room, or a range that must be cut anew."""
    IGNORED = enum.auto()
    """The same is part of the next batch already."""


class Range(NamedTuple):
    """A complete range of a journal; ``body`` is that of all its parts, joined."""

    header: datagrams.Header
    body: bytes
    contents: model.Contents | None = None
    """The body decoded, if that was done; what is held is kept small, without it."""


@dataclass
class _Journal:
    watermark: int
    """What is committed for sure."""
    tail: int
    """The end of what waits in order for its commit, or the watermark."""
    seen: float
    user: str = ""
    held: dict[int, Range] = field(default_factory=dict)
    """Complete ranges beyond a gap, by their start."""
    parts: dict[tuple[int, int, int], dict[int, bytes]] = field(default_factory=dict)
    """Bodies of ranges that are not complete: by start, end and number of parts, and there by part."""
    size: int = 0


class Reassembly:
    """Journals, as far as they have arrived."""

    def __init__(
        self,
        *,
        per_journal: int = PER_JOURNAL,
        per_run: int = PER_RUN,
        per_user: int = PER_USER,
        in_all: int = IN_ALL,
        journals: int = _MAX_JOURNALS,
    ) -> None:
        self._most = journals
        self._per_journal, self._per_run, self._per_user = per_journal, per_run, per_user
        self._in_all = in_all
        self._journals: dict[JournalKey, _Journal] = {}
        #: The journals of each user, in the order of their last datagrams.
        self._of_user: dict[str, OrderedDict[JournalKey, None]] = {}
        #: How many journals each user has.
        self._counts: Greatest[str] = Greatest()
        #: Bytes held by user, by user and run, and there by journal.
        self._users: Greatest[str] = Greatest()
        self._runs: dict[str, Greatest[int]] = {}
        self._held: dict[int, Greatest[JournalKey]] = {}
        #: Bytes held in all.
        self.size = 0

    def __len__(self) -> int:
        """Return the number of journals that are remembered."""
        return len(self._journals)

    def unknown(self, keys: Iterable[JournalKey]) -> list[JournalKey]:
        """Return the journals whose watermark is not known, and keep the others from being forgotten.

        Before that, journals beyond the most that may be remembered are forgotten.
        """
        while len(self._journals) > self._most:
            self._forget(next(iter(self._of_user[self._counts.name()])))
        asked = dict.fromkeys(keys)
        for key in asked:
            if key in self._journals:
                self._touch(key)
        return [key for key in asked if key not in self._journals]

    def learn(self, key: JournalKey, watermark: int, now: float, user: str = "") -> None:
        """Take in how far a journal of this user's is in PostgreSQL; nothing of it waits for a commit."""
        journal = self._journals.get(key)
        if journal is None:
            journal = self._journals[key] = _Journal(watermark, watermark, now, user)
            self._of_user.setdefault(user, OrderedDict())[key] = None
            self._counts.add(user, 1)
        journal.watermark = journal.tail = watermark
        for start in [start for start in journal.held if start < watermark]:
            self._release(key, journal.held.pop(start))
        for name in [name for name in journal.parts if name[0] < watermark]:
            self._drop_parts(key, name)

    def watermark(self, key: JournalKey) -> int:
        """Return how far a journal is committed; 0 if that is not known."""
        journal = self._journals.get(key)
        return 0 if journal is None else journal.watermark

    def user(self, key: JournalKey) -> str:
        """Return whose a journal is."""
        return self._journals[key].user

    def tail(self, key: JournalKey) -> int:
        """Return up to where a journal has arrived without a gap."""
        return self._journals[key].tail

    def arrive(
        self,
        key: JournalKey,
        header: datagrams.Header,
        body: bytes,
        now: float,
        contents: model.Contents | None = None,
    ) -> tuple[Verdict, list[Range]]:
        """Take in a datagram of a known journal; returns what joins the next batch through it."""
        journal = self._journals[key]
        journal.seen = now
        self._touch(key)
        if header.end <= journal.watermark:
            return Verdict.COMMITTED, []
        if header.start < journal.watermark:
            return Verdict.DROPPED, []
        if header.start < journal.tail:
            return Verdict.IGNORED, []
        whole: Range | None = Range(header, body, contents)
        if header.parts > 1:
            if not self._keep_part(key, header, body):
                return Verdict.DROPPED, []
            whole = self._complete(key, header)
        if whole is None:
            return Verdict.HELD, []
        if header.start == journal.tail:
            return Verdict.JOINED, list(self._advance(key, whole))
        return (Verdict.HELD if self._hold(key, whole) else Verdict.DROPPED), []

    def hold(self, key: JournalKey, whole: Range) -> bool:
        """Hold a range that turned out to begin beyond the watermark; whether there is room for it."""
        return key in self._journals and self._hold(key, whole)

    def ready(self, keys: Iterable[JournalKey]) -> list[tuple[JournalKey, Range]]:
        """Return what was held of these journals and now continues them."""
        ready: list[tuple[JournalKey, Range]] = []
        for key in keys:
            journal = self._journals.get(key)
            if journal is not None and journal.tail in journal.held:
                first = journal.held.pop(journal.tail)
                self._release(key, first)
                ready += [(key, whole) for whole in self._advance(key, first)]
        return ready

    def expire(self, now: float) -> None:
        """Forget what is held of journals of which nothing has come for a while."""
        for key in [key for key, journal in self._journals.items() if journal.size]:
            if self._journals[key].seen < now - _IDLE:
                self._forget(key)

    def _touch(self, key: JournalKey) -> None:
        self._of_user[self._journals[key].user].move_to_end(key)

    def _advance(self, key: JournalKey, whole: Range) -> Iterator[Range]:
        """Move the tail over a range, and over what was held behind it."""
        journal = self._journals[key]
        following: Range | None = whole
        while following is not None:
            journal.tail = following.header.end
            yield following
            following = journal.held.pop(journal.tail, None)
            if following is not None:
                self._release(key, following)

    def _hold(self, key: JournalKey, whole: Range) -> bool:
        journal = self._journals[key]
        if whole.header.start in journal.held:
            return True
        if not self._make_room(key, len(whole.body) + _OVERHEAD):
            return False
        journal.held[whole.header.start] = whole._replace(contents=None)
        self._charge(key, len(whole.body) + _OVERHEAD)
        return True

    def _keep_part(self, key: JournalKey, header: datagrams.Header, body: bytes) -> bool:
        journal = self._journals[key]
        name = (header.start, header.end, header.parts)
        if header.part in journal.parts.get(name, ()):
            return True
        if not self._make_room(key, len(body) + _OVERHEAD):
            return False
        journal.parts.setdefault(name, {})[header.part] = body
        self._charge(key, len(body) + _OVERHEAD)
        return True

    def _complete(self, key: JournalKey, header: datagrams.Header) -> Range | None:
        """Return a range whose parts have all arrived."""
        name = (header.start, header.end, header.parts)
        bodies = self._journals[key].parts[name]
        if len(bodies) < header.parts:
            return None
        self._drop_parts(key, name)
        return Range(header, b"".join(bodies[part] for part in range(header.parts)))

    def _drop_parts(self, key: JournalKey, name: tuple[int, int, int]) -> None:
        self._release_parts(key, self._journals[key].parts.pop(name))

    def _release_parts(self, key: JournalKey, bodies: Mapping[int, bytes]) -> None:
        for body in bodies.values():
            self._charge(key, -len(body) - _OVERHEAD)

    # --- who may hold how much ---

    def _make_room(self, key: JournalKey, size: int) -> bool:
        """Whether so many bytes more of a journal may be held; others who hold more give way to them."""
        user, run = self._journals[key].user, key.run_id
        runs = self._runs.get(user) or Greatest()
        if self._journals[key].size + size > self._per_journal or runs[run] + size > self._per_run:
            return False
        while self.size + size > self._in_all or self._users[user] + size > self._per_user:
            giving = user if self._users[user] + size > self._per_user else self._users.name()
            largest = self._runs[giving].name()
            theirs, ours = (
                (self._runs[user][largest], runs[run])
                if giving == user
                else (self._users[giving], self._users[user])
            )
            if theirs <= 2 * (ours + size):
                return False
            self._evict(largest)
        return True

    def _evict(self, run: int) -> None:
        """Forget something of the journal of which this run holds most.

        That is the range that came last, or the parts of a range that did: whichever lies farther on.
        """
        key = self._held[run].name()
        held, parts = self._journals[key].held, self._journals[key].parts
        last = held.popitem() if held else None
        if parts:
            name, bodies = parts.popitem()
            if last is None or name[0] > last[0]:
                self._release_parts(key, bodies)
                held.update([last] if last else [])
                return
            parts[name] = bodies
        if last is not None:
            self._release(key, last[1])

    def _release(self, key: JournalKey, whole: Range) -> None:
        self._charge(key, -len(whole.body) - _OVERHEAD)

    def _charge(self, key: JournalKey, size: int) -> None:
        journal, run = self._journals[key], key.run_id
        journal.size += size
        self.size += size
        self._users.add(journal.user, size)
        self._runs.setdefault(journal.user, Greatest()).add(run, size)
        self._held.setdefault(run, Greatest()).add(key, size)
        if not self._runs[journal.user]:
            del self._runs[journal.user]
        if not self._held[run]:
            del self._held[run]

    def _forget(self, key: JournalKey) -> None:
        self._charge(key, -self._journals[key].size)
        user = self._journals.pop(key).user
        self._counts.add(user, -1)
        del self._of_user[user][key]
        if not self._of_user[user]:
            del self._of_user[user]
