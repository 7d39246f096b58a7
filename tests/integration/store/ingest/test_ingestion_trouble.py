"""While PostgreSQL itself is in trouble nothing is set aside, and all arrives later."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from hpctrack import errors
from hpctrack.store import database as store
from hpctrack.store import locked
from hpctrack.store.ingest import ingestion
from hpctrack.store.ingest import memory as store_memory
from tests.support.journals import A, Journal, one, stored

#: Rows that make a table grow.
MANY = [{"step": n, "x": 0.5, "s": "x" * 1500} for n in range(15_000)]


@contextlib.contextmanager
def _full_disk(admin, _connection):
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=False
        ).returncode:
            pytest.skip("no file system can be mounted here")
        name = "t" + uuid.uuid4().hex
        try:
            admin.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
            admin.execute(f"ALTER TABLE metrics_leaf_1 SET TABLESPACE {name}")
            yield
            admin.execute("ALTER TABLE metrics_leaf_1 SET TABLESPACE pg_default")
            admin.execute(f"DROP TABLESPACE {name}")
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def _limited(limit, value, connection):
    backend = connection.info.backend_pid
    before = resource.prlimit(backend, limit)
    resource.prlimit(backend, limit, (value, before[1]))
    yield
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(backend, limit, before)


def _file_too_large(_admin, connection):
    """What grows beyond 17 MB does not; the write-ahead log has files of 16 MB."""
    return _limited(resource.RLIMIT_FSIZE, 17 << 20, connection)


def _no_memory(_admin, connection):
    pages = int(Path(f"/proc/{connection.info.backend_pid}/statm").read_text().split()[0])
    return _limited(resource.RLIMIT_AS, pages * resource.getpagesize(), connection)


@contextlib.contextmanager
def _without(connection, command, back):
    connection.execute(command)
    yield
    connection.execute(back)


def _read_only(_admin, connection):
    command = "SET default_transaction_read_only = {}"
    return _without(connection, command.format("on"), command.format("off"))


def _no_right(table):
    given = f"SELECT, INSERT, UPDATE, DELETE ON {table}"
    revoke, grant = f"REVOKE {given} FROM {{}}", f"GRANT {given} TO {{}}"
    return lambda admin, connection: _without(
        admin, revoke.format(connection.info.user), grant.format(connection.info.user)
    )


def _no_table(table):
    rename = "ALTER TABLE {} RENAME TO {}".format
    return lambda admin, _connection: _without(admin, rename(table, "gone"), rename("gone", table))


TROUBLE = {
    "the disk is full": _full_disk,
    "a file can't grow": _file_too_large,
    "no memory": _no_memory,
    "it only reads": _read_only,
    "a right is missing": _no_right("metrics"),
    "a right is missing that few lines need": _no_right("usage"),
    "a table is missing": _no_table("usage"),
}


def journal_of(roles, name, owner):
    run = roles.submit(name)
    [(submission, task)] = roles.query("owner", "SELECT submission, task FROM runs WHERE id = %s", run)
    log = Journal(run, owner=owner)

    def named(piece):
        return piece._replace(submission=submission, task=task)

    return log, named


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
def test_nothing_is_set_aside_and_all_arrives_later(roles, trouble):
    admin = roles.superuser
    admin.execute("SET search_path TO hpctrack")
    admin.execute("ALTER TABLE metrics ADD CHECK (step <> 7)")
    few, of_few = journal_of(roles, "alice", "alice")
    many, of_many = journal_of(roles, "bob", "bob")
    usage = few.message("usage", {"time": 1.7e9, "node": "n", "processes": 1})
    pieces = [of_few(usage), of_few(few.rows(*({"step": n, "x": 0.5} for n in range(10))))]
    pieces += [of_many(many.rows(*MANY[begin : begin + 500])) for begin in range(0, len(MANY), 500)]
    memory, marks = store_memory.Memory(), {}

    def attempt(connection):
        memory.put_off._pauses = dict.fromkeys(memory.put_off._pauses, locked._Pause(0.0, 1.0))
        ingest = ingestion.Ingestion(connection, lambda *_: frozenset(), memory=memory, clock=lambda: 0.0)
        waiting = [p for p in pieces if p.start >= marks.get((p.run_id, A), 0)]
        with contextlib.suppress(errors.StoreError):
            marks.update(ingest.store(waiting).watermarks if waiting else {})

    with (
        store.connect(roles.of("collector"), autocommit=True) as connection,
        trouble(admin, connection),
    ):
        for _ in range(6):
            if not connection.closed:
                attempt(connection)
        assert (few.run_id, A) not in marks or (many.run_id, A) not in marks, "nothing went wrong"
        assert set(admin.execute("SELECT DISTINCT sqlstate FROM rejected").fetchall()) <= {("23514",)}
    with store.connect(roles.of("collector"), autocommit=True) as connection:
        for _ in range(12):
            attempt(connection)
    assert marks == {(few.run_id, A): few.end, (many.run_id, A): many.end}
    assert one(admin, "SELECT count(*) FROM metrics WHERE run_id = %s", many.run_id) == (len(MANY) - 1,)
    assert {step for step, _ in stored(admin, few.run_id)} == {0, 1, 2, 3, 4, 5, 6, 8, 9}
    assert one(admin, "SELECT count(*) FROM usage") == (1,)
    assert one(admin, "SELECT sum(rejected) FROM streams") == (2,)
    assert set(admin.execute("SELECT DISTINCT sqlstate FROM rejected").fetchall()) == {("23514",)}
