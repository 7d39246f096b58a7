"""What is remembered of runs and their owners from one batch, and one connection, to the next. Pure.

Runs of which something was refused are suspects: they are stored apart. Owners take turns, and each owner's
runs among themselves, so that nobody waits behind another's thousands. Dividing a batch for an owner's run
takes others' time: until that is made up for, all that this owner sends is stored apart, too.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from hpctrack.store import locked, refusals, throttle
from hpctrack.store.ingest import pending

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from hpctrack import model

    #: The pieces that are stored together: those of a suspect, or of all that an owner has beside suspects.
    Group = list[model.Piece]

_MOST = 10_000

_T = TypeVar("_T")


def owner(piece: model.Piece) -> refusals.Owner:
    """Return whose a piece is; in the personal mode a run stands for itself."""
    return piece.owner or piece.run_id


class Memory:
    """What is remembered of runs and their owners."""

    def __init__(self) -> None:
        #: Runs of which something was refused, and owners; who was served longest ago comes first.
        self.suspects: dict[int, None] = {}
        self.owners: dict[refusals.Owner, None] = {}
        #: Until when all that an owner sends is stored apart.
        self.owing: dict[refusals.Owner, float] = {}
        #: Until when the time that was spent on what was refused is made up for.
        self.paid = 0.0
        self.put_off = locked.PutOff()
        self.streak = refusals.Streak()
        self.log = throttle.Throttle()
        #: Rows that are stored, and that the statistics of their runs do not tell of yet.
        self.pending = pending.Pending()
        #: How often the connection was lost, or the server failed, while something of a run was stored.
        self.losses: Counter[int] = Counter()

    def is_apart(self, piece: model.Piece, now: float) -> bool:
        """Whether a piece is stored apart."""
        return piece.run_id in self.suspects or self.owing.get(owner(piece), now) > now

    def suspect(self, piece: model.Piece) -> None:
        """Take in that something of a piece's run was refused."""
        _last(self.suspects, piece.run_id)
        if owner(piece) not in self.owners:
            _last(self.owners, owner(piece))

    def spend(self, seconds: float, now: float, owners: Iterable[refusals.Owner] = ()) -> None:
        """Take in that so much time was spent on what was refused, and who has to make up for it."""
        self.paid = max(self.paid, now) + seconds
        self.owing = {owner: until for owner, until in self.owing.items() if until > now}
        self.owing |= dict.fromkeys(owners, self.paid)

    def turns(self, apart: Iterable[model.Piece]) -> list[Group]:
        """Return pieces in the order of turns: of each owner a group, then of each another one, and so on."""
        groups: dict[refusals.Owner, dict[int | None, Group]] = {}
        for piece in apart:
            suspect = piece.run_id if piece.run_id in self.suspects else None
            groups.setdefault(owner(piece), {}).setdefault(suspect, []).append(piece)
        ranks = {run_id: rank for rank, run_id in enumerate(self.suspects)}
        lists = [
            [groups[owner][key] for key in sorted(groups[owner], key=lambda key: ranks.get(key or 0, -1))]
            for owner in _ordered(groups, self.owners)
        ]
        return [group for row in itertools.zip_longest(*lists) for group in row if group]

    def serve(self, group: Group) -> None:
        """Take in that a group had its turn."""
        _last(self.owners, owner(group[0]))
        if group[0].run_id in self.suspects:
            _last(self.suspects, group[0].run_id)

    def lose(self, runs: Collection[int]) -> None:
        """Take in that PostgreSQL failed over some runs, or one of them."""
        if len(self.losses) > _MOST:
            self.losses.clear()
        self.losses.update(runs)


def _last(order: dict[_T, None], item: _T) -> None:
    """Put an item at the end; the first gives way where there are too many."""
    order.pop(item, None)
    if len(order) >= _MOST:
        del order[next(iter(order))]
    order[item] = None


def _ordered(items: Collection[_T], order: dict[_T, None]) -> Iterator[_T]:
    """Yield what was found in an order; what is not in that comes last."""
    yield from (item for item in order if item in items)
    yield from (item for item in items if item not in order)
