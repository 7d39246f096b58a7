"""What users of a site try on others by way of PostgreSQL itself; for rows see test_roles."""

from __future__ import annotations

import os
import uuid

import psycopg
import pytest

from hpctrack import errors, reconcile
from hpctrack.store import database as store
from hpctrack.store.write import collectors, registration, retention
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import TASK_NONE, RunName
from tests.support.slurm_says import T0, line

DENIED = psycopg.errors.InsufficientPrivilege


#: They tell whoever asks of nobody but themselves.
_OF_ONESELF = {
    "accounts_shown", "coordinated_accounts", "is_any_narrowed", "is_own_submission", "is_shown_any",
    "my_accounts", "nth_newest_run", "sees_all", "sees_every_run", "site_choice",
}  # fmt: skip


def test_functions_that_act_for_the_owner_are_nobodys_to_use(roles):
    query = (
        "SELECT proname, proacl::text FROM pg_proc"
        " WHERE prosecdef AND pronamespace = 'hpctrack'::regnamespace"
    )
    rights = dict(roles.query("owner", query))
    assert set(rights) - _OF_ONESELF == {
        "add_metric_columns", "give_id", "known_runs", "note_deletion", "note_event",
        "note_latest", "register_submission",
    }  # fmt: skip
    open_ones = {name for name, acl in rights.items() if acl is None or acl.startswith("{=X")}
    assert open_ones == _OF_ONESELF


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


def test_the_experiment_of_all_who_name_none_is_nobodys_to_make(roles):
    """Nor to hold by an insertion that does not end."""
    roles.query("bob", "INSERT INTO experiments (name) VALUES ('bobs')")
    for command in (
        "INSERT INTO experiments (name) VALUES ('default')",
        "INSERT INTO experiments (name) VALUES ('default') ON CONFLICT DO NOTHING",
        "UPDATE experiments SET name = 'default'",
    ):
        with psycopg.connect(**roles.of("bob").dsn, options="-c search_path=hpctrack") as open_one:
            with pytest.raises(DENIED, match="default_is_nobodys"):
                open_one.execute(command)
            registration.register(roles.connect("alice"), roles.record("alice", "default"))
            roles.query("owner", "DELETE FROM experiments WHERE name = 'default'")
    registration.register(roles.connect("alice"), roles.record("alice", "default"))
    assert roles.query(
        "bob", "INSERT INTO runs (experiment_id) SELECT id FROM experiments WHERE name = 'default'"
    )


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


#: What a user writes into an own run and what belongs to it, to the harm of whoever lists them.
_SPOILING = (
    "UPDATE runs SET time_started = 'infinity', time_ended = 'infinity' WHERE id = %(run)s",
    "UPDATE runs SET time_created = '4713-01-01 BC' WHERE id = %(run)s",
    "UPDATE runs SET missing_since = '-infinity' WHERE id = %(run)s",
    "UPDATE runs SET time_limit = '170000000 years' WHERE id = %(run)s",
    "UPDATE runs SET attempt = 2147483647 WHERE id = %(run)s",
    "UPDATE runs SET tags = jsonb_build_object('n', repeat('9', 5000)::numeric) WHERE id = %(run)s",
    "UPDATE runs SET tags = '[1, 2]', args = '3', env = '\"x\"' WHERE id = %(run)s",
    "UPDATE runs SET slurm_job_id = -1, array_job_id = 9, array_task_id = -7, exit_signal = 9999"
    " WHERE id = %(run)s",
    "UPDATE run_latest SET last = (repeat('[', 2000) || repeat(']', 2000))::jsonb WHERE run_id = %(run)s",
    "UPDATE run_latest SET last = jsonb_build_object('n', (repeat('[', 2000) || repeat(']', 2000))::jsonb)"
    " WHERE run_id = %(run)s",
    "UPDATE run_latest SET last = jsonb_build_object('n', repeat('9', 5000)::numeric)"
    ", rows = 9223372036854775807 WHERE run_id = %(run)s",
    "UPDATE attempts SET resources = '[1]' WHERE run_id = %(run)s",
    'UPDATE attempts SET resources = \'{"max_rss_bytes": 1e300, "req_tres": {"cpu": 1e300, "mem": -1e300}}\''
    " WHERE run_id = %(run)s",
    "UPDATE attempts SET time_started = '-infinity', attempt = 2147483647 WHERE run_id = %(run)s",
    "INSERT INTO metrics (run_id, step, progress, time, extra) VALUES (%(run)s, 7, 'NaN', 'infinity', '1')",
    "INSERT INTO transitions (run_id, source, time) VALUES (%(run)s, 'user', 'infinity')",
    "UPDATE experiments SET time_created = 'infinity', tags = '[1]' WHERE id = %(experiment)s",
)
_LOOKS = (
    ("status", "--format", "run,job,elapsed,limit,cpus,maxmem,cpueff,memeff,timeeff,tags,args,latest,rows"),
    ("status", "--json"),
    ("status", "--array", "--sort", "elapsed"),
    ("status", "--where", "metrics.n < 1 and args.lr < 1"),
    ("experiment", "list"),
    ("show", "r1"),
    ("show", "r1", "--json"),
    ("metrics", "r1"),
)


