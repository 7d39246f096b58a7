"""pg_dump and pg_restore, as docs/site.md tells: what comes back, and which ids are given next."""

from __future__ import annotations

import os
import subprocess
import uuid

import psycopg
import pytest
from psycopg import sql

from tests.support.postgres_servers import debian_binaries, wheel_binaries


@pytest.fixture
def programs(request, roles, tmp_path):
    """Run a program of that PostgreSQL's as a superuser."""
    found = {"wheel": wheel_binaries, "debian": debian_binaries}[request.node.callspec.params["server"]]
    dsn = roles.settings.dsn
    environ = {**os.environ, "PGHOST": dsn["host"], "PGPORT": dsn["port"], "PGUSER": dsn["user"]}
    environ["PGPASSWORD"] = dsn["password"]

    def call(program, *arguments):
        command = [found() / program, *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    return call


@pytest.fixture
def restored(roles, programs):
    """Make a database; returns its name."""
    name = f"restored_{uuid.uuid4().hex[:8]}"
    programs("createdb", f"--owner={roles.role('owner')}", name)
    yield name
    programs("dropdb", "--force", name)


WAYS = {
    "all of it": [[]],
    "rows into a schema that is there": [["--schema-only"], ["--data-only", "--disable-triggers"]],
}


@pytest.mark.parametrize("steps", WAYS.values(), ids=WAYS)
def test_what_is_restored_is_what_was_and_ids_go_on(roles, programs, restored, steps):
    runs = [roles.submit("alice") for _ in range(4)]
    roles.query("alice", "DELETE FROM runs WHERE id = %s", runs[-1])
    roles.query("alice", "UPDATE runs SET comment = 'no longer first on disk' WHERE id = %s", runs[0])
    programs("pg_dump", "--format=custom", "--file=hpctrack.dump", roles.settings.dsn["dbname"])
    for options in steps:
        programs("pg_restore", *options, f"--dbname={restored}", "hpctrack.dump")
    tables = [
        name
        for (name,) in roles.query("owner", "SELECT tablename FROM pg_tables WHERE schemaname = 'hpctrack'")
    ]
    dsn = {**roles.settings.dsn, "dbname": restored}
    with psycopg.connect(**dsn, options="-c search_path=hpctrack") as connection:
        for name in tables:
            query = sql.SQL("SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {} t")
            there = connection.execute(query.format(sql.Identifier(name))).fetchone()
            assert [there] == roles.query("owner", query.format(sql.Identifier(name)).as_string()), name
        made = connection.execute("INSERT INTO runs (experiment_id) VALUES (1) RETURNING id").fetchone()
        assert made == (runs[-1] + 1,)
        with pytest.raises(psycopg.errors.UniqueViolation, match="was given before"):
            connection.execute("INSERT INTO runs (id, experiment_id) VALUES (%s, 1)", [runs[-1]])
