"""How far the journals of a batch come by it, and what it adds to their counts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hpctrack import model
    from hpctrack.stream.wire.names import JournalKey

COUNTED = ("rows", "torn", "rejected", "replaced")


class Decision(NamedTuple):
    """What to do about the pieces of one journal."""

    watermark: int
    """Where the journal will be."""
    store: list[model.Piece]
    ahead: list[model.Piece]
    duplicates: int


def decide(given: Iterable[model.Piece], watermark: int) -> Decision:
    """Choose the pieces that continue a journal from its watermark, one after the other."""
    chosen: list[model.Piece] = []
    ahead: list[model.Piece] = []
    duplicates = 0
    for piece in sorted(given, key=lambda piece: (piece.start, piece.end)):
        if piece.start == watermark:
            chosen.append(piece)
            watermark = piece.end
        elif piece.start > watermark:
            ahead.append(piece)
        else:
            duplicates += 1
    return Decision(watermark, chosen, ahead, duplicates)


@dataclass
class Journal:
    """A locked journal, and what this batch adds to it."""

    key: JournalKey
    decision: Decision
    rows: int = 0
    torn: int = 0
    rejected: int = 0
    replaced: int = 0
    #: Least positive step that its rows brought, of an attempt after the first.
    first_step: int | None = None
    #: Lines that were counted in earlier batches.
    before: int = 0

    def take_damage(self, contents: model.Contents) -> None:
        """Count what could not be read, and what could not be had again behind a watermark of before."""
        self.torn += contents.torn
        if contents.lines is not None:
            known = self.before + self.rows + self.torn + self.rejected
            self.torn += max(0, contents.lines - known)

    def take_rows(self, count: int, first_step: int | None) -> None:
        """Count rows; ``first_step``: the least positive step that they brought, where that matters."""
        self.rows += count
        if first_step is not None:
            self.first_step = first_step if self.first_step is None else min(self.first_step, first_step)

    def counted(self) -> dict[str, Any]:
        """Return what it adds, to be restored should that be undone."""
        return {name: getattr(self, name) for name in (*COUNTED, "first_step")}

    def restore(self, counted: Mapping[str, Any]) -> None:
        """Take back what was added since `counted` was asked."""
        for name, value in counted.items():
            setattr(self, name, value)

    @property
    def changed(self) -> bool:
        """Whether there is anything to be written down of it."""
        return bool(self.decision.store or self.decision.duplicates)

    def to_json(self) -> dict[str, Any]:
        """Return it as the statement ``update_streams`` takes it."""
        return {
            "run_id": self.key.run_id,
            "journal_id": self.key.journal,
            "watermark": self.decision.watermark,
            "duplicates": self.decision.duplicates,
            **self.counted(),
        }
