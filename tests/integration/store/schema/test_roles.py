"""hpctrack setup --grant-...: what roles of every kind get to see and to do, tried by each of them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from hpctrack import reconcile
from hpctrack.store import database as store
from hpctrack.store.write import registration
from tests.support.collectors import Collector
from tests.support.commands import PROGRAM, environment
from tests.support.slurm_says import T0, line
from tests.support.tracked_scripts import Tracked
from tests.support.waiting import eventually

DENIED = psycopg.errors.InsufficientPrivilege
#: What an administrator may have changed: rights on tables, functions, the schema; and roles.
_RIGHTS = """
SELECT relname::text, relacl::text FROM pg_class WHERE relnamespace = 'hpctrack'::regnamespace
UNION ALL SELECT proname, proacl::text FROM pg_proc WHERE pronamespace = 'hpctrack'::regnamespace
UNION ALL SELECT nspname, nspacl::text FROM pg_namespace
UNION ALL SELECT rolname, rolbypassrls::text FROM pg_roles
ORDER BY 1, 2
"""


def relations(roles) -> list[str]:
    """Return the tables and views of the schema."""
    query = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'hpctrack'::regnamespace"
        " AND relkind IN ('r', 'p', 'v') AND NOT relispartition"
    )
    return sorted(name for (name,) in roles.query("owner", query))


def contents(roles) -> dict[str, list[tuple]]:
    """Return all rows of all tables."""
    return {name: sorted(roles.query("owner", f"SELECT t::text FROM {name} t")) for name in relations(roles)}


@pytest.fixture
def filled(roles):
    """A site where alice and bob have run something; returns the roles with the ids of their runs."""
    runs = {name: roles.submit(name, f"{name}s") for name in ("alice", "bob")}
    for statement in (
        "INSERT INTO metrics (run_id, step) SELECT id, 1 FROM runs",
        "INSERT INTO attempts (run_id, attempt, stderr_tail) SELECT id, 0, 'secret' FROM runs",
        "INSERT INTO run_latest (run_id) SELECT id FROM runs",
        "INSERT INTO rejected (run_id, journal_id, start_offset, end_offset, reason, payload)"
        " SELECT id, 'j', 0, 1, 'secret', 'x' FROM runs",
        "INSERT INTO experiment_relationships SELECT id, 'like', id FROM experiments",
        "INSERT INTO run_relationships SELECT id, 'like', id FROM runs",
    ):
        roles.query("owner", statement)
    return roles, runs


def about(roles, run: int) -> dict:
    """Return what statements say of a run."""
    query = "SELECT id, experiment_id, submission FROM runs WHERE id = %s"
    return dict(zip(("run", "experiment", "submission"), roles.query("owner", query, run)[0], strict=True))


# --- giving rights ------------------------------------------------------------------------------------------


def test_it_says_what_it_gave_and_again_changes_nothing(bare_roles):
    roles, collector, users = bare_roles, bare_roles.role("collector"), bare_roles.role("users")
    arguments = ("setup", "--grant-user", users, "--grant-collector", collector, "--grant-user", users)
    code, out, err = roles.run("owner", *arguments)
    lines = [f"  user {users}: granted", f"  collector {collector}: granted"]
    assert (code, out.splitlines()[-2:]) == (0, lines)
    assert err.splitlines() == [
        f"hpctrack: {collector} stores rows at about half the speed until a superuser says: "
        f'GRANT SET ON PARAMETER session_replication_role TO "{collector}"'
    ]
    given = roles.query("owner", _RIGHTS)
    _, out, _ = roles.run("owner", *arguments)
    assert out.splitlines()[-2:] == [f"{line} before" for line in lines]
    assert roles.query("owner", _RIGHTS) == given


def test_a_superuser_gives_a_collector_all_it_needs(bare_roles):
    roles, role = bare_roles, bare_roles.make_role("other")
    assert roles.run("owner", "setup")[0] == 0
    code, _, err = roles.run("owner", "setup", "--grant-collector", role)
    assert (code, err.count("\n")) == (77, 1)
    assert f'ALTER ROLE "{role}" BYPASSRLS; then run this again' in err
    code, _, err = roles.run(None, "setup", "--grant-collector", role)
    assert (code, err) == (0, "")
    skip = "SELECT has_parameter_privilege('session_replication_role', 'SET'), acts_for_all()"
    assert roles.query("other", skip) == [(True, True)]


def test_a_role_of_any_name(roles):
    role = roles.make_role('Odd "one", or\'s')
    for _ in range(2):
        code, out, err = roles.run("owner", "setup", "--grant-user", role)
        assert (code, err) == (0, "")
    assert out.endswith(f"  user {role}: granted before\n")
    assert roles.submit('Odd "one", or\'s') > 0


def test_what_can_not_be_is_one_line_and_nothing_is_given(roles):
    given = roles.query("owner", _RIGHTS)
    for who, option, role, code, said in (
        ("owner", "--grant-read", "typo", 65, "there is no role 'typo' on this PostgreSQL server"),
        ("owner", "--grant-collector", "public", 65, "a collector is a role of its own"),
        ("owner", "--grant-collector", roles.role("users"), 65, "LOGIN"),
        ("alice", "--grant-read", roles.role("nobody"), 77, f"belongs to {roles.role('owner')}"),
    ):
        exit_code, _, err = roles.run(who, "setup", "--grant-read", roles.role("nobody"), option, role)
        assert (exit_code, err.count("\n")) == (code, 1)
        assert said in err
    assert roles.query("owner", _RIGHTS) == given


def test_everybody_is_a_role_too(roles):
    assert roles.run("owner", "setup", "--grant-user", "PUBLIC")[0] == 0
    assert roles.submit("nobody") > 0
    with pytest.raises(DENIED):
        roles.query("nobody", "SELECT * FROM run_keys")


def test_tables_added_later_can_be_read_and_what_was_taken_away_stays_so(roles, tmp_path):
    file = tmp_path / "v1.sql"
    file.write_text("CREATE TABLE notes (text text); ALTER TABLE metrics ADD COLUMN loss double precision;")
    roles.query("owner", f"REVOKE DELETE ON runs FROM {roles.role('users')}")
    roles.query("owner", f"REVOKE ALL ON clusters FROM {roles.role('reader')}")
    assert roles.run("owner", "setup", str(file))[0] == 0
    assert roles.query("reader", "SELECT * FROM notes") == []
    assert roles.query("reader", "SELECT loss FROM metrics") == []
    for name, statement in (("alice", "DELETE FROM runs"), ("reader", "SELECT * FROM clusters")):
        with pytest.raises(DENIED):
            roles.query(name, statement)


def test_a_role_that_leaves_takes_its_rights_along_and_leaves_its_runs(roles):
    assert roles.run("owner", "setup", "--grant-user", roles.role("nobody"))[0] == 0
    roles.submit("nobody")
    roles.execute(f"DROP OWNED BY {roles.role('nobody')}")
    assert roles.run("owner", "setup")[0] == 0
    with pytest.raises(DENIED):
        roles.query("nobody", "SELECT * FROM hpctrack.run_overview")
    assert roles.query("owner", "SELECT count(*) FROM runs") == [(1,)]


# --- looking ------------------------------------------------------------------------------------------------


def test_everything_can_be_read_but_keys_and_events(filled):
    roles, _ = filled
    for name in ("alice", "bob", "reader", "collector"):
        for relation in relations(roles):
            if relation in ("events", "run_keys") and name != "collector":
                with pytest.raises(DENIED, match=relation):
                    roles.query(name, f"SELECT * FROM {relation}")
            else:
                roles.query(name, f"SELECT * FROM {relation}")
    assert len(roles.query("collector", "SELECT * FROM run_keys")) == 2


def test_nobody_looks_in(filled):
    roles, _ = filled
    code, out, err = roles.run("nobody", "status")
    assert (code, out, err.count("\n")) == (77, "", 1)
    with psycopg.connect(**roles.of("nobody").dsn) as connection, pytest.raises(DENIED):
        connection.execute("SELECT * FROM hpctrack.runs")


#: Whether a run's details are seen, in each place where they could be.
_DETAILS = (
    "SELECT count(*) FROM runs t WHERE id = %(run)s AND t::text LIKE '%%secret%%'",
    "SELECT count(*) FROM run_overview t WHERE id = %(run)s AND t::text LIKE '%%secret%%'",
    "SELECT count(*) FROM attempts t WHERE run_id = %(run)s AND t::text LIKE '%%secret%%'",
    "SELECT count(*) FROM attempt_overview t WHERE run_id = %(run)s AND t::text LIKE '%%secret%%'",
    "SELECT count(*) FROM rejected t WHERE run_id = %(run)s AND t::text LIKE '%%secret%%'",
    "SELECT count(*) FROM submissions WHERE uuid = %(submission)s AND script LIKE '%%secret%%'"
    " AND env::text LIKE '%%secret%%'",
)


def test_others_details_are_seen_only_if_the_site_says_so(filled):
    roles, runs = filled
    alices = about(roles, runs["alice"])

    def seen(name: str) -> list[int]:
        return [roles.connect(name).execute(query, alices).fetchone()[0] for query in _DETAILS]

    for name in ("bob", "reader"):
        assert seen(name) == [0] * len(_DETAILS)
        listed = roles.query(name, "SELECT id FROM run_overview ORDER BY id")
        assert listed == [(run,) for run in sorted(runs.values())]
        assert len(roles.query(name, "SELECT * FROM metrics")) == 2
    for name in ("alice", "collector"):
        assert seen(name) == [1] * len(_DETAILS)
    assert roles.run("owner", "setup", "--details-visible", "all")[0] == 0
    assert [seen(name) for name in ("bob", "reader")] == [[1] * len(_DETAILS)] * 2
    assert roles.run("owner", "setup", "--details-visible", "own")[0] == 0
    assert [seen(name) for name in ("bob", "reader")] == [[0] * len(_DETAILS)] * 2


# --- changing -----------------------------------------------------------------------------------------------

#: What a user tries on a run and its experiment; takes effect only where these are theirs.
_CHANGES = (
    "UPDATE runs SET comment = 'mine now' WHERE id = %(run)s",
    "UPDATE runs SET status = 'COMPLETED' WHERE id = %(run)s",
    "UPDATE metrics SET progress = 1 WHERE run_id = %(run)s",
    "UPDATE run_latest SET last = '{}' WHERE run_id = %(run)s",
    "UPDATE attempts SET reason = 'because' WHERE run_id = %(run)s",
    "UPDATE experiments SET comment = 'mine now' WHERE id = %(experiment)s",
    "INSERT INTO metrics (run_id, step) VALUES (%(run)s, 99)",
    "INSERT INTO attempts (run_id, attempt) VALUES (%(run)s, 99)",
    "INSERT INTO transitions (run_id, source) VALUES (%(run)s, 'user')",
    "INSERT INTO run_links VALUES (%(run)s, 'x', %(run)s)",
    "INSERT INTO experiment_links VALUES (%(experiment)s, 'x', %(experiment)s)",
    "UPDATE run_links SET kind = 'y' WHERE from_id = %(run)s AND kind = 'x'",
    "DELETE FROM run_links WHERE from_id = %(run)s AND kind = 'like'",
    "DELETE FROM experiment_links WHERE from_id = %(experiment)s AND kind = 'like'",
    "DELETE FROM metrics WHERE run_id = %(run)s AND step = 1",
    "DELETE FROM runs WHERE id = %(run)s",
    "DELETE FROM experiments WHERE id = %(experiment)s",
)
#: What nobody but the tables' owner and the collector gets to do.
_FORBIDDEN = (
    "UPDATE runs SET user_name = 'root' WHERE user_name = session_user",
    "UPDATE experiments SET user_name = 'root' WHERE user_name = session_user",
    "INSERT INTO runs (experiment_id, user_name) SELECT id, 'root' FROM experiments",
    "INSERT INTO experiments (name, user_name) VALUES ('new', 'root')",
    "UPDATE runs SET submission = %(submission)s, task = 5 WHERE user_name = session_user",
    "INSERT INTO runs (experiment_id, submission, task, kind)"
    " VALUES (%(experiment)s, %(submission)s, 7, 'batch')",
    "INSERT INTO transitions (run_id, source) VALUES (%(run)s, 'sacct')",
    "UPDATE transitions SET reason = 'no' WHERE run_id = %(run)s",
    "INSERT INTO submissions (uuid, user_name, time) VALUES (gen_random_uuid(), session_user, now())",
    "UPDATE submissions SET script = ''",
    "INSERT INTO run_keys VALUES (%(submission)s, 'mine')",
    "INSERT INTO collectors (id, host, pid, addresses) VALUES (gen_random_uuid(), 'h', 1, '{}')",
    "INSERT INTO site VALUES ('details_visible', 'yes')",
    "DELETE FROM applied_migrations",
    "INSERT INTO usage (run_id, attempt, node, time) VALUES (%(run)s, 0, 'n', now())",
    "UPDATE streams SET watermark = 0",
    "TRUNCATE metrics",
    "ALTER TABLE metrics ADD COLUMN mine float",
    "CREATE TABLE hpctrack.mine ()",
    "SELECT add_metric_columns('{mine}', '')",
    "SET session_replication_role = replica",
    "SET row_security = off; DELETE FROM runs",
)


def test_nobody_changes_anothers_runs(filled):
    roles, runs = filled
    before, alices = contents(roles), about(roles, runs["alice"])
    for name in ("bob", "reader"):
        connection = roles.connect(name)
        for statement in _CHANGES:
            try:
                assert connection.execute(statement, alices).rowcount == 0, statement
            except DENIED:
                continue
        for statement in _FORBIDDEN:
            given = None if ";" in statement else alices
            with pytest.raises(DENIED):
                connection.execute(statement, given)
            connection.execute("SET row_security = on")
    assert contents(roles) == before


def test_users_change_their_own_runs(filled):
    roles, runs = filled
    own = about(roles, runs["alice"])
    for statement in _CHANGES:
        assert roles.connect("alice").execute(statement, own).rowcount == 1, statement
    for table in ("runs", "metrics", "attempts", "transitions", "run_latest", "run_relationships"):
        column = "id" if table == "runs" else "from_id" if table == "run_relationships" else "run_id"
        assert roles.query("owner", f"SELECT DISTINCT {column} FROM {table}") == [(runs["bob"],)]


def test_an_experiment_with_others_runs_is_not_deleted(roles):
    roles.submit("alice", "shared")
    roles.submit("bob", "shared")
    with pytest.raises(DENIED, match="runs of other people are in this experiment"):
        roles.query("alice", "DELETE FROM experiments WHERE name = 'shared'")
    assert roles.query("owner", "SELECT count(*) FROM runs") == [(2,)]


def test_only_a_collector_registers_for_others(roles):
    record = roles.record("alice")
    with pytest.raises(DENIED, match="but this login is"):
        roles.query(
            "bob", "SELECT register_submission(%s, 'k', %s, '{-1}')",
            json.dumps(record.submission), json.dumps(record.run),
        )  # fmt: skip
    registration.register(roles.connect("collector"), record)
    assert roles.query("alice", "SELECT user_name FROM runs") == [(roles.role("alice"),)]


# --- working ------------------------------------------------------------------------------------------------


def test_what_users_run_goes_through_a_collector_that_is_no_superuser(roles, tmp_path):
    collector = Collector(roles.of("collector")._replace(collector_bind="127.0.0.1", auto_columns=True))
    try:
        alice = roles.of("alice")._replace(collector=(collector.address(),))
        tracked = Tracked(alice, tmp_path, 3000, 1e6)
        assert tracked.wait() == 0
        # A script that is over before its run was known left its journals in the spool.
        command = [sys.executable, "-c", PROGRAM, "sync"]
        subprocess.run(command, env=environment(alice), cwd=tmp_path, check=True)
        tracked.check()
        ended = "SELECT status::text FROM run_overview WHERE time_ended IS NOT NULL"
        assert eventually(lambda: roles.query("reader", ended)) == [("COMPLETED",)]
    finally:
        assert collector.end() == 0
    code, out, err = roles.run("bob", "show", "r1")
    assert (code, err) == (0, "")
    assert "Metrics: 3,000 rows" in out
    sources = roles.query("reader", "SELECT DISTINCT source FROM transitions ORDER BY 1")
    assert sources == [("relay",), ("submit",)]


def test_a_collector_reconciles_everybodys_runs(roles, slurm):
    runs = {roles.submit(name, job_id=job) for name, job in (("alice", 7), ("bob", 8))}
    roles.query("owner", "UPDATE submissions SET slurm_user = 'alice', time = %s", T0)
    slurm.says("squeue", line(7), line(8))
    with store.connect(roles.of("collector")) as connection:
        report = reconcile.run_once(connection, slurm.backend(timeout=5), "mini")
    assert {change.run.run_id for change in report.changes} == runs
    assert roles.query("reader", "SELECT DISTINCT status::text FROM run_overview") == [("RUNNING",)]
    assert len(roles.query("reader", "SELECT * FROM attempt_overview")) == 2
    assert roles.query("reader", "SELECT unreachable_since FROM clusters") == [(None,)]


def test_retention_is_for_ones_own_runs_and_for_the_collector_everybodys(filled):
    roles, _ = filled
    long_ago = datetime.now(timezone.utc) - timedelta(days=500)
    roles.query("owner", "UPDATE runs SET time_ended = %s", long_ago)

    def prune(name: str) -> str:
        code, out, err = roles.run(name, "prune", "--older-than", "365d", "--yes")
        assert (code, err) == (0, "")
        return out

    assert "no run ended before" in prune("reader")
    assert "deleted 1 run " in prune("alice")
    for table in ("runs", "submissions"):
        assert roles.query("owner", f"SELECT user_name FROM {table}") == [(roles.role("bob"),)]
    assert "deleted 1 run " in prune("collector")
    for table in ("runs", "metrics", "submissions", "run_keys", "attempts"):
        assert roles.query("owner", f"SELECT count(*) FROM {table}") == [(0,)], table


@pytest.mark.parametrize("verb", ["collector", "reconcile"])
def test_what_is_for_a_collector_is_for_nobody_else(roles, slurm, monkeypatch, verb):
    monkeypatch.setenv("PATH", str(slurm.folder), prepend=os.pathsep)
    if verb == "reconcile":
        (slurm.folder / "scontrol").symlink_to("squeue")
    roles.submit("alice")
    handlers = logging.getLogger().handlers[:]
    for name in ("alice", "reader", "nobody"):
        code, out, err = roles.run(name, verb)
        assert logging.getLogger().handlers == handlers
        assert (code, out, err.count("\n")) == (77, "", 1), err
    assert (
        f"role {roles.role('reader')} is none: hpctrack setup --grant-collector"
        in roles.run("reader", verb)[2]
    )


def test_a_user_settles_what_a_machine_took_with_it(roles):
    run, node = roles.submit("alice"), os.uname().nodename.partition(".")[0]
    outside = "UPDATE runs SET cluster = NULL, slurm_job_id = NULL, kind = 'command', status = 'RUNNING'"
    roles.query("owner", outside)
    begun = "INSERT INTO attempts (run_id, attempt, batch_host, time_started) VALUES (%s, 0, %s, 'epoch')"
    roles.query("owner", begun, run, node)
    code, out, err = roles.run("alice", "reconcile")
    assert (code, err) == (0, "")
    assert out.startswith(f"r{run}  here  RUNNING -> NODE_FAIL")
    assert roles.query("alice", "SELECT status::text FROM runs") == [("NODE_FAIL",)]
