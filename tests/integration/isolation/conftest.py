"""The command as it is installed, a fake Slurm, and a folder in which it is no good to stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import installations
from tests.support.places import Place


@pytest.fixture(scope="session")
def install(wheels, tmp_path_factory):
    """Install in one of the ways, once."""
    made: dict[str, installations.Installation] = {}

    def get(way: str) -> installations.Installation:
        if way not in made:
            made[way] = installations.install(way, wheels, tmp_path_factory.mktemp(way))
        return made[way]

    return get


@pytest.fixture
def place(install, tmp_path) -> Place:
    return Place(install("venv"), tmp_path)


@pytest.fixture(params=installations.WAYS)
def every_place(install, tmp_path, request) -> Place:
    return Place(install(request.param), tmp_path)


@pytest.fixture
def mark(tmp_path) -> Path:
    """The file that code of a hostile folder leaves."""
    return tmp_path / "mark"


@pytest.fixture
def hostile(tmp_path, mark) -> Path:
    return installations.hostile_folder(tmp_path / "hostile", mark)
