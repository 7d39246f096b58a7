"""Peers of different versions: what the older one does not understand stays where a newer one finds it.

A relay of version 1 beside this collector: ``node/test_minimal_relay``. Here an older collector and an older
sync are this one, with what it understood then.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.chain import Chain
from tests.support.collectors import QUIET, Collector
from tests.support.commands import PROGRAM
from tests.support.journals import stored

_OLDER = """
import re
from hpctrack.stream.wire import journal, layout
layout.VERSIONS = (1,)
layout.VERSION = 1
journal.VERSION = 1
journal._HEADER_PATTERN = re.compile(journal._HEADER_PATTERN.pattern.replace(b"[12]", b"1"))
"""
_SCRIPT = """
import hpctrack
for step in range(20):
    hpctrack.log(step=step, loss=step / 7, boxes=[step, [1]])
    hpctrack.log(series="eval", acc=step / 20)
"""


@pytest.fixture
def chain(database, connection, tmp_path):
    return Chain(database._replace(collector_bind="127.0.0.1"), connection, tmp_path)


@pytest.fixture
def left(chain):
    """What a run leaves in the spool whose collector knows version 1 alone."""
    older = Collector(chain.settings, program=_OLDER + QUIET)
    older.address()
    script = chain.folder / "script.py"
    script.write_text(_SCRIPT)
    done = chain.hpctrack("run", "--", sys.executable, str(script), HPCTRACK_FLUSH="2s")
    assert done.returncode == 0, done.stderr
    assert older.end() == 0
    assert chain.connection.execute("SELECT count(*) FROM metrics").fetchone() == (0,)
    newer = Collector(chain.settings, program=QUIET)
    newer.address()
    assert chain.spooled()
    yield chain.spooled()
    assert newer.end() == 0


def _all_is_there(chain):
    [(run_id,)] = chain.connection.execute("SELECT id FROM runs").fetchall()
    rows = stored(chain.connection, run_id)
    assert {step: row["loss"] for (step, _), row in rows.items()} == {step: step / 7 for step in range(20)}
    assert rows[3, 0.0]["boxes"] == [3, [1]]
    series = chain.connection.execute(
        "SELECT idx, (values ->> 'acc')::float FROM series_rows WHERE series = 'eval' ORDER BY idx"
    ).fetchall()
    assert series == [(step, step / 20) for step in range(20)]
    assert chain.accounts(run_id) == (40, 0, 0)


def test_an_older_collector_leaves_a_newer_relay_to_the_spool(chain, left):
    done = chain.hpctrack("sync")
    assert done.returncode == 0, done.stderr
    _all_is_there(chain)
    assert not chain.spooled()


def test_an_older_sync_leaves_newer_journals(chain, left):
    older = subprocess.run(
        [sys.executable, "-c", _OLDER + PROGRAM, "sync"],
        env=chain.environ, cwd=chain.folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert older.returncode == 65
    assert "a newer hpctrack wrote it (journal 2)" in older.stderr
    assert sorted(chain.spooled()) == sorted(left)
    done = chain.hpctrack("sync")
    assert done.returncode == 0, done.stderr
    _all_is_there(chain)


def test_older_journals_are_read(chain, left):
    older = [path for path in left if path.read_bytes().startswith(b"# hpctrack journal 2 ")]
    assert older
    for path in older:
        with path.open("r+b") as file:
            file.write(b"# hpctrack journal 1 ")
    done = chain.hpctrack("sync")
    assert done.returncode == 0, done.stderr
    _all_is_there(chain)
