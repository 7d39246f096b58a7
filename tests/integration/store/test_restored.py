"""PostgreSQL restored from an older dump: what is missing since is sent again, or counted to the last row."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hpctrack.store import database as store
from hpctrack.stream.disk import folders
from tests.support.commands import hpctrack
from tests.support.waiting import eventually

pytestmark = pytest.mark.parametrize("server", ["wheel"], indirect=True)
TABLES = ("metrics", "streams", "run_latest")
COUNT, RATE = 120_000, 10_000
MOST = 3 << 20
"""Bytes that a journal takes at most once acknowledged space was given back."""


@pytest.fixture
def settings(settings):
    return settings._replace(flush=30.0)


def dump(settings) -> None:
    """Keep what stands in PostgreSQL at this moment."""
    with store.connect(settings) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for table in TABLES:
            connection.execute(f"CREATE TABLE dumped_{table} AS TABLE {table}")


def restore(settings) -> None:
    with store.connect(settings) as connection:
        connection.execute(f"TRUNCATE {', '.join(TABLES)}")
        for table in TABLES:
            connection.execute(f"INSERT INTO {table} SELECT * FROM dumped_{table}")


def journal(script) -> Path:
    return eventually(lambda: next(script.node.glob("hpctrack-*/*/*.log.journal"), None))


def losses(settings) -> tuple[int, int]:
    with store.connect(settings, autocommit=True) as connection:
        return connection.execute("SELECT rows, lost FROM run_latest WHERE rows > 0").fetchone()


def set_back(collect, settings, script) -> None:
    """Restore an older dump while the run goes on, when space of its journal was given back."""
    collector = collect()
    collector.address()
    eventually(script.rows)
    dump(settings)
    path = journal(script)
    eventually(lambda: path.stat().st_size > 2 * MOST and path.stat().st_blocks * 512 < MOST)
    assert collector.end() == 0
    restore(settings)


@pytest.mark.parametrize("by", ["its relay", "sync"])
def test_rows_whose_space_was_given_back_are_all_counted(collect, track, settings, by):
    script = track(COUNT, RATE)
    relay = script.relay()
    set_back(collect, settings, script)
    if by == "sync":
        os.kill(relay, signal.SIGKILL)
        eventually(lambda: not folders.started_at(relay))
    collect().address()
    assert script.wait() == 0
    if by == "sync":
        done = hpctrack(settings._replace(node_dir=str(script.node)), "sync")
        assert done.returncode == 0, done.stderr
    eventually(lambda: sum(losses(settings)) == COUNT)
    rows, lost = losses(settings)
    assert rows == script.rows() and lost > COUNT // 10
