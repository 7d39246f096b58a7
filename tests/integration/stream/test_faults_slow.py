"""Faults that take minutes: a partition, a PostgreSQL that stands still, ten million rows."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from hpctrack.store import database as store
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
_PARTITION = 120.0
_STANDSTILL = 60.0
_MANY, _FAST = 10_000_000, 50_000
#: What a script may have on disk while everything is acknowledged in time; it writes 930 MB.
_CAP = 384 << 20


@pytest.fixture
def server(wheel_server):
    return wheel_server


@pytest.fixture
def settings(settings):
    return settings._replace(flush=120.0, journal_cap=_CAP)


@pytest.fixture
def collector(collect):
    collecting = collect()
    collecting.address()
    return collecting


def peak_mb(pid: int) -> float:
    """Return the most memory that a process had resident (VmHWM of proc(5))."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def test_two_minutes_without_a_word(collector, track):
    script = track(75_000, 500)
    eventually(script.rows)
    collector.process.send_signal(signal.SIGSTOP)
    time.sleep(_PARTITION)
    before = script.rows()
    assert script.logged() > before + _PARTITION * 400
    collector.process.send_signal(signal.SIGCONT)
    eventually(lambda: script.rows() > before)
    assert script.process.wait(120) == 0
    script.check()


def test_postgresql_stands_still_under_full_load(settings, collector, track, record_property):
    scripts = [track(900_000, 10_000, name=f"load{n}") for n in range(2)]
    for script in scripts:
        eventually(script.rows)
    with store.connect(settings) as blocker:
        blocker.execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
        time.sleep(_STANDSTILL)
        blocker.rollback()
    for script in scripts:
        assert script.process.wait(300) == 0
        script.check()
    peak = peak_mb(collector.process.pid)
    record_property("peak_mb", peak)
    print(f"the collector's peak: {peak:.0f} MB")
    assert peak < 400


def test_ten_million_rows_of_one_script(settings, collector, track, record_property):
    """What the relay has not shipped in time would not find room: lost and counted."""
    script = track(_MANY, _FAST)
    most = 0
    while script.process.poll() is None:
        journals = list(script.node.glob("hpctrack-*/*/*.log.journal"))
        most = max(most, sum(path.stat().st_blocks * 512 for path in journals if path.exists()))
        time.sleep(0.5)
    assert script.process.returncode == 0
    record_property("most_mb", most >> 20)
    print(f"on the node's disk at most: {most >> 20} MB")
    with store.connect(settings, autocommit=True) as connection:
        run_id = script.run_id(connection)
        accounts = "SELECT rows, lost FROM run_latest WHERE run_id = %s"
        eventually(lambda: sum(connection.execute(accounts, [run_id]).fetchone()) == _MANY, 300)
        assert connection.execute(accounts, [run_id]).fetchone() == (_MANY, 0)
        rows = connection.execute(
            "SELECT count(*), min(step), max(step), bool_and(x = step / 7::float8 AND n = step)"
            " FROM metrics WHERE run_id = %s",
            [run_id],
        ).fetchone()
        assert rows == (_MANY, 0, _MANY - 1, True)
    assert most < _CAP + (16 << 20)
