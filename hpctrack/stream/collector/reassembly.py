"""What has arrived of each journal, put in order: pure, in bounded memory. See docs/wire.md, "What the
collector answers".

Datagrams come in any order, twice, or in parts. A range that continues its journal joins the next batch; one
beyond a gap is held until the gap closes; parts are held until they are complete. Everything here may be
forgotten at any time: the relay keeps what is not committed.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hpctrack import model
    from hpctrack.stream import wire

#: Run and journal (16 hex digits).
Key: TypeAlias = tuple[int, str]

#: Bytes that may be held of one journal, and in all.
PER_JOURNAL = 8 << 20
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

    header: wire.Header
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
    held: dict[int, Range] = field(default_factory=dict)
    """Complete ranges beyond a gap, by their start."""
    parts: dict[tuple[int, int, int], dict[int, bytes]] = field(default_factory=dict)
    """Bodies of ranges that are not complete: by start, end and number of parts, and there by part."""
    size: int = 0


class Reassembly:
    """Journals, as far as they have arrived."""

    def __init__(
        self, *, per_journal: int = PER_JOURNAL, in_all: int = IN_ALL, journals: int = _MAX_JOURNALS
    ) -> None:
        self._most = journals
        self._per_journal = per_journal
        self._in_all = in_all
        self._journals: OrderedDict[Key, _Journal] = OrderedDict()
        #: Bytes held in all.
        self.size = 0

    def __len__(self) -> int:
        """Return the number of journals that are remembered."""
        return len(self._journals)

    def unknown(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of the journals whose watermark is not known, and keep the others in mind."""
        asked = dict.fromkeys(keys)
        for key in asked:
            if key in self._journals:
                self._journals.move_to_end(key)
        return [key for key in asked if key not in self._journals]

    def learn(self, key: Key, watermark: int, now: float) -> None:
        """Take in how far a journal is in PostgreSQL; nothing of it waits for a commit."""
        journal = self._journals.get(key)
        if journal is None:
            journal = self._journals[key] = _Journal(watermark, watermark, now)
            while len(self._journals) > self._most:
                self._forget(next(iter(self._journals)))
        journal.watermark = journal.tail = watermark
        for start in [start for start in journal.held if start < watermark]:
            self._release(journal, journal.held.pop(start))
        for name in [name for name in journal.parts if name[0] < watermark]:
            self._drop_parts(journal, name)

    def watermark(self, key: Key) -> int:
        """Return how far a journal is committed; 0 if that is not known."""
        journal = self._journals.get(key)
        return 0 if journal is None else journal.watermark

    def tail(self, key: Key) -> int:
        """Return up to where a journal has arrived without a gap."""
        return self._journals[key].tail

    def arrive(
        self,
        key: Key,
        header: wire.Header,
        body: bytes,
        now: float,
        contents: model.Contents | None = None,
    ) -> tuple[Verdict, list[Range]]:
        """Take in a datagram of a known journal; returns what joins the next batch through it."""
        journal = self._journals[key]
        journal.seen = now
        self._journals.move_to_end(key)
        if header.end <= journal.watermark:
            return Verdict.COMMITTED, []
        if header.start < journal.watermark:
            return Verdict.DROPPED, []
        if header.start < journal.tail:
            return Verdict.IGNORED, []
        whole: Range | None = Range(header, body, contents)
        if header.parts > 1:
            if not self._keep_part(journal, header, body):
                return Verdict.DROPPED, []
            whole = self._complete(journal, header)
        if whole is None:
            return Verdict.HELD, []
        if header.start == journal.tail:
            return Verdict.JOINED, list(self._advance(journal, whole))
        return (Verdict.HELD if self._hold(journal, whole) else Verdict.DROPPED), []

    def hold(self, key: Key, whole: Range) -> bool:
        """Hold a range that turned out to begin beyond the watermark; whether there is room for it."""
        journal = self._journals.get(key)
        return journal is not None and self._hold(journal, whole)

    def ready(self, keys: Iterable[Key]) -> list[tuple[Key, Range]]:
        """Return what was held of these journals and now continues them."""
        found: list[tuple[Key, Range]] = []
        for key in keys:
            journal = self._journals.get(key)
            if journal is not None and journal.tail in journal.held:
                first = journal.held.pop(journal.tail)
                self._release(journal, first)
                found += [(key, whole) for whole in self._advance(journal, first)]
        return found

    def expire(self, now: float) -> None:
        """Forget what is held of journals of which nothing has come for a while."""
        for key in [key for key, journal in self._journals.items() if journal.size]:
            if self._journals[key].seen < now - _IDLE:
                self._forget(key)

    def _advance(self, journal: _Journal, whole: Range) -> Iterator[Range]:
        """Move the tail over a range, and over what was held behind it."""
        found: Range | None = whole
        while found is not None:
            journal.tail = found.header.end
            yield found
            found = journal.held.pop(journal.tail, None)
            if found is not None:
                self._release(journal, found)

    def _hold(self, journal: _Journal, whole: Range) -> bool:
        if whole.header.start in journal.held:
            return True
        if not self._has_room(journal, len(whole.body)):
            return False
        journal.held[whole.header.start] = whole._replace(contents=None)
        self._charge(journal, len(whole.body) + _OVERHEAD)
        return True

    def _keep_part(self, journal: _Journal, header: wire.Header, body: bytes) -> bool:
        name = (header.start, header.end, header.parts)
        if header.part in journal.parts.get(name, ()):
            return True
        if not self._has_room(journal, len(body)):
            return False
        journal.parts.setdefault(name, {})[header.part] = body
        self._charge(journal, len(body) + _OVERHEAD)
        return True

    def _complete(self, journal: _Journal, header: wire.Header) -> Range | None:
        """Return a range whose parts have all arrived."""
        name = (header.start, header.end, header.parts)
        bodies = journal.parts[name]
        if len(bodies) < header.parts:
            return None
        self._drop_parts(journal, name)
        return Range(header, b"".join(bodies[part] for part in range(header.parts)))

    def _drop_parts(self, journal: _Journal, name: tuple[int, int, int]) -> None:
        for body in journal.parts.pop(name).values():
            self._charge(journal, -len(body) - _OVERHEAD)

    def _has_room(self, journal: _Journal, size: int) -> bool:
        size += _OVERHEAD
        return journal.size + size <= self._per_journal and self.size + size <= self._in_all

    def _release(self, journal: _Journal, whole: Range) -> None:
        self._charge(journal, -len(whole.body) - _OVERHEAD)

    def _charge(self, journal: _Journal, size: int) -> None:
        journal.size += size
        self.size += size

    def _forget(self, key: Key) -> None:
        self.size -= self._journals.pop(key).size
