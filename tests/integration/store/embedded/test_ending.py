"""An embedded PostgreSQL ends when nobody uses it any more, whoever started it and whoever was killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from hpctrack import files
from hpctrack.store import embedded
from hpctrack.store.embedded import postmaster
from hpctrack.store.embedded.cluster_folder import Place
from tests.support.commands import PROGRAM, environment
from tests.support.disks import fill
from tests.support.embedded_servers import (
    ELSEWHERE,
    ENSURE,
    HERE,
    ask,
    end,
    parent,
    postmaster_pid,
    postmasters,
    python,
)
from tests.support.waiting import eventually


def alive(pid):
    return postmaster.start_time(pid) is not None


def hpctrack(settings, *words):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True, text=True, check=True, env=environment(settings),
    )  # fmt: skip


@pytest.mark.parametrize("words", [["status"], ["psql", "--", "-c", "SELECT 1"], ["doctor"]])
def test_a_server_that_a_command_started_ends_when_none_uses_it(settings, words):
    settings = settings._replace(idle_exit=2.0)
    with contextlib.suppress(subprocess.CalledProcessError):  # doctor finds no Slurm
        hpctrack(settings, *words)
    place = Place.of(settings)
    eventually(lambda: not postmaster.processes(place.data))
    eventually(lambda: not place.owner_file.exists())
    (named,) = place.hosts.iterdir()
    eventually(lambda: not Path(named.read_text().strip()).exists())
    hpctrack(settings._replace(idle_exit=60.0), "status")  # and it can be started again
    assert postmasters(settings)


def test_commands_keep_it_alive_one_after_the_other(settings):
    settings = settings._replace(idle_exit=8.0)
    params = embedded.ensure(settings)
    before = postmaster_pid(settings)
    deadline = time.monotonic() + 12
    while time.monotonic() < deadline:
        assert embedded.ensure(settings) == params
        time.sleep(0.5)
    assert postmaster_pid(settings) == before
    assert alive(before)


def test_a_session_at_work_keeps_it_alive(settings):
    settings = settings._replace(idle_exit=1.0)
    with psycopg.connect(**embedded.ensure(settings)) as connection:
        assert connection.execute("SELECT 1 FROM pg_sleep(6)").fetchone() == (1,)
    eventually(lambda: not postmaster.processes(Place.of(settings).data))


def test_a_command_that_comes_while_it_ends_is_served(settings):
    from hpctrack.store import database

    settings = settings._replace(idle_exit=0.0)
    for pause in (0.7, 0.9, 1.0, 1.1, 1.3, 2.0):
        with database.connect(settings) as connection:
            assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        time.sleep(pause)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV])
def test_it_ends_with_its_keeper(settings, number):
    with psycopg.connect(**embedded.ensure(settings)) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    server = postmaster_pid(settings)
    os.kill(parent(server), number)
    eventually(lambda: not alive(server))
    assert ask(embedded.ensure(settings), "SELECT count(*) FROM kept") == 0
    assert "not properly shut down" not in Place.of(settings).log.read_text()


def test_it_ends_when_its_folder_is_removed(settings):
    session = psycopg.connect(**embedded.ensure(settings))
    server = postmaster_pid(settings)
    keeper = parent(server)
    shutil.rmtree(settings.data_dir, ignore_errors=True)  # the server may write on in what goes
    eventually(lambda: not alive(server) and not alive(keeper))
    shutil.rmtree(settings.data_dir, ignore_errors=True)
    session.close()
    assert ask(embedded.ensure(settings)) == "hpctrack"  # and a new one begins


def test_it_ends_when_its_folder_is_moved_or_another_takes_its_place(settings, tmp_path):
    embedded.ensure(settings)
    server = postmaster_pid(settings)
    Path(settings.data_dir).rename(tmp_path / "moved")
    assert ask(embedded.ensure(settings)) == "hpctrack"
    eventually(lambda: not alive(server))
    assert ask(embedded.ensure(settings)) == "hpctrack"
    assert alive(postmaster_pid(settings))


@pytest.mark.parametrize("after", [0.05, 0.1, 0.2, 0.3, 0.5])
def test_a_killed_starter_leaves_no_server_for_ever(settings, after):
    code = ENSURE.replace('embedded_listen="127.0.0.1"', "idle_exit=1.0")
    embedded.ensure(settings)
    embedded.stop(settings)
    starter = python(code, settings.data_dir, start_new_session=True)
    time.sleep(after)
    starter.kill()
    starter.communicate()
    eventually(lambda: not postmaster.processes(Place.of(settings).data))


def test_a_host_that_asked_does_not_keep_it_alive(settings):
    settings = settings._replace(idle_exit=2.0)
    embedded.ensure(settings, HERE)
    with psycopg.connect(**embedded.ensure(settings, ELSEWHERE)):
        keeper = parent(postmaster_pid(settings))
    eventually(lambda: not alive(keeper))
    assert not Place.of(settings).reach_file.exists()


def test_its_log_is_bounded_whatever_fills_it(settings):
    params = embedded.ensure(settings)
    place = Place.of(settings)
    with psycopg.connect(**params, autocommit=True) as connection:
        for _ in range(5):
            connection.execute(
                "DO $$ BEGIN FOR i IN 1..5000 LOOP RAISE LOG '%', repeat('x', 1000); END LOOP; END $$"
            )
            eventually(lambda: place.log.stat().st_size < postmaster.LOG_BYTES)
    assert place.log.with_suffix(".log.1").stat().st_size <= postmaster.LOG_BYTES
    assert {path.name for path in place.base.glob("server.log*")} == {"server.log", "server.log.1"}
    assert place.log.with_suffix(".log.1").stat().st_mode & 0o777 == 0o600


def test_its_log_is_cut_also_where_its_end_can_not_be_kept(settings):
    params = embedded.ensure(settings)
    place = Place.of(settings)
    place.log.with_suffix(".log.1").mkdir()
    server = postmaster_pid(settings)
    with psycopg.connect(**params, autocommit=True) as connection:
        connection.execute(
            "DO $$ BEGIN FOR i IN 1..5000 LOOP RAISE LOG '%', repeat('x', 1000); END LOOP; END $$"
        )
        eventually(lambda: place.log.stat().st_size < postmaster.LOG_BYTES)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert alive(server)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_does_not_end_it(settings):
    """What the keeper can't write costs the server nothing."""
    home = Path(settings.data_dir)
    home.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m,mode=0700", "none", home], check=True)
    try:
        params = embedded.ensure(settings)
        server = postmaster_pid(settings)
        place = Place.of(settings)
        place.asked.mkdir(mode=0o700)
        files.replace(str(place.base / "asks"), json.dumps({"ways": [["127.0.0.1", "127.0.0.1"]]}).encode())
        keeper = parent(server)
        with psycopg.connect(**params) as connection:
            filler = fill(home)
            with place.log.open("ab", buffering=0) as log, contextlib.suppress(OSError):
                while log.write(b"x"):  # its last page, too
                    pass
            (place.base / "asks").rename(place.asked / "login9")  # what it wants the keeper can't write down
            time.sleep(5)  # some looks of the keeper
            assert alive(keeper)
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert not place.reach_file.exists()
        filler.unlink()
        eventually(place.reach_file.exists)
        assert ask(embedded.ensure(settings)) == "hpctrack"
        assert postmaster_pid(settings) == server
        embedded.stop(settings)
    finally:
        end(Place.of(settings))
        subprocess.run(["umount", "-l", home], check=True)


def test_refused_logins_and_failed_statements_hardly_fill_it(settings):
    place = Place.of(settings)
    here = embedded.ensure(settings, HERE)
    there = embedded.ensure(settings, ELSEWHERE)
    del there["passfile"]
    for _ in range(300):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**there, password="wrong")
    with psycopg.connect(**here, autocommit=True) as connection:
        for _ in range(300):
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute("SELECT * FROM nowhere")
    assert place.log.stat().st_size < postmaster.LOG_BYTES
    assert "nowhere" not in place.log.read_text()
