"""docs/site.md: its commands, run in their order on a server, each as the role that the page says."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.support.paths import DOCS
from tests.support.ports import free_port
from tests.support.postgres_servers import debian_binaries, wheel_binaries
from tests.support.waiting import eventually

PAGE = DOCS / "site.md"
PASSWORD = "of the trial"
TITLES = (
    "PostgreSQL", "The collector under systemd", "Try it", "Back-up", "Upgrade", "Retention",
    "Turning it off",
)  # fmt: skip
#: Lines of configuration files.
_CONFIGURATION = [
    "hostssl hpctrack +cluster_users 10.0.0.0/8  gss include_realm=0",
    "hostssl hpctrack hpctrack       10.0.0.5/32 cert",
    "hostssl hpctrack hpctrack_admin 10.0.0.0/8  gss include_realm=0 map=admins",
    "admins  anna  hpctrack_admin",
    "0 4 * * 0 hpctrack /opt/hpctrack/bin/hpctrack prune --older-than 365d --yes",
]
ROLES = ("alice", "hpctrack", "cluster_users", "hpctrack_admin")
#: What changes the machine itself, or installs: for administrators.
_SYSTEM = (
    "python3 -m venv",
    "/opt/hpctrack/bin/pip",
    "ln ",
    "cp ",
    "useradd",
    "systemctl",
    "iptables",
    "sysctl",
)


def section(title: str) -> str:
    """Return a section of the page."""
    return next(part for part in PAGE.read_text().split("\n## ") if part.startswith(title))


def commands(title: str) -> list[str]:
    """Return the commands of a section, without remarks."""
    lines = [line[4:] for line in section(title).splitlines() if line.startswith("    ")]
    started = re.compile(r"(createuser|createdb|dropuser|dropdb|psql|pg_\w+|hpctrack|cd|find) (?!=)")
    return [re.sub(r"  +#.*", "", line) for line in lines if started.match(line)]


class Trial:
    """A server and a home to try the page on."""

    def __init__(self, server, home: Path) -> None:
        self.home, self.port = home, free_port(socket.SOCK_DGRAM)
        binaries = wheel_binaries() if server.major >= 18 else debian_binaries()
        path = os.pathsep.join((str(home / "bin"), str(binaries), os.environ["PATH"]))
        host, port = server.params["host"], server.params["port"]
        self.environ = {
            "PATH": path, "HOME": str(home), "PGHOST": host, "PGPORT": port, "PGUSER": server.params["user"],
            "PGPASSWORD": server.params["password"], "PGDATABASE": "postgres",
        }  # fmt: skip
        (home / "bin").mkdir(parents=True)
        script = f'#!/bin/sh\nexec {sys.executable} -c "from hpctrack.cli import main; main.main()" "$@"\n'
        (home / "bin" / "hpctrack").write_text(script)
        (home / "bin" / "hpctrack").chmod(0o755)
        self.configure(server)

    def configure(self, server) -> None:
        """Write the configuration of the page, with this server's address."""
        text = section("PostgreSQL")
        lines = re.findall(r"^    (\w+ = .*)$", text, re.MULTILINE)
        local = [f"port = {server.params['port']}", "collector_bind = 127.0.0.1"]
        written = "\n".join([*lines, *local]) + "\n"
        for said, meant in (
            ("db.cluster.example", server.params["host"]), ("head.cluster.example", "127.0.0.1"),
            ("7755", str(self.port)),
        ):  # fmt: skip
            assert said in written
            written = written.replace(said, meant)
        folder = self.home / ".config" / "hpctrack"
        folder.mkdir(parents=True)
        (folder / "hpctrack.conf").write_text(written)

    def of(self, role: str | None) -> dict[str, str]:
        """Return the environment of a role, or of the superuser."""
        if role is None:
            return self.environ
        libpq = {name: value for name, value in self.environ.items() if not name.startswith("PG")}
        return libpq | {"HPCTRACK_DSN_USER": role, "HPCTRACK_DSN_PASSWORD": PASSWORD}

    def run(self, command: str, role: str | None = None, **environ: str) -> str:
        """Run commands in the home, as a role or as the superuser; return what they printed."""
        done = subprocess.run(
            ["sh", "-ec", command], env=self.of(role) | environ, cwd=self.home,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@pytest.fixture
def trial(server, tmp_path):
    yield Trial(server, tmp_path / "home")
    for database in ("hpctrack", "restored"):
        server.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    for role in ROLES:
        with contextlib.suppress(psycopg.errors.UndefinedObject):
            server.execute(f"DROP OWNED BY {role}")
        server.execute(f"DROP ROLE IF EXISTS {role}")


@pytest.mark.parametrize("server", ["debian", pytest.param("wheel", marks=pytest.mark.slow)], indirect=True)
def test_every_command_of_the_page_does_what_it_says(trial, server):
    _set_up(trial, server)
    with _collecting(trial):
        _try_it(trial)
    _restore(trial)
    for command in commands("Upgrade"):
        assert "applied before" in trial.run(command, "hpctrack_admin")
    _forget(trial, server)
    _remove(trial, server)


def _set_up(trial, server) -> None:
    *makings, setup = commands("PostgreSQL")
    for command in makings:
        trial.run(command)
    for role in ("hpctrack", "hpctrack_admin", "alice"):
        password = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), PASSWORD)
        server.execute(password.as_string())
    told = trial.run(setup, "hpctrack_admin").splitlines()
    assert {"  user cluster_users: granted", "  collector hpctrack: granted"} < set(told)


