"""What keeps the embedded PostgreSQL from starting is one clear line, and mends itself where it can."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import psycopg
import pytest

from hpctrack import errors
from hpctrack.store import embedded
from hpctrack.store.embedded import host_folder, host_locks, launch, owner, postgres_binaries, postmaster
from hpctrack.store.embedded.cluster_folder import Place
from tests.support.embedded_servers import (
    ENSURE,
    ENSURE_AND_ASK,
    HERE,
    SOURCES,
    ask,
    postmaster_pid,
    postmasters,
    python,
)
from tests.support.requirements import root_only
from tests.support.waiting import eventually


@pytest.mark.parametrize("after", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_a_starter_killed_at_any_point_leaves_what_the_next_start_mends(settings, after):
    starter = python(ENSURE, settings.data_dir, start_new_session=True)
    time.sleep(after)
    starter.kill()
    starter.communicate()
    assert ask(embedded.ensure(settings)) == "hpctrack"
    assert postmasters(settings) == [postmaster_pid(settings)]
    assert not list(Place.of(settings).base.glob("new-*"))


@pytest.mark.parametrize("after", [0.2, 0.4, 0.6, 0.8])
def test_an_interrupt_leaves_nothing_half_done(settings, after):
    starter = python(ENSURE, settings.data_dir, start_new_session=True)
    time.sleep(after)
    starter.send_signal(signal.SIGINT)
    out, err = starter.communicate(timeout=60)
    place = Place.of(settings)
    if not out:
        assert "KeyboardInterrupt" in err
        assert eventually(lambda: not postmaster.processes(place.data))
        assert not place.owner_file.exists()
        assert not list(place.base.glob("new-*"))
    assert ask(embedded.ensure(settings)) == "hpctrack"


def test_a_launch_whose_starter_died_is_adopted(settings):
    embedded.ensure(settings)
    place = Place.of(settings)
    complete = owner.read(place.owner_file)
    owner.replace(place.owner_file, complete._replace(pid=None, pid_start=None))
    assert ask(embedded.ensure(settings)) == "hpctrack"
    assert owner.read(place.owner_file) == complete


def test_a_launch_that_takes_its_time_is_adopted_when_its_starter_died(settings):
    embedded.ensure(settings)
    place = Place.of(settings)
    record = owner.read(place.owner_file)
    embedded.stop(settings)
    owner.create(place.owner_file, record._replace(pid=None, pid_start=None))
    command = postgres_binaries.find(place.data).command("postgres", "-D", str(place.data))
    host_folder.make(place, HERE.name)
    with host_locks.folder_lock(place) as lock, postmaster.open_log(place) as log:
        slow = ["/bin/sh", "-c", 'sleep 1; exec "$@"', "sh", *command]
        starting = launch.Starting(launch.Orders(str(place.base), record._asdict(), slow, lock, "", 600), log)
        starting.keep()
        pid = starting.pid
    assert ask(embedded.ensure(settings)) == "hpctrack"
    assert postmasters(settings) == [pid] == [postmaster_pid(settings)]


@root_only
def test_a_session_with_a_tmp_of_its_own_finds_the_socket(settings):
    """As under systemd's PrivateTmp: its /tmp is not the one in which the server has its socket."""
    params = embedded.ensure(settings)
    hidden = f'mount -t tmpfs none {params["host"]} && exec {sys.executable} -c "$0" {settings.data_dir}'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden, textwrap.dedent(ENSURE_AND_ASK)],
        check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )  # fmt: skip
    assert run.stdout.split() == ["hpctrack"], run.stderr
    assert postmasters(settings) == [postmaster_pid(settings)]


def test_a_server_whose_socket_was_cleaned_away_is_started_anew(settings):
    params = embedded.ensure(settings)
    before = postmaster_pid(settings)
    with psycopg.connect(**params) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    shutil.rmtree(params["host"])
    assert ask(embedded.ensure(settings), "SELECT count(*) FROM kept") == 0
    assert postmasters(settings) == [postmaster_pid(settings)] != [before]


def test_a_folder_of_another_version_is_refused_clearly(settings):
    embedded.ensure(settings)
    embedded.stop(settings)
    place = Place.of(settings)
    (place.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(errors.EmbeddedError, match=r"made by PostgreSQL 9, .* brings.*18"):
        embedded.ensure(settings)
    assert not place.owner_file.exists()


def test_a_server_that_fails_says_its_own_words(settings):
    embedded.ensure(settings)
    embedded.stop(settings)
    place = Place.of(settings)
    with (place.data / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(errors.EmbeddedError, match=r"no_such_setting|configuration file") as caught:
        embedded.ensure(settings)
    assert "\n" not in str(caught.value)
    assert not place.owner_file.exists()


def test_a_missing_wheel_says_what_to_install(settings):
    code = ENSURE.replace(
        "from hpctrack.store import embedded",
        "sys.path[:] = [p for p in sys.path if 'site-' not in p]\n    from hpctrack.store import embedded",
    )
    _, err = python(code, settings.data_dir).communicate(timeout=30)
    assert "EmbeddedError: no PostgreSQL is configured" in err
    assert "pip install 'hpctrack[embedded]'" in err


@root_only
@pytest.mark.parametrize(
    ("mount", "said"),
    [
        ("size=8m", "No space left on device"),
        ("size=90m,ro", "Read-only file system"),
    ],
)
def test_a_full_or_read_only_home_is_one_clear_line(tmp_path, mount, said):
    home = tmp_path / "home"
    home.mkdir()
    script = f'mount -t tmpfs -o {mount} none {home} && exec {sys.executable} -c "$0" {home}/data'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, textwrap.dedent(ENSURE)],
        check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )  # fmt: skip
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("hpctrack.errors.EmbeddedError: ")
    assert said in last


@root_only
def test_binaries_on_a_noexec_file_system_are_one_clear_line(public, settings):
    mounts = f"mount --bind {public} {public} && mount -o remount,bind,noexec {public}"
    script = f'{mounts} && exec /usr/bin/python3 -c "$0" "$1"'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, textwrap.dedent(ENSURE), settings.data_dir],
        check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(public / "lib")},
    )  # fmt: skip
    assert "noexec" in run.stderr.strip().splitlines()[-1], run.stderr


@root_only
def test_without_user_namespaces_root_is_told_what_to_do(settings, tmp_path):
    (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    code = ENSURE.replace(
        "print(json",
        f"embedded.postgres_binaries.ENVIRONMENT['PATH'] = '{tmp_path}:/usr/bin:/bin'\n    print(json",
    )
    _, err = python(code, settings.data_dir).communicate(timeout=30)
    assert "run hpctrack as an ordinary user, or name a server" in err.strip().splitlines()[-1]


def test_the_log_does_not_grow_for_ever(settings):
    embedded.ensure(settings)
    embedded.stop(settings)
    place = Place.of(settings)
    with place.log.open("a") as file:
        file.write("x" * (2 << 20))
    params = embedded.ensure(settings)
    for _ in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero):
            ask(params, "SELECT 1/0")
    assert place.log.stat().st_size < 4096
    assert "division" not in place.log.read_text()
