"""The order in which a run's timeline is told. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hpctrack.model import Transition

_LAST = datetime.max.replace(tzinfo=timezone.utc)


def arranged(rows: Iterable[Transition]) -> list[Transition]:
    """Return the states in the order given, in which they were learnt, with each event where it happened.

    Clocks differ from host to host. So an event is placed behind the last earlier state that its own source
    told of the same attempt; from there it moves on past rows of other sources that are not later.
    """
    rows = list(rows)
    told = [row for row in rows if row.status is not None]
    for event in sorted((row for row in rows if row.status is None), key=_when):
        told.insert(_place(event, told), event)
    return told


def _place(event: Transition, rows: Sequence[Transition]) -> int:
    own = [index for index, row in enumerate(rows) if _is_akin(row, event)]
    before = [index for index in own if _when(rows[index]) <= _when(event)]
    place = before[-1] + 1 if before else 0
    if own and not before:
        return own[0]
    while place < len(rows) and _goes_on(rows[place], event):
        place += 1
    return place


def _is_akin(row: Transition, event: Transition) -> bool:
    return row.source == event.source and row.attempt == event.attempt


def _goes_on(row: Transition, event: Transition) -> bool:
    """Whether a row is told before the event that follows it in time."""
    return row.attempt < event.attempt or (row.attempt == event.attempt and _when(row) <= _when(event))


def _when(row: Transition) -> datetime:
    """Return a row's time; one that Python can't hold (and was read as None) is later than all others."""
    return row.time or _LAST
