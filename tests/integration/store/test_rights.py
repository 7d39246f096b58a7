"""What a reader of the tables does not get to see, on both servers."""

from __future__ import annotations

import uuid

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

READER_PASSWORD = "reader's own"


@pytest.fixture
def reader(server, database, connection):
    """Connect as a role that an administrator gave SELECT on everything, by mistake run_keys included."""
    name = f"reader_{database.dsn['dbname']}"
    role = sql.Identifier(name)
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, READER_PASSWORD))
    for grant in (
        "GRANT USAGE ON SCHEMA hpctrack TO {}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA hpctrack TO {}",
    ):
        connection.execute(sql.SQL(grant).format(role))
    dsn = {**database.dsn, "user": name, "password": READER_PASSWORD, "options": "-c search_path=hpctrack"}
    with psycopg.connect(**dsn, autocommit=True) as own:
        yield own
    connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
    connection.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture
def submission(connection):
    """Register one run of alice's."""
    name = uuid.uuid4()
    connection.execute(
        "SELECT register_submission(%s, %s, %s, '{-1}')",
        (
            Jsonb({"uuid": str(name), "user_name": "alice", "time": "2026-01-01T00:00:00Z", "env": {"A": "1"},
                   "script": "#!/bin/sh"}),
            b"k" * 32,
            Jsonb({"experiment": "e", "job_id": 14, "args": {"lr": 1}, "account": "lab"}),
        ),
    )  # fmt: skip
    return name


@pytest.fixture
def fellow(reader, connection):
    """Put the reader into the run's account; returns its connection."""
    connection.execute("INSERT INTO members VALUES ('lab', %s, 'member')", [reader.info.user])
    return reader


def test_a_reader_sees_that_runs_of_an_own_account_are_there_and_nothing_private(fellow, submission):
    listed = fellow.execute("SELECT user_name, status::text, args, env FROM run_overview").fetchall()
    assert listed == [("alice", "PENDING", None, None)]
    assert fellow.execute("SELECT * FROM submissions").fetchall() == []
    assert fellow.execute("SELECT args FROM runs").fetchall() == []


def test_a_reader_sees_nothing_of_another_account(reader, submission):
    for table in ("run_overview", "run_facts", "experiments", "transitions", "jobs"):
        assert reader.execute(f"SELECT * FROM {table}").fetchall() == [], table


def test_nobody_but_the_owner_reads_keys(reader, connection, submission):
    assert connection.execute("SELECT count(*) FROM run_keys").fetchone() == (1,)
    assert reader.execute("SELECT * FROM run_keys").fetchall() == []


def test_a_reader_submits_nothing(reader, connection, submission):
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for function"):
        reader.execute("SELECT register_submission('{}', 'k', '{}', '{-1}')")


def test_a_reader_changes_nothing(fellow, submission):
    for statement in (
        "UPDATE runs SET status = 'COMPLETED'",
        "DELETE FROM runs",
        "INSERT INTO metrics (run_id) SELECT id FROM run_overview",
        "TRUNCATE run_keys",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            fellow.execute(statement)


def test_a_submission_in_anothers_name_is_refused(reader, connection, submission):
    connection.execute(
        sql.SQL("GRANT EXECUTE ON FUNCTION register_submission TO {}").format(
            sql.Identifier(reader.info.user)
        )
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="belongs to alice"):
        reader.execute(
            "SELECT register_submission(%s, %s, %s, '{-1}')",
            (Jsonb({"uuid": str(submission), "user_name": "alice", "time": "2026-01-01T00:00:00Z"}),
             b"x" * 32, Jsonb({"experiment": "e"})),
        )  # fmt: skip
    assert connection.execute("SELECT secret FROM run_keys").fetchall() == [(b"k" * 32,)]
