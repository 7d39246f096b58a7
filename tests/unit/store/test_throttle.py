"""A log that nobody can fill."""

from __future__ import annotations

from hpctrack.store.throttle import Throttle


def test_what_comes_again_and_again_is_said_once_a_minute_with_how_often():
    now = [0.0]
    log = Throttle(lambda: now[0])
    assert [log.admit("mallory") for _ in range(1000)] == ["", *[None] * 999]
    assert log.admit("alice") == ""
    now[0] = 59.0
    assert log.admit("mallory") is None
    now[0] = 60.0
    assert log.admit("mallory") == " (1,000 like this were left out of the log before)"
    now[0] = 200.0
    assert [log.admit("mallory"), log.admit("alice")] == ["", ""]