def test_nothing_that_a_user_writes_spoils_others_lists_or_the_reconciler(roles, slurm):
    job = 7
    run = roles.submit("alice", "shared", job_id=job)
    for table in ("attempts", "run_latest"):
        columns = "(run_id, attempt)" if table == "attempts" else "(run_id, rows)"
        roles.query("alice", f"INSERT INTO {table} {columns} VALUES (%s, 0)", run)
    roles.query("alice", "INSERT INTO metrics (run_id, step, extra) VALUES (%s, 0, '{\"n\": 1}')", run)
    other = roles.submit("bob", "shared", job_id=8)
    roles.query("owner", "UPDATE submissions SET slurm_user = 'alice', time = %s", T0)
    (experiment,) = roles.query("alice", "SELECT id FROM experiments")[0]
    alice = roles.connect("alice")
    for number, statement in enumerate(_SPOILING):
        try:
            alice.execute(statement, {"run": run, "experiment": experiment})
        except psycopg.errors.CheckViolation:
            continue
        view = "SELECT * FROM jobs j JOIN attempt_resources USING (run_id) JOIN metric_values USING (run_id)"
        roles.query("bob", view)
        for look in _LOOKS:
            code, _, err = roles.run("bob", *look)
            told = [line for line in err.splitlines() if "of the newest 1,000 runs none has" not in line]
            assert (code, told) == (0, []), (statement, look)
        state = ("RUNNING", "SUSPENDED")[number % 2]
        slurm.says("squeue", line(job), line(8, state))
        with store.connect(roles.of("collector")) as connection:
            report = reconcile.run_once(connection, slurm.backend(timeout=5), "mini")
        assert report.error is None
        assert roles.query("bob", "SELECT status::text FROM runs WHERE id = %s", other) == [(state,)], (
            statement
        )


def test_deletions_are_nobodys_to_write_and_prove_nothing_to_others(roles):
    """Only what had the same secret was deleted."""
    alices = roles.record("alice")
    bobs = roles.record("bob")._replace(uuid=alices.uuid, secret=os.urandom(32).hex())
    bobs.submission["uuid"] = alices.uuid
    name = RunName.of(alices.uuid, TASK_NONE)

    def deleted(record):
        key = records.fingerprint(record)
        runs = collectors.deleted_runs(roles.connect("alice"), {name: key})
        return runs == {name}, retention.deleted(roles.connect("alice"), {record.uuid: key}) == {record.uuid}

    for role, record in (("bob", bobs), ("alice", alices)):
        assert deleted(alices) == (False, False)
        registration.register(roles.connect(role), record)
        for table, column in (("runs", "submission"), ("submissions", "uuid")):
            assert roles.query(role, f"DELETE FROM {table} WHERE {column} = %s", record.uuid) == 1
    assert deleted(alices) == (True, True)
    for command in (
        "INSERT INTO {} VALUES (gen_random_uuid(), 1, '')",
        "UPDATE {} SET task = 1",
        "DELETE FROM {}",
    ):
        for role in ("alice", "bob", "reader", "collector"):
            with pytest.raises(DENIED):
                roles.query(role, command.format("deletions"))


