"""Roles of every kind for tests, and a database of a server whose tables an ordinary role owns."""

from __future__ import annotations

import os
import uuid
from datetime import datetime, timezone

import psycopg
from psycopg import sql

from hpctrack.cli import main
from hpctrack.store import database as store
from hpctrack.store.write import registration
from hpctrack.stream.collector import launch
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import TASK_NONE

PASSWORD = "to each their own"


#: The roles that every test has: they belong to a server, and stay there.
_STANDING = ("owner", "reader", "nobody", "alice", "bob", "users", "collector")


class Roles:
    """Roles ``owner, collector, alice, bob, reader, nobody``; alice and bob are in the group ``users``."""

    def __init__(self, settings, monkeypatch, capsys) -> None:
        self.settings = settings
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self._superuser = psycopg.connect(**settings.dsn, autocommit=True)
        self._connections: dict[str, psycopg.Connection] = {}
        self._roles: list[str] = []
        if not self._superuser.execute(
            "SELECT FROM pg_roles WHERE rolname = %s", [self.role("owner")]
        ).rowcount:
            for name in _STANDING:
                self.make_role(name)
            self.execute(f"ALTER ROLE {self.role('users')} NOLOGIN")
            self.execute(f"ALTER ROLE {self.role('collector')} BYPASSRLS")
            self.execute(f"GRANT {self.role('users')} TO {self.role('alice')}, {self.role('bob')}")
        self.execute(f"ALTER DATABASE {settings.dsn['dbname']} OWNER TO {self.role('owner')}")

    def role(self, name: str) -> str:
        """Return a role's real name."""
        return f"{name}_of_tests"

    def make_role(self, name: str) -> str:
        """Make a role; return its real name."""
        command = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
        self.execute(command.format(sql.Identifier(self.role(name)), PASSWORD))
        self._roles.append(name)
        return self.role(name)

    def execute(self, command) -> None:
        """Run a command as the server's superuser."""
        self._superuser.execute(command)

    @property
    def superuser(self) -> psycopg.Connection:
        """Return the connection of the server's superuser, in autocommit mode."""
        return self._superuser

    def of(self, name: str):
        """Return settings with which a role works, each with folders of its own."""
        folder = os.path.join(os.path.dirname(self.settings.data_dir), name)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        dsn = {**self.settings.dsn, "user": self.role(name), "password": PASSWORD}
        return self.settings._replace(dsn=dsn, data_dir=folder, node_dir=folder)

    def connect(self, name: str) -> psycopg.Connection:
        """Return the connection of a role, in autocommit mode; it is closed when the roles are removed."""
        if name not in self._connections:
            self._connections[name] = store.connect(self.of(name), autocommit=True)
        return self._connections[name]

    def query(self, name: str, statement: str, *parameters):
        """Run a statement as a role; return its rows, or how many rows it touched."""
        cursor = self.connect(name).execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else cursor.rowcount

    def run(self, name: str | None, *arguments: str) -> tuple[int, str, str]:
        """Run a command of hpctrack's as a role (None: the superuser); return exit code, stdout, stderr."""
        settings = self.settings if name is None else self.of(name)
        with self._monkeypatch.context() as patch:
            for key, value in launch.environment(settings).items():
                patch.setenv(key, value)
            code = main.run(list(arguments))
        out, err = self._capsys.readouterr()
        return code, out, err

    def open(self) -> None:
        """Set up as docs/site.md says, but that everybody sees everybody's runs."""
        code, _, err = self.run(
            "owner", "setup", "--grant-read", self.role("reader"), "--grant-user", self.role("users"),
            "--grant-collector", self.role("collector"), "--runs-visible", "all",
        )  # fmt: skip
        assert code == 0, err

    def submit(self, name: str, experiment: str = "e", **run) -> int:
        """Register a submission as hpctrack sbatch does; return the run's id."""
        record = self.record(name, experiment, **run)
        records.set_registered(records.write(self.of(name).spool, record))
        return registration.register(self.connect(name), record)[TASK_NONE]

    def record(self, name: str, experiment: str = "e", **run) -> records.Record:
        """Return a submission record of a role's."""
        number = uuid.uuid4()
        now = datetime.now(timezone.utc)
        submission = {
            "uuid": str(number), "user_name": self.role(name), "time": now.isoformat(), "cluster": "mini",
            "script": "#!/bin/sh\n# a secret plan", "env": {"PLAN": "secret"},
        }  # fmt: skip
        job = int(number) % 10**6
        said = {"experiment": experiment, "job_id": job, "args": {"plan": "secret"}, **run}
        return records.Record(
            str(number), os.urandom(32).hex(), now.timestamp(), "mini", job, None, submission, said
        )

    def close(self) -> None:
        """Remove the roles of this test alone, and what they own."""
        for connection in self._connections.values():
            connection.close()
        for name in set(self._roles).difference(_STANDING):
            for command in ("DROP OWNED BY {}", "DROP ROLE {}"):
                self.execute(sql.SQL(command).format(sql.Identifier(self.role(name))))
        self._superuser.close()
