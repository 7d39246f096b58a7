"""Faults of the node: its disk, its clock, and what it left behind and tells much later."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.chain import Chain
from tests.support.commands import hpctrack
from tests.support.disks import fill
from tests.support.journals import stored
from tests.support.paths import DATA
from tests.support.requirements import skip_or_fail
from tests.support.site_of_fakes import Site
from tests.support.tracked_scripts import bits, expected_row
from tests.support.waiting import eventually

pytestmark = pytest.mark.parametrize("server", ["wheel"], indirect=True)
ROWS, RATE = 1500, 500


@pytest.fixture
def settings(settings):
    return settings._replace(flush=30.0)


def show(settings, run_id: int, *options: str) -> str:
    done = hpctrack(settings, "show", f"r{run_id}", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_loses_lines_and_the_run_says_how_many(collect, track, settings, connection, small_disk):
    collect().address()
    small_disk.chmod(0o700)
    script = track(ROWS, RATE, node=small_disk)
    eventually(script.rows)
    filler = fill(small_disk)
    eventually(lambda: script.lost() > 100)
    filler.unlink()
    assert script.wait() == 0
    run_id = script.run_id(connection)
    accounts = "SELECT rows, lost FROM run_latest WHERE run_id = %s"
    eventually(lambda: sum(connection.execute(accounts, [run_id]).fetchone()) == ROWS)
    rows, lost = connection.execute(accounts, [run_id]).fetchone()
    assert lost > 100
    kept = connection.execute("SELECT step, x, bits, n FROM metrics WHERE run_id = %s", [run_id]).fetchall()
    assert len(kept) == rows
    stored_rows = [(step, bits(x), bits(y), int(n)) for step, x, y, n in kept]
    assert [row for row in stored_rows if row != expected_row(row[0])] == []
    assert {0, ROWS - 1} < {step for step, *_ in kept}
    assert f"{lost} lost" in show(settings, run_id)


@pytest.fixture(scope="module")
def jumping_clock(tmp_path_factory):
    if not shutil.which("cc"):
        skip_or_fail("no C compiler: apt-get install gcc libc6-dev")
    library = tmp_path_factory.mktemp("cc") / "jumping_clock.so"
    source = DATA / "programs" / "jumping_clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True)
    return str(library)


def test_a_clock_that_jumps_by_decades(collect, track, settings, connection, jumping_clock):
    collect().address()
    script = track(ROWS, RATE, LD_PRELOAD=jumping_clock)
    assert script.wait() == 0
    script.check()
    run_id = script.run_id(connection)
    years = "SELECT count(DISTINCT extract(year FROM time)) FROM metrics WHERE run_id = %s"
    assert connection.execute(years, [run_id]).fetchone()[0] >= 3
    shown = json.loads(show(settings, run_id, "--json"))
    assert (shown["state"], shown["exit_code"]) == ("COMPLETED", 0)


#: Two attempts that overlap: each logs ten steps, the second from the fifth on.
SCRIPT = """\
#!/bin/sh
exec "$PYTHON" -c '
import hpctrack, os
attempt = int(os.environ.get("SLURM_RESTART_COUNT", 0))
for step in range(5 * attempt, 5 * attempt + 10):
    hpctrack.log({"loss": step + attempt / 2, f"only{attempt}": float(step)}, step=step)
'
"""


@pytest.fixture
def attempt(tmp_path, database):
    """Submit a job; gives what runs an attempt of it to its end."""
    site = Site(tmp_path, database)
    code, _, errors = site.sbatch(site.script(SCRIPT), environ={"HPCTRACK_FLUSH": "1s"})
    assert code == 0, errors
    script = tmp_path / "slurm_script"
    shutil.copy(site.fake / "script", script)
    script.chmod(0o700)

    def run(number: int) -> None:
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": sys.executable,
            "TMPDIR": str(tmp_path), "SLURM_JOB_ID": "14", "SLURM_CLUSTER_NAME": "fake",
            "SLURMD_NODENAME": "n1", "SLURM_RESTART_COUNT": str(number),
        }  # fmt: skip
        subprocess.run([script], env=environ, cwd=tmp_path, timeout=60, check=True)

    run.settings = site.settings
    return run


def test_a_late_sync_of_an_attempt_whose_steps_were_rewritten(attempt, connection, tmp_path):
    settings = attempt.settings._replace(collector_bind="127.0.0.1", auto_columns=True)
    attempt(0)  # nobody hears of it
    journals = Path(settings.spool) / "journals"
    journals.rename(tmp_path / "out-of-sight")
    chain = Chain(settings, connection, tmp_path)
    chain.collect()
    try:
        attempt(1)
        second = {(step, 0.0): {"loss": step + 0.5, "only1": float(step)} for step in range(5, 15)}
        run_id = connection.execute("SELECT id FROM runs").fetchone()[0]
        if chain.spooled():
            assert chain.hpctrack("sync").returncode == 0
        eventually(lambda: stored(connection, run_id) == second)
        journals.mkdir(mode=0o700, exist_ok=True)
        for folder in (tmp_path / "out-of-sight").iterdir():
            folder.rename(journals / folder.name)
        for _ in range(2):
            assert chain.hpctrack("sync").returncode == 0
            assert chain.spooled() == []
            first = {(step, 0.0): {"loss": float(step), "only0": float(step)} for step in range(10)}
            merged = {key: {**first.get(key, {}), **second.get(key, {})} for key in first | second}
            assert stored(connection, run_id) == merged
            assert chain.accounts(run_id) == (20, 0, 0)
        rows = connection.execute("SELECT attempt FROM attempts WHERE run_id = %s ORDER BY 1", [run_id])
        assert rows.fetchall() == [(0,), (1,)]
        assert connection.execute("SELECT attempt FROM runs").fetchone() == (1,)
    finally:
        chain.close()
