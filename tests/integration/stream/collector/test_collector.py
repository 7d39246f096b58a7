"""The collector as a process: real datagrams, a real PostgreSQL, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from hpctrack.store import database as store
from hpctrack.store.write import collectors
from hpctrack.stream.collector import launch
from hpctrack.stream.wire import bodies, ciphers, datagrams, journal, layout
from tests.support.commands import PROGRAM, environment
from tests.support.sender import Sender, logged, message, rows, stats, whole
from tests.support.waiting import PATIENCE, eventually


def test_rows_are_acknowledged_once_they_are_committed(connection, collect, submit):
    run_id, *identity = submit()
    sender = Sender(collect().address(), *identity)
    sender.ping()
    name = b"journal1"
    sender.send(datagrams.seal(sender.key, sender.header(name, 0, 100), rows(0)))
    answer = eventually(sender.answer)
    assert (answer.kind, answer.start, answer.echo) == (layout.ACK, 100, sender.token)
    assert answer.end > 100
    assert logged(connection, run_id) == whole(3)
    assert connection.execute("SELECT watermark FROM streams").fetchall() == [(100,)]


def test_a_relay_that_is_early_is_answered_as_soon_as_its_run_is_registered(connection, collect):
    """It need not send again: that may be seconds later."""
    address, secret = collect().address(), os.urandom(32)
    name = uuid.uuid4()
    sender = Sender(address, name, secret)
    for _ in range(6):  # the run is asked for once a second by then
        sender.send(datagrams.seal(sender.key, sender.header(b"journal1", 0, 100), rows(0)))
        assert sender.answer(0.4) is None
    submission = {"uuid": str(name), "user_name": "alice", "time": "2026-01-31T12:00:00Z"}
    run = {"experiment": "e", "kind": "command"}
    connection.execute(
        "SELECT * FROM register_submission(%s, %s, %s, '{-1}')",
        (json.dumps(submission), secret, json.dumps(run)),
    )
    before = time.monotonic()
    answer = eventually(sender.answer)
    assert (answer.kind, answer.start) == (layout.ACK, 100)
    assert time.monotonic() - before < 5  # a slow machine; it takes some milliseconds


def test_each_case_is_answered_as_the_wire_says(collect, submit):
    _, *identity = submit()
    sender = Sender(collect().address(), *identity)
    sender.ping()
    name = b"journal1"

    def ask(begin, end, **options):
        sender.send(datagrams.seal(sender.key, sender.header(name, begin, end, **options), rows(begin)))
        answer = eventually(sender.answer)
        return answer.kind, answer.start, answer.echo == sender.token

    assert ask(0, 100) == (layout.ACK, 100, True)
    assert ask(0, 100) == (layout.ACK, 100, True)  # it is in already
    assert ask(50, 150)[:2] == (layout.ACK, 100)  # cut anew
    assert sender.token not in (0, None)
    assert ask(50, 150)[2] is False
    assert ask(200, 300) == (layout.HELD, 100, True)
    assert ask(300, 400, part=1, parts=2) == (layout.HELD, 100, True)
    assert ask(100, 200) == (layout.ACK, 300, True)  # and what was held with it
    assert ask(300, 400, part=0, parts=2)[:2] == (layout.ACK, 400)


@pytest.mark.parametrize("loss", [0.3, 0.7])
def test_everything_arrives_once_over_a_bad_network(connection, collect, submit, loss):
    run_id, *identity = submit()
    sender = Sender(collect().address(), *identity, rng=random.Random(7), loss=loss)
    long = message("args", text="x" * 20_000)
    bodies = [rows(3 * i) if i != 30 else long for i in range(100)]
    sender.ship(b"journal1", bodies)
    assert logged(connection, run_id) == {
        step: value for step, value in whole(300).items() if step // 3 != 30
    }
    assert connection.execute("SELECT rows, watermark, rejected FROM streams").fetchall() == [
        (297, 10_000, 0)
    ]
    assert connection.execute("SELECT args->>'text' FROM runs").fetchone() == ("x" * 20_000,)


def test_a_killed_collector_loses_and_doubles_nothing(connection, collect, submit):
    run_id, *identity = submit()
    rng = random.Random(3)
    process = collect()
    sender = Sender(process.address(), *identity, rng=rng, loss=0.1)
    bodies = [rows(3 * i) for i in range(600)]
    done = 0
    for _ in range(5):
        done += 120
        with contextlib.suppress(AssertionError):
            sender.ship(b"journal1", bodies[:done], seconds=rng.uniform(0.1, 0.6))
        process.end(signal.SIGKILL)
        process = collect()
        assert process.address() == sender.socket.getpeername()
    sender.ship(b"journal1", bodies)
    assert logged(connection, run_id) == whole(1800)
    assert connection.execute("SELECT rows FROM streams").fetchall() == [(1800,)]


def test_sigterm_commits_and_acknowledges_what_has_arrived(connection, collect, submit):
    run_id, *identity = submit()
    process = collect()
    sender = Sender(process.address(), *identity)
    sender.ping()
    bodies = [rows(3 * i) for i in range(400)]
    sender.send(*(datagrams.seal(sender.key, sender.header(b"journal1", 100 * i, 100 * i + 100), body)
                  for i, body in enumerate(bodies)))  # fmt: skip
    assert process.end(signal.SIGTERM) == 0
    while sender.answer(0.1) is not None:
        pass
    assert sender.acknowledged == {b"journal1": 40_000}
    assert logged(connection, run_id) == whole(1200)
    assert connection.execute("SELECT count(*) FROM collectors").fetchone() == (0,)
    assert launch.read_addresses(process.settings) == []


def test_strangers_get_no_answer_and_change_only_counters(connection, collect, submit):
    run_id, *identity = submit()
    _, *other = submit()
    address = collect().address()
    sender, stranger = Sender(address, *identity), Sender(address, *identity)
    sender.ping()
    good = datagrams.seal(sender.key, sender.header(b"journal1", 0, 100), rows(0))
    unknown = [
        datagrams.seal(sender.key, sender.header(b"j" * 8, 0, 9)._replace(submission=os.urandom(16)))
        for _ in range(300)
    ]
    wrong_run = datagrams.seal(Sender(address, *other).key, sender.header(b"journal1", 0, 100), rows(0))
    answers = [
        datagrams.seal(sender.key, sender.header(b"journal1", 0, 0)._replace(kind=kind)) for kind in (2, 4, 6)
    ]
    garbage = [random.Random(i).randbytes(random.Random(i).randint(0, 1400)) for i in range(300)]
    flipped = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(0, len(good), 3)]
    cut = [good[:size] for size in range(0, len(good), 7)]
    stranger.send(wrong_run, *answers, *garbage, *flipped, *cut, *unknown)
    assert stranger.answer(1.0) is None
    sender.ship(b"journal1", [rows(0)])
    assert logged(connection, run_id) == whole(3)
    said = stats(connection)
    assert said["received"].keys() >= {"wrong MAC", "wrong size", "wrong magic"}
    assert said["stored"]["rows"] == 3
    assert connection.execute("SELECT count(*) FROM streams").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM rejected").fetchone() == (0,)


def test_a_flood_of_invented_runs_leaves_others_alone(connection, collect, submit):
    run_id, *identity = submit()
    sender = Sender(collect().address(), *identity)
    flood = [
        datagrams.seal(sender.key, sender.header(b"j" * 8, 0, 9)._replace(submission=os.urandom(16)))
        for _ in range(3000)
    ]
    for _ in range(5):
        sender.send(*flood)
    sender.ship(b"journal1", [rows(3 * i) for i in range(50)])
    assert logged(connection, run_id) == whole(150)


def test_a_valid_key_with_absurd_contents_is_set_aside(connection, collect, submit):
    run_id, *identity = submit()
    sender = Sender(collect().address(), *identity)
    bodies = [rows(0), b"\x01\xff\xff\xff\xff", random.Random(1).randbytes(1000), rows(3)]
    sender.ship(b"journal1", bodies)
    assert logged(connection, run_id) == whole(6)
    entries = connection.execute("SELECT start_offset, payload FROM rejected ORDER BY id").fetchall()
    assert entries == [(100, bodies[1]), (200, bodies[2])]


def test_a_poisoned_row_stops_nobody(connection, collect, submit):
    (good_id, *good), (bad_id, *bad) = submit(), submit()
    connection.execute("ALTER TABLE metrics ADD COLUMN x double precision CHECK (x <> 31.5)")
    address = collect().address()
    for identity in (bad, good):
        bodies = [rows(3 * i) for i in range(20)] if identity is bad else [rows(100)]
        Sender(address, *identity).ship(b"journal1", bodies)
    assert set(logged(connection, bad_id)) == set(range(60)) - {31}
    assert set(logged(connection, good_id)) == {100, 101, 102}


def test_lost_connections_are_made_again(connection, collect, submit):
    run_id, *identity = submit()
    sender = Sender(collect().address(), *identity)
    bodies = [rows(3 * i) for i in range(300)]
    for done in range(60, 301, 60):
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        sender.ship(b"journal1", bodies[:done])
    assert logged(connection, run_id) == whole(900)


def test_memory_is_bounded_while_postgresql_does_not_answer(settings, connection, collect, submit):
    run_id, *identity = submit()
    process = collect()
    sender = Sender(process.address(), *identity)
    sender.ping()
    body = bodies.pack([journal.Row.of(0, 0, None, None, {f"m{i}": 1.0 for i in range(80)})])[0]
    with store.connect(settings) as blocker:
        blocker.execute("LOCK TABLE streams, metrics IN ACCESS EXCLUSIVE MODE")
        deadline = time.monotonic() + PATIENCE
        # Nothing of it is acknowledged, and it is far more than what may wait.
        for i in range(130_000):
            sender.send(datagrams.seal(sender.key, sender.header(b"junkjunk", 10 * i, 10 * i + 10), body))
            assert time.monotonic() < deadline
        held = psutil.Process(process.process.pid).memory_info().rss
        assert sender.answer(0.0) is None
        blocker.rollback()
    assert held < 400 << 20
    sender.ship(b"journal1", [rows(3 * i) for i in range(50)])
    assert {step: x for step, x in logged(connection, run_id).items() if x is not None} == whole(150)
    assert stats(connection)["received"].get("overflow", 0) > 0


def test_one_collector_leads_and_another_takes_over(connection, collect, tmp_path):
    def leaders():
        return [row.pid for row in collectors.fetch(connection) if row.reconciles]

    bystander = collect(data_dir=str(tmp_path / "bystander"))
    eventually(lambda: len(collectors.fetch(connection)) == 1)
    assert leaders() == [], "one without a reconciler leaves the lease to others"
    first = collect("--reconcile")
    assert eventually(leaders) == [first.process.pid]
    second = collect("--reconcile", data_dir=str(tmp_path / "other"))
    eventually(lambda: len(collectors.fetch(connection)) == 3)
    assert leaders() == [first.process.pid]
    assert first.end() == 0
    assert eventually(leaders) == [second.process.pid]
    assert bystander.process.poll() is None


def test_status_tells_what_a_collector_does(connection, settings, collect, submit):
    run_id, *identity = submit()
    process = collect("--reconcile")
    Sender(process.address(), *identity).ship(b"journal1", [rows(0)])
    stats(connection)

    def status(*options):
        command = [sys.executable, "-c", PROGRAM, "collector", "--status", *options]
        return subprocess.run(
            command, env=environment(settings), capture_output=True, text=True, check=True
        ).stdout

    (shown,) = json.loads(status("--json"))["collectors"]
    assert (shown["pid"], shown["live"], shown["reconciles"]) == (process.process.pid, True, True)
    assert shown["addresses"] == ["{}:{}".format(*process.address())]
    assert shown["stats"]["stored"]["rows"] == 3
    assert f"process {process.process.pid}: live, reconciles" in status()
    assert run_id


def test_no_password_and_no_key_is_logged_or_published(connection, settings, submit):
    _, name, secret = submit()
    command = [sys.executable, "-c", PROGRAM, "collector", "--no-reconcile"]
    process = subprocess.Popen(
        command, env={**environment(settings), "HPCTRACK_DEBUG": "1"}, stderr=subprocess.PIPE, text=True,
        cwd=settings.data_dir if os.path.isdir(settings.data_dir) else None,
    )  # fmt: skip
    host, port = eventually(lambda: launch.read_addresses(settings))[0]
    Sender((host, port), name, secret).ship(b"journal1", [rows(0)])
    published = connection.execute("SELECT to_jsonb(c)::text FROM collectors c").fetchall()
    process.terminate()
    said = process.communicate(timeout=PATIENCE)[1] + str(published)
    assert "listens on" in said
    for hidden in (settings.dsn["password"], secret.hex(), ciphers.run_key(secret, -1).hex()):
        assert hidden not in said


def test_an_address_that_is_taken_is_one_clear_line(settings):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        command = [sys.executable, "-c", PROGRAM, "collector", "--port", str(taken.getsockname()[1])]
        run = subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False)
    assert run.returncode == 69
    assert "can't listen on 127.0.0.1" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_without_slurm_the_collector_goes_on(connection, collect, submit, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    run_id, *identity = submit()
    process = collect("--reconcile")
    Sender(process.address(), *identity).ship(b"journal1", [rows(0)])
    eventually(lambda: stats(connection)["slurm_trouble"])
    assert process.process.poll() is None
    assert logged(connection, run_id) == whole(3)
