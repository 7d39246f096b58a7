"""Whoever can send datagrams: strangers, thieves of a key, repeaters, floods."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys

import pytest

from hpctrack import errors
from hpctrack.stream.collector import arrays
from hpctrack.stream.wire import bodies, datagrams, journal, layout
from tests.support.collectors import Collector
from tests.support.commands import PROGRAM, environment
from tests.support.sender import Sender, message, rows
from tests.support.waiting import eventually

MINE, THEIRS = b"journal1", b"journal2"
_SEED = 20260101


@pytest.fixture
def collector(settings):
    started = Collector(settings)
    yield started
    started.end(signal.SIGKILL)


def everything(connection) -> dict[str, list]:
    """Return all that is known of runs, but for what collectors say of themselves."""
    tables = ("runs", "metrics", "run_latest", "streams", "attempts", "transitions", "usage", "rejected")
    return {
        name: connection.execute(f"SELECT to_jsonb(t) - 'time_seen' FROM {name} t ORDER BY 1").fetchall()
        for name in tables
    }


def test_all_that_a_finished_run_sent_may_come_again(connection, collector, submit):
    run_id, name, secret = submit()
    sender = Sender(collector.address(), name, secret)
    sent = []
    send = sender.send
    sender.send = lambda *datagrams: (sent.extend(datagrams), send(*datagrams))[1]
    sender.ship(b"relayrel", [message("hello", time=1.7e9, attempt=0, node="n1", pid=1)])
    sender.ship(MINE, [rows(3 * i) for i in range(20)])
    sender.ship(b"relayre2", [message("fin", time=1.7e9 + 9, exit_code=0)])
    eventually(
        lambda: connection.execute("SELECT time_ended FROM runs WHERE id = %s", [run_id]).fetchone()[0]
    )
    before = everything(connection)
    while sender.answer(0.1) is not None:
        pass
    for _ in range(3):
        send(*sent)
        answers = 0
        while (answer := sender.answer()) is not None:
            answers += 1
            assert (answer.kind, answer.start > 0) == (layout.ACK, True)
        assert 0 < answers <= len(sent)  # none of which is longer than its question: no amplifier
    sender.ship(b"afterall", [rows(100)])  # all before it has been dealt with
    after = everything(connection)
    after["metrics"] = [row for row in after["metrics"] if row[0]["step"] < 100]
    after["streams"] = [row for row in after["streams"] if row[0]["journal_id"] != b"afterall".hex()]
    assert {key: after[key] for key in ("runs", "metrics", "streams", "attempts", "transitions")} == {
        key: before[key] for key in ("runs", "metrics", "streams", "attempts", "transitions")
    }


def test_a_key_is_good_for_the_journals_of_its_own_run(connection, collector, submit):
    """Journals are told apart by run, so that naming another's writes into one's own."""
    mine, name, secret = submit()
    theirs, other, others_secret = submit()
    address = collector.address()
    Sender(address, other, others_secret).ship(THEIRS, [rows(0)])
    thief = Sender(address, name, secret)
    thief.ship(THEIRS, [rows(50), rows(60)])
    forged = Sender(address, other, secret)
    forged.send(datagrams.seal(forged.key, forged.header(THEIRS, 100, 200), rows(70)))
    assert forged.answer() is None
    counted = connection.execute("SELECT run_id, count(*), min(step) FROM metrics GROUP BY 1 ORDER BY 1")
    assert counted.fetchall() == [(mine, 6, 50), (theirs, 3, 0)]
    marks = connection.execute("SELECT run_id, watermark FROM streams ORDER BY 1").fetchall()
    assert marks == [(mine, 200), (theirs, 100)]


def one_row(values: dict, **reserved) -> bytes:
    row = journal.Row.of(0, *map(reserved.get, ("step", "progress", "time")), values)
    return bodies.pack([row])[0]


def absurdities() -> list[bytes]:
    """Return bodies that can be decoded, and mean nothing good."""
    far, edge = 9e12, (1 << 63) - 1
    times = [far, -2e11, 1e300, -1e300, math.inf, math.nan, "soon", None, [], {}]
    absurd = [
        one_row({"x": 1.0}, step=step, time=time) for step in (edge, -edge - 1) for time in (far, -2e11)
    ]
    absurd += [one_row({"x": 1.0}, progress=value) for value in (math.inf, -math.inf, math.nan)]
    absurd += [one_row({"n" * 1024: 1.0, "": 2.0, "\0": 3.0, "\x1b[2J": "\x1b]0;x\a", "x": 10**300})]
    absurd += [
        one_row({f"{i}": 1.0 for i in range(150)}),
        bodies.pack([journal.Row.of(0, *[None] * 3, {})] * 1024)[0],
    ]
    for kind in ("hello", "start", "usage", "event", "fin", "args", "tags", "x" * 32):
        absurd += [message(kind, time=time, attempt=-1, exit_code=1e300, node="n" * 900) for time in times]
        absurd += [
            bodies.pack([journal.Message(0, kind, text)])[0] for text in ("[" * 1200, "1e999", "{", "\0")
        ]
    return absurd


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_absurd_contents_under_a_valid_key_harm_nobody_and_can_be_shown(
    connection, collector, submit, settings
):
    run_id, name, secret = submit()
    honest_id, *honest = submit()
    villain, good = (Sender(collector.address(), *who) for who in ((name, secret), honest))
    villain.ping()
    for number, body in enumerate(absurdities()):
        where = number.to_bytes(8, "big")
        for begin, end in ((0, 1), ((1 << 63) - 2, (1 << 63) - 1)):
            header = villain.header(where, begin, end, attempt=number % 3 * 30_000)
            villain.send(datagrams.seal(villain.key, header, body))
        villain.send(datagrams.seal(villain.key, villain.header(where, 1, 1 << 62, part=9, parts=1024), body))
        if number % 10 == 0:
            good.ship(MINE, [rows(3 * i) for i in range(1 + number // 10)])
    villain.ship(b"the last", [rows(100)])
    assert collector.process.poll() is None
    row = connection.execute("SELECT count(*) FROM metrics WHERE run_id = %s", [honest_id]).fetchone()
    assert row == (3 * (1 + number // 10),)
    for verb in ("show", "status"):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, verb, f"r{run_id}"],
            env=environment(settings), cwd=settings.data_dir, capture_output=True, check=False,
        )  # fmt: skip
        assert (run.returncode, run.stderr) == (0, b"")
        assert b"\x1b" not in run.stdout
    assert collector.end() == 0


def mutants(count: int):
    """Yield bodies that were right once."""
    rng = random.Random(_SEED)
    lines = [
        journal.Row.of(
            0, step, step / 3, 1.7e9, {"loss": step / 7, "n": step, "word": "x" * step, "ok": True}
        )
        for step in range(9)
    ]  # fmt: skip
    seeds = [
        bodies.pack(lines)[0], rows(0), rows(5, 40),
        message("args", lr=1), message("usage", time=1, node="n"),
        bodies.pack([journal.Torn(9), *lines, journal.Message(0, "fin", "{}")])[0],
    ]  # fmt: skip
    for _ in range(count):
        body = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            match rng.randrange(5):
                case 0:
                    body[rng.randrange(len(body))] = rng.randrange(256)
                case 1:
                    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
                case 2:
                    at = rng.randrange(len(body))
                    body[at : at + 4] = rng.choice(
                        (b"\xff" * 4, bytes(4), b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f")
                    )
                case 3:
                    del body[rng.randint(1, len(body)) :]
                case 4:
                    body += rng.randbytes(rng.randrange(1, 40))
        yield bytes(body[: layout.MAX_BODY])


def decoded(count: int) -> int:
    """Decode so many damaged bodies; returns how many were read all the same."""
    read = 0
    for body in mutants(count):
        try:
            arrays.footprint(arrays.decode(body))
            read += 1
        except errors.WireError:
            pass
    return read


def test_damaged_bodies_are_refused_or_read():
    assert 0 < decoded(5_000) < 5_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_damaged_bodies():
    assert 0 < decoded(1_000_000) < 1_000_000


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_damaged_bodies_under_a_valid_key_harm_nobody_else(connection, collector, submit):
    _, name, secret = submit()
    honest_id, *honest = submit()
    address = collector.address()
    villain = Sender(address, name, secret)
    villain.ping()
    good = Sender(address, *honest)
    for number, body in enumerate(mutants(2_000)):
        where = number.to_bytes(8, "big")
        villain.send(datagrams.seal(villain.key, villain.header(where, 0, 100), body))
        if number % 100 == 0:
            good.ship(MINE, [rows(3 * i) for i in range(1 + number // 100)])
    assert collector.process.poll() is None
    row = connection.execute("SELECT count(*) FROM metrics WHERE run_id = %s", [honest_id]).fetchone()
    assert row == (60,)
    assert collector.end() == 0
