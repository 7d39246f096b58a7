"""The Python interface on the test's database."""

from __future__ import annotations

import pytest

from hpctrack import Client


@pytest.fixture
def client(database):
    with Client(settings=database) as client:
        yield client
