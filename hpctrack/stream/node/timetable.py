"""When things that are done again and again are due next. Pure: the caller has the clock."""

from __future__ import annotations


class Timetable:
    """Named tasks, each with the time of its next turn, in seconds of one monotonic clock.

    A task that was never named is due at once.
    """

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def is_due(self, task: str, now: float) -> bool:
        """Whether a task's time has come."""
        return now >= self._next.get(task, now)

    def take_turn(self, task: str, now: float, pause: float) -> bool:
        """Whether a task's time has come; if so its next turn is in ``pause`` seconds."""
        if not self.is_due(task, now):
            return False
        self.put_off(task, now + pause)
        return True

    def put_off(self, task: str, until: float) -> None:
        """Do a task no earlier than this."""
        self._next[task] = until
