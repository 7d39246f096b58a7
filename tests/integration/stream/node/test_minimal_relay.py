"""docs/wire.md is enough to write a relay: one in C, from that page alone, over a network that misbehaves."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import signal
import socket
import subprocess
import threading

import pytest

from hpctrack.script import journal_lines
from hpctrack.stream.wire import datagrams, layout
from tests.support.collectors import Collector
from tests.support.journals import stored
from tests.support.paths import DATA
from tests.support.requirements import skip_or_fail
from tests.support.waiting import eventually

SOURCE = DATA / "programs" / "minimal_relay.c"
RELAY_JOURNAL, JOURNAL = "00000000000000aa", "00000000000000bb"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if not shutil.which("cc"):
        skip_or_fail("no C compiler: apt-get install gcc libc6-dev")
    path = tmp_path_factory.mktemp("cc") / "minimal_relay"
    options = ["-std=c11", "-O1", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsanitize=undefined,address"]
    subprocess.run(["cc", *options, "-o", path, SOURCE], check=True)
    return path


@pytest.fixture
def server(wheel_server):
    return wheel_server


class Network:
    """Between a relay and its collector: loses a third, doubles a tenth, and whispers acknowledgements."""

    def __init__(self, collector: tuple[str, int]) -> None:
        self._rng = random.Random(1)
        self._near, self._far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self._near.bind(("127.0.0.1", 0))
        self._far.connect(collector)
        self.address = self._near.getsockname()
        self._relay = None
        #: The sizes of questions and of answers to them.
        self.asked, self.answered = 0, 0
        self.forged = 0
        #: All that crossed the network, both ways.
        self.seen = bytearray()
        for carry in (self._carry_questions, self._carry_answers):
            threading.Thread(target=carry, daemon=True).start()

    def close(self) -> None:
        for sock in (self._near, self._far):
            with contextlib.suppress(
                OSError
            ):  # of a socket that is not connected; it wakes its thread all the same
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _carry_questions(self) -> None:
        while True:
            try:
                datagram, self._relay = self._near.recvfrom(2000)
            except OSError:
                return
            if not datagram:
                return
            self.seen += datagram
            self._forge(datagram)
            for _ in range(self._copies()):
                self.asked += len(datagram)
                self._far.send(datagram)

    def _carry_answers(self) -> None:
        while True:
            try:
                answer = self._far.recv(2000)
            except OSError:
                return
            if not answer:
                return
            self.answered += len(answer)
            self.seen += answer
            for _ in range(self._copies()):
                self._near.sendto(answer, self._relay)

    def _copies(self) -> int:
        chance = self._rng.random()
        return 0 if chance < 0.3 else 2 if chance > 0.9 else 1

    def _forge(self, datagram: bytes) -> None:
        """Acknowledge everything, under no key, and under one that is not the run's."""
        header = datagrams.peek(datagram)
        for forged in (
            datagrams.answer(header, bytes(32), 1 << 40, 1 << 41),
            datagrams.answer(header, bytes(32), 1 << 40, 1 << 41)[: -layout.MAC_SIZE]
            + datagram[-layout.MAC_SIZE :],
        ):
            self.forged += 1
            self._near.sendto(forged, self._relay)


@pytest.fixture
def collector(database):
    started = Collector(database._replace(collector_bind="127.0.0.1", auto_columns=True))
    yield started
    started.end(signal.SIGKILL)


@pytest.fixture
def network(collector):
    network = Network(collector.address())
    yield network
    network.close()


@pytest.fixture
def relay(program, network, tmp_path):
    """Ship the text of a journal to its end."""

    def run(name, secret, journal, text: bytes) -> None:
        file = tmp_path / journal
        file.write_bytes(text)
        host, port = network.address
        words = [host, str(port), name.hex, secret.hex(), "-1", "0", journal, str(file)]
        environ = {"ASAN_OPTIONS": "detect_leaks=0"}
        assert subprocess.run([program, *words], env=environ, timeout=120, check=False).returncode == 0

    return run


def message(kind: str, **contents) -> bytes:
    return f"!{kind} {json.dumps(contents)}\n".encode()


def lines() -> tuple[bytes, dict]:
    """Return a journal, and what it says by step and progress."""
    text = [b"# hpctrack journal 1 attempt=000000 rank=000000 lost=000000000000\n", b"\n"]
    expected: dict[tuple[int, float], dict] = {}
    for step in range(200):
        row = {"loss": math.sqrt(step), "val/loss": -math.pi / (step + 1)}
        text.append(journal_lines.format_row(row, step=step, time=1.7e9 + step))
        expected[step, 0.0] = row
    text.append(message("args", lr=0.1, note="x" * 5000))  # in parts
    text += [b"step=1000 loss=0.5\x18\n", b"step=1000 loss=0.25 loss=5\n"]
    text.append(b"step=1001 progress=0.25 loss=1e-3 count=7 done=true big=9223372036854775807\n")
    expected[1001, 0.25] = {"loss": 1e-3, "count": 7, "done": True, "big": (1 << 63) - 1}
    table, pack = journal_lines.packer(["loss", "n", "ok"], "dq?")
    for step in range(2000, 2200):
        values = (1 / step, step << 40, step % 2 == 0)
        text.append(journal_lines.format_packed(table, pack(*values), step, None, 1_700_000_000_000_000_000))
        expected[step, 0.0] = dict(zip(("loss", "n", "ok"), values, strict=True))
    text.append(b"step=3000 loss=1")  # its end is not written yet
    return b"".join(text), expected


def test_a_relay_that_knows_only_the_document(connection, relay, network, submit):
    run_id, name, secret = submit()
    hello = message("hello", time=1.7e9, attempt=0, node="a-node-of-the-job", pid=1)
    fin = message("fin", time=1.7e9 + 9, exit_code=3, exit_signal=None)
    text, expected = lines()
    relay(name, secret, RELAY_JOURNAL, hello)
    for _ in range(2):  # the second time adds nothing
        relay(name, secret, JOURNAL, text)
        relay(name, secret, RELAY_JOURNAL, hello + fin)
        assert stored(connection, run_id) == expected
    query = "SELECT status::text, exit_code, args->>'lr', length(args->>'note') FROM runs WHERE id = %s"
    eventually(lambda: connection.execute(query, [run_id]).fetchone() == ("FAILED", 3, "0.1", 5000))
    rows = connection.execute("SELECT journal_id, watermark, rows, torn, rejected FROM streams ORDER BY 1")
    assert rows.fetchall() == [
        (RELAY_JOURNAL, len(hello + fin), 0, 0, 0),
        (JOURNAL, text.rindex(b"\n") + 1, len(expected), 2, 0),
    ]
    assert network.forged > 50 and network.answered < network.asked
    hidden = (b"xxxxxxxx", b"exit_code", b"a-node-of-the-job")
    assert b"val/loss" in network.seen and not any(word in network.seen for word in hidden)
