"""A site of its own for a benchmark: an embedded PostgreSQL as users get it, runs, and a real collector."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from psycopg import sql

from benchmarks.result import ENVIRON
from hpctrack.settings import Settings
from hpctrack.store import database, embedded
from hpctrack.store.embedded import host_folder
from hpctrack.store.embedded.cluster_folder import Place
from hpctrack.store.embedded.owner import Host
from hpctrack.store.schema import roles
from hpctrack.stream.collector import launch
from hpctrack.stream.wire import ciphers

_PATIENCE = 60.0
_PASSWORD = "to each their own"
_PROGRAM = "from hpctrack.cli import main; main.main()"
_SUBMIT = (
    "WITH e AS (INSERT INTO experiments (name) VALUES (%(name)s::text) RETURNING id),"
    " s AS (INSERT INTO submissions (uuid, user_name, time) VALUES (%(name)s::uuid, 'bench', now())),"
    " k AS (INSERT INTO run_keys VALUES (%(name)s::uuid, %(secret)s))"
    " INSERT INTO runs (experiment_id, status, submission, task, kind)"
    " SELECT id, 'RUNNING', %(name)s::uuid, n, 'command' FROM e, generate_series(0, %(last)s) n RETURNING id"
)


class Run(NamedTuple):
    """A run that datagrams can be made for."""

    run_id: int
    submission: bytes
    task: int
    key: bytes


class Site:
    """Settings, a database with the schema, and what a benchmark does with them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def connect(self) -> database.Connection:
        """Connect, in autocommit mode."""
        return database.connect(self.settings, autocommit=True)

    def submit(self, count: int) -> list[Run]:
        """Register so many runs."""
        name, secret = uuid.uuid4(), os.urandom(32)
        parameters = {"name": str(name), "secret": secret, "last": count - 1}
        with contextlib.closing(self.connect()) as connection:
            ids = sorted(int(str(row[0])) for row in connection.execute(_SUBMIT, parameters).fetchall())
        return [
            Run(run_id, name.bytes, task, ciphers.run_key(secret, task)) for task, run_id in enumerate(ids)
        ]

    def user(self, name: str, account: str) -> Site:
        """Let an ordinary user in, who is in an account, as setup does; return the site as theirs."""
        dsn = database.conninfo(self.settings)
        owner = self.settings._replace(dsn=dsn)
        with contextlib.closing(self.connect()) as connection:
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            connection.execute(create.format(sql.Identifier(name), sql.Literal(_PASSWORD)))
            connection.execute("INSERT INTO members VALUES (%s, %s, 'member')", [account, name])
        roles.apply(owner, [(roles.RoleKind.USER, name)])
        known = {key: value for key, value in dsn.items() if key in ("host", "port", "dbname")}
        return Site(owner._replace(dsn={**known, "user": name, "password": _PASSWORD}))

    @contextlib.contextmanager
    def collector(self) -> Iterator[Collector]:
        """Run a collector process."""
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "collector", "--no-reconcile"],
            env={**ENVIRON, **launch.environment(self.settings), "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=self.settings.data_dir,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Collector(process, self._address(process))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE)

    def _address(self, process: subprocess.Popen[bytes]) -> tuple[str, int]:
        deadline = time.monotonic() + _PATIENCE
        while True:
            addresses = launch.read_addresses(self.settings)
            if addresses:
                return "127.0.0.1", addresses[0].port
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the collector did not start")
            time.sleep(0.02)


class Collector:
    """A running collector."""

    def __init__(self, process: subprocess.Popen[bytes], address: tuple[str, int]) -> None:
        self.process, self.address = process, address

    @property
    def peak_mb(self) -> float:
        """Most memory that it had resident so far (VmHWM of proc(5))."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(match[1]) / 1024 if match else 0.0


@contextlib.contextmanager
def personal() -> Iterator[Site]:
    """Set up a personal site on a disk, and remove it afterwards."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="hpctrack-bench-") as folder:
        settings = Settings(
            data_dir=folder, collector_bind="127.0.0.1", embedded_listen="127.0.0.1", auto_columns=True
        )
        try:
            database.connect(settings).close()
            yield Site(settings)
        finally:
            embedded.stop(settings)
            sockets = host_folder.current(Place.of(settings), Host.here().name)
            if sockets is not None:
                shutil.rmtree(sockets, ignore_errors=True)
