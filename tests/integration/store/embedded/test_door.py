"""Who gets at the embedded PostgreSQL: its owner always, his other hosts once they ask, nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from hpctrack import errors
from hpctrack.store import embedded
from hpctrack.store.embedded import asking, owner, postmaster
from hpctrack.store.embedded.cluster_folder import Place
from hpctrack.store.embedded.owner import Host
from tests.support import crowd
from tests.support.commands import PROGRAM, environment
from tests.support.embedded_servers import (
    ELSEWHERE,
    HERE,
    ask,
    parent,
    postmaster_pid,
    postmasters,
)
from tests.support.network import network_of_two
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def network():
    yield from network_of_two()


def listening_sockets(*pids):
    """The TCP sockets on which processes listen: local addresses as /proc/net/tcp has them (proc(5))."""
    held = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                held.add(os.readlink(entry))
    lines = [
        line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    fields = [line.split() for line in lines]
    return [field[1] for field in fields if field[3] == "0A" and f"socket:[{field[9]}]" in held]


def processes(settings):
    pid = postmaster_pid(settings)
    return pid, parent(pid)


def through_the_door(settings):
    """Return parameters with which another host connects to the server of this one."""
    embedded.ensure(settings, HERE)
    params = embedded.ensure(settings, ELSEWHERE)
    assert params["host"] == "127.0.0.1"
    return params


def standing_crowd(params, options):
    arguments = [crowd.__file__, params["host"], params["port"], params["user"], options]
    return subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask_through_a_crowd(params, it_knows_the_key):
    """Query through the door. Who knows its key may take a slow login's place, but not every time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ask(params)
        except psycopg.OperationalError:
            if not it_knows_the_key or time.monotonic() > deadline:
                raise


def test_nobody_can_knock_where_no_host_has_asked(settings):
    settings = settings._replace(embedded_listen="")
    params = embedded.ensure(settings)
    assert ask(params, "SHOW listen_addresses") == ""
    assert ask(params, "SELECT string_agg(type, ' ') FROM pg_hba_file_rules") == "local"
    assert listening_sockets(*processes(settings)) == []


