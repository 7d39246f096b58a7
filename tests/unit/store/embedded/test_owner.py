"""Who may run the embedded PostgreSQL: the pure rules, and the owner file under competition."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from hpctrack import errors
from hpctrack.store.embedded import (
    cluster_folder,
    listening,
    owner,
    postgres_binaries,
    postmaster,
)
from hpctrack.store.embedded.owner import Action, Host, Owner

HERE = Host("login1", "boot-a")


def record(**fields):
    known = Owner("login1", "boot-a", ("127.0.0.1",), "/tmp/x", "2024-01-01", "t1", 123, 456)
    return known._replace(**fields)


@pytest.mark.parametrize(
    ("owned", "seen", "action"),
    [
        (None, {}, Action.START),
        (None, {"leftover": True}, Action.REFUSE),
        (record(), {"alive": True}, Action.USE_HERE),
        (record(), {"alive": False}, Action.START),
        (record(), {"alive": False, "answers": True}, Action.START),  # somebody else's server on that port
        (record(), {"alive": True, "leftover": True}, Action.USE_HERE),
        (record(pid=None), {"alive": True}, Action.ADOPT),
        (record(pid=None), {"alive": False}, Action.START),
        (record(boot_id="boot-0"), {"alive": True}, Action.START),  # a pid of an earlier boot proves nothing
        (record(boot_id="boot-0"), {"alive": False}, Action.START),
        (record(host="login2"), {"answers": True}, Action.USE_THERE),
        (record(host="login2"), {"answers": False}, Action.REFUSE),
        (record(host="login2"), {"answers": False, "alive": True}, Action.REFUSE),  # local pids say nothing
        (record(host="login2", boot_id="boot-a"), {"alive": True}, Action.REFUSE),
    ],
)
def test_decide(owned, seen, action):
    assert owner.decide(owned, HERE, **seen) is action


def test_only_one_of_many_creates_the_owner_file(tmp_path):
    path = tmp_path / "owner.json"
    won = []
    gate = threading.Barrier(8)

    def compete(number):
        gate.wait()
        if owner.create(path, record(token=f"t{number}")):
            won.append(f"t{number}")

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert owner.read(path) == record(token=won[0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["owner.json"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_remove_spares_the_record_of_a_successor(tmp_path):
    path = tmp_path / "owner.json"
    assert owner.create(path, record(token="new", host="login2"))
    assert not owner.remove(path, record(token="old"))
    assert owner.read(path) == record(token="new", host="login2")
    assert owner.remove(path, record(token="new"))
    assert owner.read(path) is None
    assert not owner.remove(path, record(token="new"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"host": 1', '{"addresses": 3}'])
def test_a_damaged_owner_file_is_never_taken_for_none(tmp_path, text):
    path = tmp_path / "owner.json"
    path.write_text(text)
    with pytest.raises(errors.EmbeddedError, match=r"owner\.json"):
        owner.read(path)


def test_a_postmaster_is_known_by_start_time_and_folder(tmp_path):
    started = postmaster.start_time(os.getpid())
    here = os.path.realpath(os.getcwd())
    assert postmaster.is_postmaster(os.getpid(), started, Path(here))
    assert not postmaster.is_postmaster(os.getpid(), started + 1, Path(here))  # the pid was used again
    assert not postmaster.is_postmaster(os.getpid(), started, tmp_path)


def test_a_zombie_is_not_alive():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert postmaster.start_time(child.pid) is None
    child.wait()


def test_only_a_door_answers():
    """A PostgreSQL without TLS, which says N, is none."""

    def serve(listener, reply):
        connection, _ = listener.accept()
        with connection:
            connection.recv(8)
            connection.sendall(reply)

    for reply, wanted in ((b"S", "127.0.0.1"), (b"N", None), (b"HTTP/1.1", None)):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=serve, args=(listener, reply))
            thread.start()
            port = listener.getsockname()[1]
            assert listening.answering(["127.0.0.1"], port) == wanted
            thread.join()
    assert listening.answering(["127.0.0.1"], port) is None  # nobody listens any more
    assert listening.answering([], port) is None


@pytest.mark.parametrize(
    ("listen", "wanted"), [("127.0.0.1", ("127.0.0.1",)), ("10.0.0.1, ::1", ("10.0.0.1", "::1"))]
)
def test_listed_addresses_are_the_addresses(listen, wanted):
    assert listening.addresses("login1", listen) == wanted


@pytest.mark.parametrize("listen", ["", "*", "0.0.0.0"])
def test_everywhere_means_name_and_routes(listen):
    assert listening.addresses("login1", listen)[0] == "login1"


def test_the_password_line_keeps_odd_user_names(tmp_path):
    place = cluster_folder.Place(tmp_path)
    place.data.mkdir()
    name = "DOM\\anna:x"
    place.passfile.write_text(f"*:*:*:{cluster_folder._escape(name)}:secret\n")
    assert cluster_folder.connection_params(place, "/tmp/x", 5555)["user"] == name


def test_the_configuration_quotes_its_values():
    text = cluster_folder.configuration(record(socket_dir="/a'b"), 18)
    assert "unix_socket_directories = '/a''b'\n" in text
    assert "listen_addresses = ''\n" in text
    assert "io_method" in text
    assert "io_method" not in cluster_folder.configuration(record(), 17)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "x\ninitdb: error: could not write: No space left on device\ninitdb: removing contents\n",
            "No space left",
        ),
        ("LOG:  starting\nFATAL:  lock file exists\nHINT:  try\n", "FATAL:  lock file exists"),
        ("something\nlast\n", "last"),
        ("", "it said nothing"),
    ],
)
def test_the_telling_line(said, line):
    assert line in postgres_binaries.telling_line(said)
