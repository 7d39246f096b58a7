"""The collector of the personal mode: started, found and ended as it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid

import pytest

from hpctrack import errors
from hpctrack import settings as configuration
from hpctrack.store import database as store
from hpctrack.store import embedded
from hpctrack.stream.collector import launch
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import Address
from tests.support.collectors import detached
from tests.support.commands import PROGRAM, environment
from tests.support.sender import Sender, logged, rows, whole
from tests.support.waiting import PATIENCE, eventually


def record(settings) -> records.Record:
    name = str(uuid.uuid4())
    made = records.Record(
        name, os.urandom(32).hex(), time.time(), None, None, None,
        {"uuid": name, "user_name": "u", "time": "2026-01-01T00:00:00Z"},
        {"experiment": "e", "kind": "command"},
    )  # fmt: skip
    records.write(settings.spool, made)
    return made


def test_the_first_submission_starts_one_collector_which_does_everything(personal, capfd):
    made = record(personal)
    program = (
        "from hpctrack import settings; from hpctrack.stream import collector;"
        "print(collector.ensure_running(settings.load()))"
    )
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment(personal), stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [command.communicate(timeout=PATIENCE)[0].strip() for command in commands]
    assert sorted(said) == ["False", "False", "True"]
    assert capfd.readouterr().err.count("hpctrack: started a collector on ") == 1
    host, port = eventually(lambda: launch.read_addresses(personal))[0]
    eventually(lambda: len(detached(personal)) == 1)
    assert not launch.ensure_running(personal)
    # It sets up PostgreSQL, and registers what waits in the spool: then the run's key is known.
    sender = Sender((host, port), uuid.UUID(made.uuid), bytes.fromhex(made.secret))
    sender.ship(b"journal1", [rows(0)])
    with store.connect(personal, autocommit=True) as connection:
        assert connection.execute("SELECT count(x) FROM metrics").fetchone() == (3,)
    with open(launch.log_path(personal), encoding="utf-8") as log:
        assert "registered 1 submission that" in log.read()


def test_a_second_one_in_the_foreground_is_refused(personal):
    with launch.Lock(personal._replace(data_dir=_made(personal.data_dir))) as lock:
        assert lock.acquire()
        lock.sign()
        command = [sys.executable, "-c", PROGRAM, "collector"]
        run = subprocess.run(command, env=environment(personal), capture_output=True, text=True, check=False)
    assert run.returncode == 69
    assert f"runs already: process {os.getpid()} on " in run.stderr


def _made(folder: str) -> str:
    os.makedirs(folder)
    return folder


def test_an_idle_collector_ends_and_ends_postgresql(personal):
    personal = personal._replace(idle_exit=1.0)
    made = record(personal)
    assert launch.ensure_running(personal)
    host, port = eventually(lambda: launch.read_addresses(personal))[0]
    sender = Sender((host, port), uuid.UUID(made.uuid), bytes.fromhex(made.secret))
    sender.ship(b"journal1", [rows(0)])
    with store.connect(personal, autocommit=True) as connection:
        connection.execute("UPDATE runs SET time_ended = now()")
    eventually(lambda: embedded.running(personal) is None)
    eventually(lambda: not detached(personal))
    assert launch.read_addresses(personal) == []
    # The next submission starts it again, and everything is still there.
    record(personal)
    assert launch.ensure_running(personal)
    eventually(lambda: launch.read_addresses(personal))
    with store.connect(personal, autocommit=True) as connection:
        assert connection.execute("SELECT count(x) FROM metrics").fetchone() == (3,)


def test_postgresql_restarts_in_mid_stream(personal):
    made = record(personal)
    assert launch.ensure_running(personal)
    host, port = eventually(lambda: launch.read_addresses(personal))[0]
    sender = Sender((host, port), uuid.UUID(made.uuid), bytes.fromhex(made.secret))
    bodies = [rows(3 * i) for i in range(300)]
    for done in (100, 200, 300):
        sender.ship(b"journal1", bodies[: done - 50])
        embedded.stop(personal)
        sender.ship(b"journal1", bodies[:done])
    with store.connect(personal, autocommit=True) as connection:
        (run_id,) = connection.execute("SELECT id FROM runs").fetchone()
        assert logged(connection, run_id) == whole(900)


def test_nothing_is_started_inside_a_job(personal, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    with pytest.raises(errors.CollectorUnavailable, match="inside a job"):
        launch.ensure_running(personal)
    assert detached(personal) == []


def test_a_collector_whose_folder_is_removed_ends(personal):
    assert launch.ensure_running(personal)
    eventually(lambda: launch.read_addresses(personal))
    os.unlink(os.path.join(personal.data_dir, "collector.lock"))
    eventually(lambda: not detached(personal))
    assert launch.ensure_running(personal)


def test_settings_reach_the_collector_that_is_started(personal):
    changed = personal._replace(
        auto_columns=False,
        journal_cap=12345,
        collector=(Address("a", 1), Address("::1", 2)),
        tags=("x", "y"),
        idle_exit=2.5,
        dsn=None,
    )
    assert configuration.load(environ=launch.environment(changed)) == changed
    site = changed._replace(dsn={"host": "h", "dbname": "d"})
    assert configuration.load(environ=launch.environment(site)) == site