@pytest.mark.parametrize("knows_the_key", [False, True])
def test_its_owner_gets_in_while_a_crowd_stands_at_the_door(settings, knows_the_key):
    here = embedded.ensure(settings)
    there = embedded.ensure(settings, ELSEWHERE)
    assert len(listening_sockets(*processes(settings))) == 1
    strangers = standing_crowd(there, there["options"] if knows_the_key else "")
    try:
        assert strangers.stdout.readline() == "here\n"
        for _ in range(10):
            assert ask(here) == "hpctrack"
            assert ask_through_a_crowd(there, knows_the_key) == "hpctrack"
            assert ask_through_a_crowd(embedded.ensure(settings, ELSEWHERE), knows_the_key) == "hpctrack"
            assert (
                int(ask(here, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"))
                < 20
            )
    finally:
        made, _ = strangers.communicate()
    assert int(made) >= 9 * crowd.EACH // 4
    assert postmasters(settings) == [postmaster_pid(settings)]
    assert Place.of(settings).log.stat().st_size <= postmaster.LOG_BYTES


def test_sessions_from_elsewhere_leave_room_for_those_of_this_host(settings):
    here = embedded.ensure(settings)
    there = embedded.ensure(settings, ELSEWHERE)
    open_ones = []
    with pytest.raises(psycopg.OperationalError, match="too many sessions from other hosts"):
        for _ in range(60):
            open_ones.append(psycopg.connect(**there))
    assert 20 <= len(open_ones) < 40
    assert ask(here) == "hpctrack"
    assert open_ones[0].execute("SELECT 1").fetchone() == (1,)
    for connection in open_ones:
        connection.close()
    assert eventually(lambda: ask(there)) == "hpctrack"


@pytest.mark.parametrize("size", [1, 1 << 22])
def test_what_passes_through_the_door_is_what_was_sent(settings, size):
    with psycopg.connect(**through_the_door(settings)) as connection:
        sent = os.urandom(size)
        assert connection.execute("SELECT %s::bytea", [sent]).fetchone() == (sent,)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE t (x text)")
            with cursor.copy("COPY t FROM STDIN") as copy:
                for number in range(20_000):
                    copy.write_row((f"{number}" * 20,))
            with cursor.copy("COPY (SELECT x FROM t ORDER BY ctid) TO STDOUT") as copy:
                assert [row[0] for row in copy.rows()] == [f"{number}" * 20 for number in range(20_000)]


@pytest.mark.parametrize("cancel_it", ["cancel_safe", "cancel"])  # encrypted, and as libpq before 17 does
def test_a_statement_from_elsewhere_can_be_cancelled(settings, cancel_it):
    with psycopg.connect(**through_the_door(settings)) as connection:

        def cancel():
            eventually(
                lambda: ask(
                    embedded.ensure(settings),
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'",
                )
            )
            getattr(connection, cancel_it)()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(600)")
        canceller.join()


def test_a_host_that_has_asked_is_let_in_from_each_start_on(settings):
    embedded.ensure(settings, Host("login3", HERE.boot_id))
    embedded.stop(settings, Host("login3", HERE.boot_id))
    embedded.ensure(settings, HERE)
    embedded.ensure(settings, ELSEWHERE)
    embedded.stop(settings, HERE)
    embedded.ensure(settings, HERE)
    record = owner.read(Place.of(settings).owner_file)
    reach = eventually(lambda: asking.read(Place.of(settings), record))
    assert reach.guests == ("127.0.0.1",)
    assert embedded.ensure(settings, ELSEWHERE)["port"] == str(reach.port)
    assert ask(embedded.ensure(settings, ELSEWHERE)) == "hpctrack"


def test_a_host_that_has_not_come_for_a_month_is_forgotten(settings):
    embedded.ensure(settings, HERE)
    embedded.ensure(settings, ELSEWHERE)
    place = Place.of(settings)
    long_ago = time.time() - 31 * 86400
    os.utime(place.asked / ELSEWHERE.name, (long_ago, long_ago))
    assert asking.asked(place) == []
    eventually(lambda: listening_sockets(*processes(settings)) == [])
    assert ask(embedded.ensure(settings, ELSEWHERE)) == "hpctrack"  # it asks again


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"ways": 3}', '{"ways": [["x"]]}', '{"ways": [["", ""]]}', "\0"]
)
def test_what_is_asked_in_other_words_harms_nobody(settings, text):
    place = Place.of(settings)
    embedded.ensure(settings, HERE)
    place.asked.mkdir(mode=0o700)
    (place.asked / "login9").write_text(text)
    (place.asked / "login9").chmod(0o600)
    assert ask(embedded.ensure(settings, ELSEWHERE)) == "hpctrack"


def test_an_address_of_another_host_is_passed_over(settings):
    place = Place.of(settings)
    embedded.ensure(settings, HERE)
    place.asked.mkdir(mode=0o700)
    ways = [["198.51.100.7", "198.51.100.8"], ["no address", "x"], ["127.0.0.3", "127.0.0.1"]]
    (place.asked / "login9").write_text(json.dumps({"ways": ways}))
    (place.asked / "login9").chmod(0o600)
    settings = settings._replace(embedded_listen="")
    assert ask(embedded.ensure(settings, ELSEWHERE)) == "hpctrack"


def test_a_server_that_does_not_hear_is_one_clear_line(settings):
    embedded.ensure(settings, HERE)
    keeper = parent(postmaster_pid(settings))
    os.kill(keeper, signal.SIGSTOP)
    try:
        with pytest.raises(
            errors.OwnedElsewhere, match=r"has been asked to let this host in.*try again"
        ) as caught:
            embedded.ensure(settings, ELSEWHERE)
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert "\n" not in str(caught.value)
    assert eventually(lambda: embedded.running(settings, ELSEWHERE))
    assert ask(embedded.ensure(settings, ELSEWHERE)) == "hpctrack"


