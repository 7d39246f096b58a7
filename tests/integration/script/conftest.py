"""Programs that log, in processes of their own."""

from __future__ import annotations

import pytest

from tests.support.run_folders import Programs


@pytest.fixture
def programs(tmp_path):
    return Programs(tmp_path)
