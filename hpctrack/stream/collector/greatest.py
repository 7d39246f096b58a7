"""Numbers by name, and the name with the greatest, found without looking at all of them. Pure."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from hpctrack.stream.wire.names import JournalKey

_Name = TypeVar("_Name", str, int, "JournalKey")


class Greatest(Generic[_Name]):
    """Positive numbers by name; a name whose number is 0 takes no memory."""

    def __init__(self) -> None:
        self._numbers: dict[_Name, int] = {}
        #: Negative numbers with their names; outdated entries are skipped by `name`.
        self._heap: list[tuple[int, _Name]] = []

    def __bool__(self) -> bool:
        """Whether any name has a number."""
        return bool(self._numbers)

    def __getitem__(self, name: _Name) -> int:
        """Return a number; 0 where there is none."""
        return self._numbers.get(name, 0)

    def add(self, name: _Name, number: int) -> None:
        """Add to a number."""
        total = self[name] + number
        if not total:
            self._numbers.pop(name, None)
            return
        self._numbers[name] = total
        if len(self._heap) > 2 * len(self._numbers) + 100:
            self._heap = [(-number, name) for name, number in self._numbers.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (-total, name))

    def name(self) -> _Name:
        """Return the name with the greatest number; there must be some number."""
        while self[self._heap[0][1]] != -self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][1]