def test_a_server_that_is_to_be_reached_by_no_other_host_says_so(settings):
    settings = settings._replace(embedded_listen="none")
    embedded.ensure(settings, HERE)
    with pytest.raises(errors.OwnedElsewhere, match=r"lets no other host in .*: run this there"):
        embedded.ensure(settings, ELSEWHERE)
    assert listening_sockets(*processes(settings)) == []


class Login:
    """A second login node: another network, another host name, the same home."""

    def __init__(self, settings, network):
        self._settings = settings
        self._network = network

    def command(self, *words):
        inside = self._network.on_node(
            "unshare", "--uts", "sh", "-c", 'hostname login2; exec "$@"', "sh", *words
        )
        return subprocess.run(
            inside,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=environment(self._settings),
        )

    def hpctrack(self, *words):
        return self.command(sys.executable, "-c", PROGRAM, *words)


def test_a_second_login_node_for_real(settings, network):
    settings = settings._replace(embedded_listen="")
    embedded.ensure(settings)
    assert listening_sockets(*processes(settings)) == []
    login = Login(settings, network)
    first = login.hpctrack("status", "--json")
    assert (first.returncode, json.loads(first.stdout)["runs"]) == (0, []), first.stderr
    place = Place.of(settings)
    reach = asking.read(place, owner.read(place.owner_file))
    assert len(reach.guests) == 1
    assert reach.guests[0].startswith("10.2")
    knock = """
import socket, sys
address, port, own = sys.argv[1:]
with socket.create_connection((address, int(port)), timeout=5, source_address=(own, 0)) as connection:
    connection.sendall(b"\\0\\0\\0\\x08\\x04\\xd2\\x16\\x2f")
    try:
        print(connection.recv(1))
    except ConnectionResetError:
        print(b"")
"""
    answers = [
        login.command(sys.executable, "-c", knock, reach.addresses[0], str(reach.port), own).stdout.strip()
        for own in (reach.guests[0], network.second_address())
    ]
    assert answers == ["b'S'", "b''"]
    asked = login.hpctrack("psql", "-Atc", "SELECT count(*) FROM jobs")
    assert (asked.returncode, asked.stdout) == (0, "0\n"), asked.stderr
    strangers = subprocess.Popen(
        network.on_node(sys.executable, crowd.__file__, reach.addresses[0], str(reach.port), "root", ""),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert strangers.stdout.readline() == "here\n"
        assert ask(embedded.ensure(settings)) == "hpctrack"
        among = login.hpctrack("status", "--json")
        assert among.returncode == 0, among.stderr
    finally:
        strangers.communicate()
    path = f"PATH={os.path.dirname(sys.executable)}"
    own = login.command("env", path, sys.executable, "-c", PROGRAM, "psql", "-Atc", "SELECT 1")
    assert own.returncode == errors.MissingExtra.exit_code
    assert "can't encrypt" in own.stderr
    network.drop(begin=True, protocol="tcp")
    behind = login.hpctrack("status")
    assert behind.returncode == errors.OwnedElsewhere.exit_code
    assert "if a firewall is between, run this there" in behind.stderr
    assert behind.stderr.count("\n") == 1


def test_a_silent_one_is_hung_up_on(settings):
    there = through_the_door(settings)
    with socket.create_connection((there["host"], int(there["port"])), timeout=60) as silent:
        assert silent.recv(1) == b""
    with crowd.stand((there["host"], int(there["port"])), crowd.SSL_REQUEST + crowd.hello()[:50]) as half:
        half.settimeout(60)
        assert half.recv(2) == b"S"
        assert half.recv(1) == b""
    said = crowd.startup("root", there["options"])
    with crowd.stand((there["host"], int(there["port"])), crowd.SSL_REQUEST, said) as login:
        login.settimeout(60)
        said = b""
        while piece := login.recv(4096):
            said += piece
        assert said.startswith(b"R")
