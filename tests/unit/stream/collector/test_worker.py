"""A thread with a step."""

from __future__ import annotations

import logging

from hpctrack import errors
from hpctrack.backoff import Backoff
from hpctrack.stream.collector import worker


class Counting(worker.Worker):
    """Makes the steps that it is given: an error that is raised, or seconds to wait."""

    NAME = "count"
    BACKOFF = Backoff(0.001, 0.002)

    def __init__(self, *steps: Exception | float) -> None:
        super().__init__()
        self.steps = list(steps)
        self.dropped = 0
        self.finished = False

    def step(self) -> float:
        step = self.steps.pop(0)
        if not self.steps:
            self.stop()
        if isinstance(step, Exception):
            raise step
        self.note(None)
        return step

    def drop(self) -> None:
        super().drop()
        self.dropped += 1

    def finish(self) -> None:
        self.finished = True


def run(counting: Counting) -> list[str]:
    failures: list[str] = []
    counting.start(failures.append)
    counting.join(10)
    assert counting.finished
    return failures


def test_steps_are_made_until_it_is_stopped():
    counting = Counting(0.0, 0.001, 3600.0)
    assert run(counting) == []
    assert counting.steps == []


def test_trouble_is_logged_once_and_the_connection_dropped_each_time(caplog):
    away = [errors.StoreUnavailable("away") for _ in range(3)]
    counting = Counting(*away, 0.0, errors.StoreUnavailable("away"), 0.0)
    assert run(counting) == []
    assert [record.getMessage() for record in caplog.records] == ["away", "away"], "anew after it was well"
    assert counting.dropped == 4 + 1  # and at the end
    assert counting.trouble is None


def test_another_error_ends_the_thread_and_is_told(caplog):
    caplog.set_level(logging.CRITICAL)
    counting = Counting(ZeroDivisionError("bug"), 0.0)
    assert run(counting) == ["count: bug"]
    assert counting.steps == [0.0]
