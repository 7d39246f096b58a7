"""What a test needs and not every machine has."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

#: For tests that give files away, or become somebody else.
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test whose means are missing; in CI nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI nothing is skipped: {reason}")
    pytest.skip(reason)