@contextlib.contextmanager
def _collecting(trial):
    """Run the collector as its unit does, in a home of its own: it looks into the spool there."""
    own = trial.home.with_name("hpctrack")
    shutil.copytree(trial.home / ".config", own / ".config")
    command = [trial.home / "bin" / "hpctrack", "collector", "--no-reconcile"]
    collector = subprocess.Popen(command, env=trial.of("hpctrack") | {"HOME": str(own)}, cwd=own)
    try:
        [status] = commands("The collector under systemd")
        eventually(lambda: f"127.0.0.1:{trial.port}" in trial.run(status, "alice"))
        yield
    finally:
        collector.send_signal(signal.SIGTERM)
        assert collector.wait(30) == 0


def _try_it(trial) -> None:
    run, sync, status = commands("Try it")
    trial.run(run, "alice")
    trial.run(sync, "alice")
    eventually(lambda: "1 COMPLETED" in trial.run(status, "alice"))


def _restore(trial) -> None:
    """Back up, submit once more, restore: what was lost is registered again, and rights are as they were."""
    dump, create, restore, settings, *again = commands("Back-up")
    trial.run(dump)
    trial.run(commands("Try it")[0], "alice")
    trial.run(create)
    trial.run(restore)
    trial.run(settings)
    query = "SELECT datname, setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
    of_database = f'psql -Atc "{query}"'
    kept = dict(line.split("|") for line in trial.run(of_database).splitlines())
    assert kept["restored"] == kept["hpctrack"], "settings of a database are not in its dump"

    def restored(command: str) -> str:
        return trial.run(command, "alice", HPCTRACK_DSN_DBNAME="restored")

    assert "1 COMPLETED" in restored("hpctrack status")
    moment = re.search(r"-newermt '([^']*)'", again[1])[1]
    assert "2 submissions registered" in restored("\n".join(again).replace(moment, "1 hour ago") + " || true")
    assert "1 COMPLETED, 1 PENDING" in restored("hpctrack status")
    assert "permission denied" in restored("hpctrack psql -c 'SELECT * FROM run_keys' 2>&1 || true")


def _forget(trial, server) -> None:
    with psycopg.connect(**server.params, dbname="hpctrack", autocommit=True) as connection:
        connection.execute("UPDATE hpctrack.runs SET time_ended = now() - interval '2 years'")
    look, prune = commands("Retention")
    assert "trial: 2 runs" in trial.run(look, "hpctrack")
    assert "deleted 2 runs" in trial.run(prune, "hpctrack")


def _remove(trial, server):
    server.execute("DROP DATABASE restored")
    for command in commands("Turning it off"):
        trial.run(command)
    left = trial.run("psql -Atc \"SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_|_of_tests$'\"")
    assert not set(ROLES).intersection(left.split())


def test_every_role_that_connects_over_the_network_is_admitted():
    """With the page's pg_hba.conf alone: the users, the collector, and who runs hpctrack setup."""
    lines = [line.split() for line in section("PostgreSQL").splitlines() if line.startswith("    hostssl")]
    admitted = {line[2].lstrip("+") for line in lines}
    setup = commands("PostgreSQL")[-1]
    assert re.search(r"--user (\w+)", setup)[1] in admitted
    assert set(re.findall(r"--grant-\w+ (\w+)", setup)) <= admitted


@pytest.mark.parametrize("server", ["debian"], indirect=True)
def test_a_database_that_can_not_hold_every_name_is_refused(trial, server):
    *makings, setup = commands("PostgreSQL")
    for command in makings:
        trial.run(command.replace("UTF8", "SQL_ASCII"))
    password = sql.SQL("ALTER ROLE hpctrack_admin PASSWORD {}").format(PASSWORD)
    server.execute(password.as_string())
    told = trial.run(f"{setup} 2>&1 || true", "hpctrack_admin")
    assert "database hpctrack is in SQL_ASCII, and hpctrack needs UTF8: make it with createdb" in told


def test_other_commands_are_of_the_system():
    """What the test above leaves out."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("    ")]
    run = {command for title in TITLES for command in commands(title)}
    others = [text for line in lines if (text := re.sub(r"  +#.*", "", line[4:])) not in run]
    unknown = [text for text in others if not text.startswith(_SYSTEM) and " = " not in text]
    assert unknown == _CONFIGURATION
