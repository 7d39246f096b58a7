"""What users of a site try on others by way of PostgreSQL itself; for rows see test_roles."""

from __future__ import annotations

import os
import uuid

import psycopg
import pytest

from hpctrack import errors
from hpctrack.store import collectors, registration
from hpctrack.store import database as store
from hpctrack.stream import records

DENIED = psycopg.errors.InsufficientPrivilege


def test_functions_that_act_for_the_owner_are_nobodys_to_use(roles):
    query = (
        "SELECT proname, proacl::text FROM pg_proc"
        " WHERE prosecdef AND pronamespace = 'hpctrack'::regnamespace"
    )
    rights = dict(roles.query("owner", query))
    assert set(rights) == {"add_metric_columns", "note_latest", "register_submission"}
    assert not [name for name, acl in rights.items() if acl is None or acl.startswith("{=X")]


def test_a_trigger_of_the_schema_on_a_table_of_ones_own(roles):
    run = roles.submit("alice")
    roles.query("owner", "INSERT INTO metrics (run_id, step, time) VALUES (%s, 99, 'infinity')", run)
    latest = "SELECT * FROM run_latest"
    before = roles.query("owner", latest)
    bob = roles.connect("bob")
    bob.execute("CREATE TEMP TABLE mine (id bigint, status runstatus, time_updated timestamptz)")
    with pytest.raises(DENIED):
        bob.execute("CREATE TRIGGER t AFTER UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION note_latest()")
        bob.execute("INSERT INTO mine VALUES (%s, 'RUNNING', now())", [run])
        bob.execute("UPDATE mine SET status = 'COMPLETED'")
    assert roles.query("owner", latest) == before


def test_nobody_keeps_collectors_from_their_lease(roles):
    """Advisory locks are anybody's who can connect."""
    held = "SELECT pg_advisory_lock(hashtextextended('hpctrack lease hpctrack', 0))"
    with psycopg.connect(**roles.of("nobody").dsn, autocommit=True) as stranger:
        stranger.execute(held)
        with store.connect(roles.of("collector"), autocommit=True) as connection:
            connection.execute("SET lock_timeout = '2s'")
            identity = {"host": "h", "pid": os.getpid(), "addresses": [], "stats": {}}
            assert collectors.beat(connection, uuid.uuid4(), **identity)
    for name in ("alice", "reader"):
        with pytest.raises(DENIED):
            roles.query(name, "BEGIN; LOCK TABLE collectors IN SHARE UPDATE EXCLUSIVE MODE")


def test_the_experiment_of_all_who_name_none_is_not_the_first_ones(roles):
    roles.submit("alice", "default")
    roles.submit("bob", "default")
    for name in ("alice", "bob"):
        assert roles.query(name, "UPDATE experiments SET name = 'mine'") == 0
    assert roles.query("owner", "SELECT name, user_name FROM experiments") == [
        ("default", roles.role("owner"))
    ]


def test_an_experiment_that_somebody_holds_keeps_nobody_from_their_work(roles, caplog):
    roles.submit("alice", "shared")
    record = roles.record("bob", "shared")
    path = records.write(roles.of("bob").spool, record)
    with roles.connect("alice").transaction():
        roles.query("alice", "SELECT FROM experiments WHERE name = 'shared' FOR UPDATE")
        with pytest.raises(errors.StoreBusy, match="in a transaction that it has not ended"):
            registration.register(roles.connect("bob"), record)
        assert registration.register_pending(roles.of("bob"), roles.connect("bob")) == 0
    assert f"{path} can't be registered now" in caplog.text
    assert registration.register_pending(roles.of("bob"), roles.connect("bob")) == 1
