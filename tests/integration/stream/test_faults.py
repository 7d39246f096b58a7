"""The whole chain under faults: what log() returned for is in PostgreSQL exactly once, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from hpctrack.store import database as store
from hpctrack.store import embedded
from tests.support.collectors import Collector
from tests.support.commands import hpctrack
from tests.support.disks import fill
from tests.support.waiting import eventually

ROWS, RATE = 2500, 500


@pytest.fixture
def settings(settings):
    return settings._replace(flush=30.0)


def sync(settings) -> str:
    run = hpctrack(settings, "sync")
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_collectors_killed_ten_times_under_load(collect, track):
    """Each comes back under another address, which the relays read again."""
    rng = random.Random(3)
    collecting = collect()
    collecting.address()
    scripts = [track(ROWS, RATE, name=name) for name in ("first", "second")]
    eventually(scripts[0].rows)
    for _ in range(10):
        time.sleep(rng.uniform(0.0, 0.3))
        collecting.end(signal.SIGKILL)
        collecting = collect()
        before = scripts[0].rows()
        eventually(lambda before=before: scripts[0].rows() > before or scripts[0].process.poll() is not None)
    for script in scripts:
        assert script.wait() == 0
        script.check()


def test_sessions_of_postgresql_terminated_again_and_again(collect, track, connection):
    collect().address()
    script = track(ROWS, RATE)
    eventually(script.rows)
    for _ in range(10):
        time.sleep(0.2)
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert script.wait() == 0
    script.check()


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGKILL], ids=["immediate shutdown", "SIGKILL"])
def test_postmaster_ended_in_mid_run(personal, track, number):
    personal = personal._replace(flush=30.0)
    collector = Collector(personal)
    try:
        collector.address()
        script = track(ROWS, RATE, settings=personal)
        eventually(script.rows)
        for _ in range(2):
            file = next(Path(personal.data_dir).rglob("postmaster.pid"))
            os.kill(int(file.read_text().split()[0]), number)
            eventually(lambda: embedded.running(personal) is None)
            before = script.rows()  # connecting starts it again
            eventually(lambda before=before: script.rows() > before)
        assert script.wait() == 0
        script.check()
    finally:
        collector.end()


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
@pytest.mark.parametrize("victim", ["script", "relay", "supervisor"])
def test_processes_of_the_job_killed_in_mid_run(collect, track, settings, victim):
    """What the journals hold is delivered: by the relay that is left, or else by ``hpctrack sync``."""
    collect().address()
    script = track(ROWS, RATE)
    eventually(script.rows)
    pids = {"script": script.script(), "relay": script.relay(), "supervisor": script.process.pid}
    os.kill(pids[victim], signal.SIGKILL)
    code = script.wait()
    if victim == "supervisor":  # the script goes on without it, and the relay follows until its end
        eventually(lambda: not os.path.exists(f"/proc/{pids['script']}"))
    logged = script.logged() or script.rows()
    if victim == "relay":
        assert code == 0
        assert "delivered" in sync(settings._replace(node_dir=str(script.node)))
    count = ROWS if victim != "script" else logged
    assert victim != "script" or code in (128 + signal.SIGKILL, -signal.SIGKILL)
    eventually(lambda: script.rows() >= count)
    script.check(script.rows() if victim == "script" else None)
    assert "nothing waits" in sync(settings._replace(node_dir=str(script.node)))


def stopped_in_mid_batch(collector, connection) -> bool:
    """Stop a collector; if that does not hit it in a transaction, let it go on."""
    collector.process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)  # what it has sent is still done
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state = 'idle in transaction'"
    )
    if connection.execute(query).fetchone() == (1,):
        return True
    collector.process.send_signal(signal.SIGCONT)
    return False


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_a_relay_moves_to_the_second_collector_and_back(collect, track, settings, connection, tmp_path):
    """They are stopped, not dead: what they still hold and acknowledge late adds nothing.

    The first one is stopped in mid-batch, so that PostgreSQL has to take its journals from it. That may take
    20 seconds: the script logs for longer, so that there is something left to move with.
    """
    first = collect(data_dir=str(tmp_path / "first"))
    second = collect(data_dir=str(tmp_path / "second"))
    places = (first.address(), second.address())
    script = track(ROWS, RATE / 10, settings=settings._replace(collector=places))
    eventually(script.rows)
    eventually(lambda: stopped_in_mid_batch(first, connection))
    for collecting in (first, second):
        collecting.process.send_signal(signal.SIGSTOP)
        before = script.rows()
        eventually(lambda before=before: script.rows() > before)
        collecting.process.send_signal(signal.SIGCONT)
    assert script.wait() == 0
    script.check()


def test_postgresql_that_only_reads_acknowledges_nothing_and_recovers(collect, track, connection):
    collect().address()
    script = track(ROWS, RATE)
    eventually(script.rows)
    name = connection.execute("SELECT current_database()").fetchone()[0]
    terminate = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    connection.execute(terminate)
    time.sleep(2.0)
    assert script.rows() < script.logged()
    connection.execute("SET default_transaction_read_only = off")
    connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    connection.execute(terminate)
    assert script.wait() == 0
    script.check()


def test_postgresql_without_disk_space_acknowledges_nothing_and_recovers(
    collect, track, connection, small_disk, settings
):
    collect().address()
    script = track(ROWS, RATE)
    eventually(script.rows)
    space = f"small_{connection.info.dbname}"
    connection.execute(f"CREATE TABLESPACE {space} LOCATION '{small_disk}'")
    try:
        connection.execute(f"ALTER TABLE metrics_leaf_1 SET TABLESPACE {space}")
        filler = fill(small_disk)
        eventually(lambda: script.logged() > script.rows() + RATE)
        filler.unlink()
        assert script.wait() == 0
        script.check()
    finally:
        with store.connect(settings, autocommit=True) as own:
            own.execute("ALTER TABLE metrics_leaf_1 SET TABLESPACE pg_default")
            own.execute(f"DROP TABLESPACE {space}")