#: What would put something of a user's own into the way of others' rows, by table.
_IN_THE_WAY = (
    "CREATE TRIGGER t BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE r AS ON INSERT TO {} DO INSTEAD NOTHING",
    "CREATE RULE r AS ON UPDATE TO {} DO ALSO SELECT 1",
    "CREATE POLICY p ON {} AS RESTRICTIVE USING (false)",
    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {} ADD CHECK (false) NOT VALID",
    "ALTER TABLE {} ADD COLUMN mine text",
    "ALTER TABLE {} OWNER TO CURRENT_USER",
    "CREATE TABLE pg_temp.child () INHERITS ({})",
    "CREATE UNIQUE INDEX ON {} ((1))",
    "CREATE STATISTICS s ON tableoid, ctid FROM {}",
    "COMMENT ON TABLE {} IS 'mine'",
    "TRUNCATE {}",
)
#: And whatever the table.
_ANYWHERE = (
    "CREATE FUNCTION hpctrack.jsonb_to_recordset(jsonb) RETURNS SETOF record LANGUAGE sql AS 'SELECT 1, 2'",
    "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'",
    "CREATE OPERATOR hpctrack.|| (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = pg_catalog.jsonb_concat)",
    "CREATE DOMAIN hpctrack.jsonb AS text",
    "CREATE TYPE hpctrack.text AS ENUM ('x')",
    "CREATE VIEW hpctrack.pg_trigger AS SELECT 1",
    "CREATE TABLE hpctrack.pg_class (x int)",
    "CREATE CAST (runstatus AS jsonb) WITH INOUT AS IMPLICIT",
    "ALTER FUNCTION known_runs(uuid[], integer[]) RESET ALL",
    "CREATE SCHEMA collector_of_tests",
    "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION event_trigger()",
    "ALTER ROLE collector_of_tests SET search_path = public",
    "ALTER ROLE collector_of_tests SET default_transaction_read_only = on",
    "SET ROLE collector_of_tests",
    "SET SESSION AUTHORIZATION collector_of_tests",
)


def test_nobody_puts_anything_of_their_own_in_others_way(roles):
    """Triggers, rules, policies, constraints on tables; names that statements of ours use."""
    query = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'hpctrack'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition"
    )
    commands = [command.format(table) for (table,) in roles.query("owner", query) for command in _IN_THE_WAY]
    for name in ("alice", "reader"):
        for command in (*commands, *_ANYWHERE):
            sqlstate = "taken"
            try:
                roles.query(name, command)
            except psycopg.Error as error:
                sqlstate = error.sqlstate
            # 42809: what a table that is divided can't be used for.
            assert sqlstate in ("42501", "42P17", "42883", "42704", "42809"), (name, command)


def test_no_foreign_key_of_a_users_keeps_rows_of_others(roles):
    roles.execute(f"CREATE SCHEMA mine AUTHORIZATION {roles.role('alice')}")
    with pytest.raises(DENIED):
        roles.query("alice", "CREATE TABLE mine.more (run_id bigint REFERENCES hpctrack.runs)")


def test_tables_of_ones_own_take_nobodys_place_in_what_acts_for_the_owner(roles):
    """Temporary tables come first on every search path that does not say otherwise."""
    bob = roles.connect("bob")
    for table in ("runs", "submissions", "experiments", "run_keys", "run_latest", "metrics", "streams"):
        bob.execute(
            f"CREATE TEMP TABLE {table} AS SELECT * FROM hpctrack.{table} WITH NO DATA"
            if table != "run_keys"
            else "CREATE TEMP TABLE run_keys (submission uuid, secret bytea)"
        )
    run = registration.register(bob, roles.record("bob"))[-1]
    assert roles.query("owner", "SELECT user_name FROM runs WHERE id = %s", run) == [(roles.role("bob"),)]
    assert bob.execute("SELECT count(*) FROM pg_temp.run_keys").fetchone() == (0,)
