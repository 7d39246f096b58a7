"""Pauses that grow."""

from hpctrack.backoff import Backoff


def pauses(backoff: Backoff, count: int) -> list[float]:
    pause, taken = 0.0, []
    for _ in range(count):
        pause = backoff.after(pause)
        taken.append(pause)
    return taken


def test_pauses_grow_up_to_the_longest():
    assert pauses(Backoff(1.0, 30.0), 7) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert pauses(Backoff(2.0, 10.0, factor=1.5), 5) == [2.0, 3.0, 4.5, 6.75, 10.0]
    assert Backoff(1.0, 30.0).after() == 1.0
