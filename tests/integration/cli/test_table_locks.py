"""Whole tables that a user locks while a transaction is open: nobody waits for ever, or in silence."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import uuid

import psycopg
import pytest

from hpctrack import Client, errors, reconcile
from hpctrack.store import database as store
from hpctrack.store import locked
from hpctrack.store.schema import setup
from hpctrack.store.write import registration
from hpctrack.stream.wire import datagrams, records
from tests.support.collectors import Collector
from tests.support.commands import PROGRAM, environment
from tests.support.roles import PASSWORD
from tests.support.sender import Sender, logged, rows, whole
from tests.support.site_of_fakes import Site
from tests.support.waiting import eventually

#: What users have to change by themselves, and so may lock. All else is read, or changed for them.
LOCKABLE = {
    "attempts", "experiment_links", "experiment_relationships", "experiment_scopes", "experiments", "metrics",
    "run_latest", "run_links", "run_relationships", "runs", "shares", "submissions",
}  # fmt: skip


@pytest.fixture
def hold(roles):
    """Have alice lock a table until the block ends; yields what her session is called in messages."""

    @contextlib.contextmanager
    def lock(table):
        dsn = {**roles.of("alice").dsn, "password": PASSWORD, "application_name": "psql"}
        with psycopg.connect(**dsn, options="-csearch_path=hpctrack") as session:
            session.execute(f"LOCK TABLE {table}")
            yield f"{roles.role('alice')}'s session {session.info.backend_pid}"

    return lock


def test_users_may_lock_what_they_change_and_nothing_else(roles):
    query = (
        "SELECT relname FROM pg_class"
        " WHERE relnamespace = 'hpctrack'::regnamespace AND relkind IN ('r', 'p', 'v')"
    )
    found = set()
    for (table,) in roles.query("owner", query):
        for name in ("alice", "reader"):
            for mode in ("ROW SHARE", "SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE"):
                try:
                    with roles.connect(name).transaction():
                        roles.query(name, f"LOCK TABLE {table} IN {mode} MODE NOWAIT")
                except psycopg.errors.InsufficientPrivilege:
                    continue
                assert name == "alice"
                if mode != "ROW SHARE":
                    found.add(table)
    assert found == LOCKABLE


def command(settings, *words, **environ):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], env=environment(settings) | environ, timeout=120,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


#: By table: what waits for it.
COMMANDS = {
    "runs": (
        ("bob", "status"),
        ("bob", "status", "--json"),
        ("reader", "show", "r1"),
        ("bob", "metrics", "r1"),
        ("bob", "tag", "r2", "x"),
        ("bob", "delete", "r2", "--yes", "--force"),
        ("owner", "prune", "--older-than", "1d", "--yes"),
        ("bob", "experiment", "list"),
        ("bob", "compare", "r1", "r2"),
        ("bob", "cancel", "r2"),
    ),
    "metrics": (
        ("bob", "metrics", "r2"),
        ("bob", "export", "r2", "-o", "all.csv"),
        ("bob", "delete", "r2", "--yes", "--force"),
        ("owner", "setup", "more.sql"),
    ),
    "experiments": (
        ("bob", "status"),
        ("bob", "experiment", "list"),
        ("bob", "experiment", "rename", "bobs", "new"),
    ),
}


@pytest.mark.parametrize("table", COMMANDS)
def test_each_command_says_in_one_line_whose_session_it_waited_for(roles, hold, tmp_path, table):
    for name in ("alice", "bob"):
        run = roles.submit(name, f"{name}s")
        roles.query(name, "INSERT INTO metrics (run_id, step, extra) VALUES (%s, 0, '{\"n\": 1}')", run)
    (tmp_path / "more.sql").write_text("ALTER TABLE metrics ADD COLUMN more float;")
    with hold(table) as session:
        started = {
            words: subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *words[1:]],
                env=environment(roles.of(words[0])), cwd=tmp_path, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for words in COMMANDS[table]
        }  # fmt: skip
        for words, process in started.items():
            _, err = process.communicate(timeout=120)
            assert (process.returncode, err.count("\n")) == (75, 1), (words, err)
            assert session in err, words
            assert "pg_terminate_backend" in err


def test_sbatch_submits_and_says_whose_session_it_waited_for(roles, hold, tmp_path):
    site = Site(tmp_path, roles.of("bob"))
    with hold("runs") as session:
        code, out, err = site.sbatch("--wrap", "true")
    assert (code, out) == (0, "Submitted batch job 14\n")
    assert session in err
    assert len(site.waiting()) == 1


def test_sync_says_whose_session_it_waited_for(roles, hold):
    bob = roles.of("bob")
    record = roles.record("bob")
    records.set_unregistered(records.write(bob.spool, record))
    with hold("runs") as session:
        done = command(bob, "sync")
    assert (done.returncode, session in done.stderr) == (75, True), done.stderr
    assert len(list(records.unregistered(bob.spool))) == 1


def test_the_api_names_the_session(roles, hold):
    roles.submit("bob")
    with Client(settings=roles.of("bob")) as client:
        for act in (lambda: list(client.runs()), lambda: client.run("r1")):
            with hold("runs") as session, pytest.raises(errors.StoreBusy, match=session):
                act()


def test_psql_waits_as_long_as_other_commands_do(roles, hold):
    if shutil.which("psql") is None:
        pytest.skip("no psql")
    with hold("runs"):
        done = command(roles.of("bob"), "psql", "-c", "SELECT count(*) FROM runs")
    assert (done.returncode, done.stdout) == (1, "")
    assert "lock timeout" in done.stderr
    patient = "-c lock_timeout=3s"
    shown = command(roles.of("bob"), "psql", "-At", "-c", "SHOW lock_timeout", PGOPTIONS=patient)
    assert shown.stdout == "3s\n"


def test_who_submits_meanwhile_is_not_kept_and_told_whose_session_it_is(roles, hold):
    record = roles.record("bob")
    with hold("runs") as session, pytest.raises(errors.StoreBusy, match=session):
        registration.register(roles.connect("bob"), record)
    assert registration.register(roles.connect("bob"), record)


def test_a_pass_of_the_reconciler_ends_and_says_whose_session_it_is(roles, hold, slurm):
    roles.submit("bob")
    with store.connect(roles.of("collector"), patience=locked.PATIENCE) as connection:
        with hold("runs") as session, pytest.raises(errors.StoreBusy, match=session):
            reconcile.run_once(connection, slurm.backend(timeout=5), "mini")
        assert reconcile.run_once(connection, slurm.backend(timeout=5), "mini").error is None


@pytest.mark.parametrize("table", ["runs", "metrics", "run_latest"])
def test_the_collector_names_the_session_and_loses_nothing(roles, hold, table):
    record = roles.record("bob")
    run = registration.register(roles.connect("bob"), record)[-1]
    roles.query("owner", "ALTER TABLE metrics ADD COLUMN x float")
    collector = Collector(roles.of("collector")._replace(collector_bind="127.0.0.1"))
    try:
        sender = Sender(collector.address(), uuid.UUID(record.uuid), bytes.fromhex(record.secret))
        sender.ship(b"journal1", [rows(0)])
        with hold(table) as session:
            for number in range(1, 4):
                header = sender.header(b"journal1", 100 * number, 100 * number + 100)
                sender.send(datagrams.seal(sender.key, header, rows(3 * number)))
            trouble = "SELECT stats->>'trouble' FROM collectors"
            eventually(lambda: session in (roles.query("owner", trouble)[0][0] or ""))
            assert sender.answer(0.01) is None or sender.acknowledged[b"journal1"] == 100
        sender.ship(b"journal1", [rows(3 * number) for number in range(4)])
        assert logged(roles.connect("owner"), run) == whole(12)
        eventually(lambda: roles.query("owner", trouble) == [(None,)])
    finally:
        collector.end(signal.SIGKILL)


def test_an_advisory_lock_is_in_nobodys_way_where_there_is_a_ledger(roles, tmp_path):
    file = tmp_path / "more.sql"
    file.write_text("ALTER TABLE metrics ADD COLUMN more float;")
    with psycopg.connect(**roles.of("nobody").dsn, autocommit=True) as stranger:
        stranger.execute("SELECT pg_advisory_lock(hashtextextended('hpctrack setup hpctrack', 0))")
        code, out, err = roles.run("owner", "setup", str(file), "--grant-read", roles.role("reader"))
        assert (code, err) == (0, "")
    assert "more.sql" in out


def test_where_there_is_none_yet_setup_waits_a_while_and_names_the_session(bare_roles):
    with psycopg.connect(**bare_roles.of("nobody").dsn, autocommit=True) as stranger:
        stranger.execute("SELECT pg_advisory_lock(hashtextextended('hpctrack setup hpctrack', 0))")
        with pytest.raises(errors.StoreBusy, match=f"nobody_of_tests's session {stranger.info.backend_pid}"):
            setup.apply(bare_roles.of("owner"))
    setup.apply(bare_roles.of("owner"))
