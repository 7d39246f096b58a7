"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 60.0


def eventually(
    check: Callable[[], T], seconds: float = PATIENCE, what: str = "", *, pause: float = 0.02
) -> T:
    """Call `check` until what it returns is true; return that."""
    deadline = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or check}"
        time.sleep(pause)
    return result
