"""What several tests of ingestion, the collector and the reconciler need."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import uuid

import psycopg
import pytest
from psycopg.rows import dict_row

from hpctrack import reconcile
from hpctrack.settings import Settings
from hpctrack.store.ingest import ingestion
from tests.conftest import clone, skip_or_fail
from tests.support.processes import Collector, Tracked
from tests.support.roles import Roles
from tests.support.site_of_fakes import Site
from tests.support.slurm_says import T0, Slurm


@pytest.fixture
def cli(cli, database, monkeypatch):
    """Run the command line on the test's database; returns exit code, stdout, stderr."""
    for name, value in database.dsn.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name.upper()}", value)
    monkeypatch.setenv("HPCTRACK_DATA_DIR", database.data_dir)
    return cli


@pytest.fixture
def printed(cli):
    """Run the command line on the test's database, which succeeds; returns its output."""

    def call(*arguments):
        code, out, err = cli(*arguments)
        assert code == 0, err
        return out

    return call


@pytest.fixture
def run(insert):
    """Insert a run; returns its id."""
    experiment = insert("experiments", name="e")
    return lambda: insert("runs", experiment_id=experiment, status="RUNNING")


@pytest.fixture
def observed():
    return []


@pytest.fixture
def ingest(connection, observed):
    def observe(_connection, messages):
        observed.extend(messages)
        return frozenset(message.run_id for message in messages if message.kind == "fin")

    return ingestion.Ingestion(connection, observe, auto_columns=True)


@pytest.fixture
def plain(connection):
    """Ingestion that adds no columns."""
    return ingestion.Ingestion(connection, lambda _connection, _messages: frozenset())


@pytest.fixture
def slurm(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return Slurm(folder)


@pytest.fixture
def register(connection):
    """Register a submission as hpctrack sbatch does; returns the run's id, or ids by task."""

    def run(job, tasks=None, cluster="mini", user="alice", **fields):
        submission = {
            "uuid": str(uuid.uuid4()), "user_name": user, "cluster": cluster, "time": T0.isoformat(),
        }  # fmt: skip
        rows = connection.execute(
            "SELECT * FROM register_submission(%s, %s, %s, %s)",
            (
                json.dumps(submission),
                b"x",
                json.dumps({"experiment": "e", "job_id": job, **fields}),
                tasks or [-1],
            ),
        ).fetchall()
        found = dict(rows)
        return found if tasks else found[-1]

    return run


@pytest.fixture
def fetch(connection):
    """Query; returns the one row, or the list of rows if told so."""

    def run(query, *parameters, many=False):
        with connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(query, parameters).fetchall()
        assert many or len(rows) == 1
        return rows if many else rows[0]

    return run


@pytest.fixture
def get(fetch):
    return lambda run_id: fetch("SELECT * FROM runs WHERE id = %s", run_id)


@pytest.fixture
def once(connection, slurm):
    """Make one pass."""
    return lambda **options: reconcile.run_once(connection, slurm.backend(timeout=5), "mini", **options)


@pytest.fixture
def submit(connection):
    """Register submissions of one run; returns run id, UUID and secret."""

    def run():
        name, secret = uuid.uuid4(), os.urandom(32)
        (run_id,) = connection.execute(
            "WITH e AS (INSERT INTO experiments (name) VALUES (%(u)s::text) RETURNING id),"
            " s AS (INSERT INTO submissions (uuid, user_name, time) VALUES (%(u)s::uuid, 'u', now())),"
            " k AS (INSERT INTO run_keys VALUES (%(u)s::uuid, %(secret)s))"
            " INSERT INTO runs (experiment_id, status, submission, task, kind)"
            " SELECT id, 'RUNNING', %(u)s::uuid, -1, 'command' FROM e RETURNING id",
            {"u": str(name), "secret": secret},
        ).fetchone()
        return run_id, name, secret

    return run


@pytest.fixture
def site(tmp_path):
    """A site whose PostgreSQL is down."""
    return Site(tmp_path)


@pytest.fixture
def stored(tmp_path, database):
    """A site with a PostgreSQL."""
    return Site(tmp_path, database)


# --- the whole chain under faults; each file has settings of its own ---


@pytest.fixture
def collect(settings):
    """Start collectors; all are ended with the test."""
    started = []

    def run(*options, **changes):
        started.append(Collector(settings._replace(**changes), *options))
        return started[-1]

    yield run
    for one in started:
        one.end(signal.SIGKILL)


@pytest.fixture
def track(tmp_path, settings):
    """Start tracked scripts that log so many rows at a rate; all are ended with the test."""
    started = []

    def run(count, rate, *, settings=settings, **options):
        started.append(Tracked(settings, tmp_path, count, rate, **options))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            os.kill(one.script(), signal.SIGKILL)
            one.process.wait(30)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of eight megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0777", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        skip_or_fail("file systems can't be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def bare_roles(empty_database, monkeypatch, capsys):
    """Roles of every kind, and a database that is still empty."""
    with contextlib.closing(Roles(empty_database, monkeypatch, capsys)) as roles:
        yield roles


@pytest.fixture
def roles(server, tmp_path, monkeypatch, capsys):
    """Roles of every kind, and a database that is set up for them."""
    template = "template_roles"
    settings = Settings(dsn={**server.params, "dbname": template}, data_dir=str(tmp_path / "template"))
    with contextlib.suppress(psycopg.errors.DuplicateDatabase):
        server.execute(f"CREATE DATABASE {template}")
        with contextlib.closing(Roles(settings, monkeypatch, capsys)) as roles:
            roles.open()
    for cloned in clone(server, template, tmp_path / "data"):
        with contextlib.closing(Roles(cloned, monkeypatch, capsys)) as roles:
            yield roles
