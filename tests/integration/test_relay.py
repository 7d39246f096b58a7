"""The relay under a real supervisor, against a small collector over real sockets."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from hpctrack.stream import folders, records, spool, tail, wire

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "hpctrack" / "stream" / "__main__.py"
RELAY_SECONDS = 31
"""After so many seconds without acknowledgement a relay copies to the spool."""


class Collector:
    """Keeps in memory what a collector would commit, journal by journal; answers as docs/wire.md says."""

    def __init__(self, key: bytes, *, loss: float = 0.0, port: int = 0):
        self.key, self.loss = key, loss
        self.rng = random.Random(1)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.watermarks: dict[bytes, int] = {}
        self.bodies: dict[bytes, list[bytes]] = {}
        self.parts: dict[tuple, dict[int, bytes]] = {}
        self.held: dict[bytes, dict[int, tuple[wire.Header, bytes]]] = {}
        self.attempts: dict[bytes, int] = {}
        self.datagrams = self.forged = 0
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                datagram, address = self.socket.recvfrom(2000)
            except OSError:
                return
            if not datagram:
                return
            if self.rng.random() < self.loss:
                continue
            answer = self._take(datagram)
            if answer is not None and self.rng.random() >= self.loss:
                self.socket.sendto(answer, address)

    def _take(self, datagram: bytes) -> bytes | None:
        self.datagrams += 1
        header = wire.peek(datagram)
        if not wire.verified(self.key, datagram):
            self.forged += 1
            return None
        assert header.kind == wire.DATA
        watermark = self.watermarks.get(header.journal, 0)
        if header.end <= watermark:
            return wire.answer(header, self.key, watermark, watermark + (1 << 20))
        if header.start < watermark:
            return wire.answer(header._replace(echo=0), self.key, watermark, watermark + (1 << 20))
        name = header._replace(echo=0, part=0)
        parts = self.parts.setdefault(name, {})
        parts[header.part] = wire.body(datagram)
        if len(parts) == header.parts:
            del self.parts[name]
            body = b"".join(parts[part] for part in range(header.parts))
            self.held.setdefault(header.journal, {})[header.start] = (header, body)
        held = self.held.get(header.journal, {})
        while watermark in held:
            found, body = held.pop(watermark)
            self.bodies.setdefault(header.journal, []).append(body)
            self.attempts[header.journal] = header.attempt
            watermark = self.watermarks[header.journal] = found.end
        if header.end <= watermark:
            return wire.answer(header, self.key, watermark, watermark + (1 << 20))
        return wire.held(header, self.key, watermark, watermark + (1 << 20))

    def blocks(self) -> list[tuple[bytes, int, bytes]]:
        """Return (journal, kind, contents) of all blocks."""
        found = []
        for journal, bodies in self.bodies.items():
            for body in bodies:
                rest = body
                while rest:
                    kind, size = struct.unpack_from("<BI", rest)
                    found.append((journal, kind, rest[5 : 5 + size]))
                    rest = rest[5 + size :]
        return found

    def steps(self) -> list[int]:
        """Return the steps of all rows; those of one block are equally spaced here, or one."""
        found = []
        for _, kind, block in self.blocks():
            if kind == wire.ROWS:
                count, mode, _, _, table = struct.unpack_from("<HBBBxH", block)
                assert mode in (wire.AFFINE, wire.RAW)
                if mode == wire.AFFINE:
                    first, stride = struct.unpack_from("<qq", block, 8 + table)
                    found += [first + i * stride for i in range(count)]
                else:
                    found += struct.unpack_from(f"<{count}q", block, 8 + table)
        return found

    def torn(self) -> int:
        return sum(struct.unpack("<I", block)[0] for _, kind, block in self.blocks() if kind == wire.TORN)

    def messages(self, kind: str) -> list[dict]:
        found = []
        for _, block_kind, block in self.blocks():
            size = block[0]
            if block_kind == wire.MESSAGE and block[1 : 1 + size].decode() == kind:
                found.append(json.loads(block[1 + size :]))
        return found


class Job:
    """A tracked job without Slurm: record, supervisor, script."""

    def __init__(self, folder: Path, **settings):
        self.folder = folder
        self.spool = folder / "spool"
        self.node = folder / "node"
        self.node.mkdir()
        secret = os.urandom(32)
        self.key = wire.run_key(secret, -1)
        self.record = records.Record(
            uuid=str(uuid.uuid4()), secret=secret.hex(), time=time.time(), cluster="c", job_id=14, tasks=None,
            submission={"env": {"SAME": "value", "LANG": "C"}}, run={}, usage_interval=0.5, **settings,
        )  # fmt: skip
        self.started: list[subprocess.Popen] = []

    def submit(self) -> None:
        records.write(str(self.spool), self.record)

    def find_collector_at(self, address: str) -> None:
        """Write the address file, as a collector does."""
        self.spool.mkdir(mode=0o700, exist_ok=True)
        (self.spool / "collector").write_text(address + "\n")

    def start(self, script: str, *, flush: float = 5, **environ: str) -> subprocess.Popen:
        batch = self.folder / "batch"
        batch.write_text("# the wrapper\n" + script)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", MAIN, "supervise", "--spool", self.spool, "--script-line", "2",
             "--script", "/home/a/train.sh", "--node-dir", self.node, "--flush", str(flush), "--", batch],
            env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "14", "SLURM_CLUSTER_NAME": "c", "LANG": "C",
                 "SAME": "value", "SLURMD_NODENAME": "n1", "PYTHON": sys.executable, **environ},
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=(self.folder / "out").open("w"),
            stderr=(self.folder / "err").open("w"), start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, script: str, **arguments) -> float:
        """Run a script to its end; return the seconds it took."""
        begin = time.monotonic()
        self.start(script, **arguments).wait(120)
        return time.monotonic() - begin

    def relay(self, process: subprocess.Popen) -> int:
        """Return the relay's pid: the process whose journal of its own stands in the run folder."""
        hello = await_result(lambda: self.journal("relay").read_text().partition("!hello ")[2])
        return json.loads(hello.partition("\n")[0])["pid"]

    def run_dir(self) -> Path:
        (path,) = await_result(lambda: list(self.node.glob("hpctrack-*/*")))
        return path

    def journal(self, kind: str) -> Path:
        return await_result(lambda: next(self.run_dir().glob(f"*.{kind}.journal"), None))

    def run_folders(self) -> list[Path]:
        return list(self.node.glob("hpctrack-*/*"))

    def spooled(self) -> list[tail.File]:
        return [file for folder in self.spool.glob("journals/*") for file in tail.find(str(folder))]

    def sync(self, collector: Collector) -> list[bool]:
        """Deliver what waits, as ``hpctrack sync`` does."""
        return [
            spool.deliver(waiting, str(self.spool), lambda: [collector.address], lambda count: None)
            for waiting in spool.pending(str(self.spool), str(self.node))
        ]


def await_result(look, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
    return found


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    yield job
    for process in job.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@pytest.fixture
def collector(job):
    collector = Collector(job.key)
    yield collector
    collector.close()


LOG = """#!/bin/sh
exec "$PYTHON" -c '
import hpctrack, os, time
first, last = int(os.environ.get("FIRST", 0)), int(os.environ.get("LAST", 100))
for step in range(first, last):
    hpctrack.log(step=step, a=0.5, b=1.5, c=2.5, d=3.5, e=4.5)
hpctrack.set_args(lr=0.1, password="abcdef123456")
time.sleep(float(os.environ.get("REST", 0)))
'
"""


def test_everything_that_was_said_arrives_once_and_nothing_is_left(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    script = LOG.replace("#!/bin/sh\n", '#!/bin/sh\necho "step=-1 loss=.5 # note" >> "$HPCTRACK_JOURNAL"\n'
                         'echo "step=-2 loss=.5 name=$MY_TOKEN" >> "$HPCTRACK_JOURNAL"\n')  # fmt: skip
    job.run(script, MY_TOKEN="abcdef123456", LAST="20000", REST="1.5")
    assert sorted(collector.steps()) == [-2, *range(20_000)]
    assert collector.torn() == 1 and collector.forged == 0
    (hello,), (start,), (fin,) = (collector.messages(kind) for kind in ("hello", "start", "fin"))
    assert (
        hello.items()
        >= {"attempt": 0, "node": "n1", "job_id": 14, "array_job_id": None, "cluster": "c"}.items()
    )
    assert (
        start["env"]["MY_TOKEN"] == "***"
        and start["env"]["SLURM_JOB_ID"] == "14"
        and "SAME" not in start["env"]
    )
    assert start["stdout"] == str(job.folder / "out") and start["stderr"] == str(job.folder / "err")
    assert (
        fin["exit_code"] == 0
        and fin["exit_signal"] is None
        and fin["lost"] == {}
        and fin["stderr_tail"] is None
    )
    assert collector.messages("args") == [{"lr": 0.1, "password": "***"}]
    assert len(collector.messages("usage")) >= 2
    assert not any(b"abcdef123456" in body for bodies in collector.bodies.values() for body in bodies)
    assert job.run_folders() == [] and job.spooled() == []


def test_before_the_first_answer_only_ids_are_sent(job):
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    silent.setblocking(False)
    job.submit()
    job.find_collector_at(f"127.0.0.1:{silent.getsockname()[1]}")
    job.run(LOG, REST="3", MY_TOKEN="abcdef123456")
    received = []
    with contextlib.suppress(BlockingIOError):
        while True:
            received.append(silent.recv(2000))
    silent.close()
    assert received and len(received) < 30
    assert all(b"hello" in datagram or b"fin" in datagram for datagram in received)
    assert len(set(map(wire.body, received))) <= 2


def test_a_failure_tells_the_end_of_its_standard_error(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    script = '#!/bin/sh\nyes filler | head -c 20000 >&2\necho "key is $MY_TOKEN" >&2\nkill -SEGV $$\n'
    job.run(script, MY_TOKEN="abcdef123456")
    (fin,) = collector.messages("fin")
    assert (fin["exit_code"], fin["exit_signal"]) == (None, 11)
    assert fin["stderr_tail"].endswith("key is ***\n") and 4000 < len(fin["stderr_tail"]) <= 4096


def test_a_line_is_delivered_though_its_writer_was_killed_at_once(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run(
        "#!/bin/sh\n"
        "\"$PYTHON\" -c 'import hpctrack, os; hpctrack.log(step=7, a=1.0); os.kill(os.getpid(), 9)'\n"
    )
    assert collector.steps() == [7]


def test_thirty_percent_loss_in_both_directions(job):
    collector = Collector(job.key, loss=0.3)
    job.submit()
    job.find_collector_at(collector.address)
    assert job.run(LOG, LAST="3000", REST="2", flush=60) < 40
    collector.close()
    assert sorted(collector.steps()) == list(range(3000)) and len(collector.messages("fin")) == 1
    assert job.run_folders() == []


def test_a_line_longer_than_a_datagram(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run("""#!/bin/sh
        "$PYTHON" -c 'print("step=1 text=" + "x" * 100_000)' >> "$HPCTRACK_JOURNAL"
        "$PYTHON" -c 'print("step=2 text=" + "y" * 2_000_000)' >> "$HPCTRACK_JOURNAL"
        echo "step=3 loss=1" >> "$HPCTRACK_JOURNAL"
    """)  # fmt: skip
    assert collector.steps() == [1, 3] and collector.torn() == 1


def test_an_unfinished_last_line_is_counted_not_read(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run('#!/bin/sh\nprintf "step=1 loss=1\\nstep=2 loss=0.12" >> "$HPCTRACK_JOURNAL"\n')
    assert collector.steps() == [1] and collector.torn() == 1 and job.run_folders() == []


def test_no_collector_the_job_ends_at_once_and_sync_delivers(job):
    job.submit()
    assert job.run(LOG, LAST="5000", flush=5) < 5
    assert job.run_folders() == []
    assert {file.kind for file in job.spooled()} == {"relay", "log"}, "the shell has said nothing"
    assert not any(file.whole for file in job.spooled())
    collector = Collector(job.key)
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(5000)) and len(collector.messages("fin")) == 1
    assert collector.messages("args") == [{"lr": 0.1, "password": "***"}]
    assert job.spooled() == [] and job.sync(collector) == []


def test_syncing_twice_adds_nothing(job, tmp_path):
    job.submit()
    job.run(LOG, LAST="500")
    (folder,) = job.spool.glob("journals/*")
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", folder, copy], check=True)
    collector = Collector(job.key)
    job.sync(collector)
    subprocess.run(["cp", "-a", copy, folder], check=True)
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(500)) and job.spooled() == []


def test_a_record_that_never_comes_does_not_hold_up_the_job(job):
    assert job.run("#!/bin/sh\necho 'step=1 loss=1' >> $HPCTRACK_JOURNAL\n") < 5
    collector = Collector(job.key)
    job.submit()
    assert job.sync(collector) == [True]
    collector.close()
    assert collector.steps() == [1] and len(collector.messages("hello")) == 1


def test_a_record_and_a_collector_that_come_late(job):
    process = job.start(LOG, LAST="300", REST="6")
    time.sleep(1.0)
    job.submit()
    time.sleep(1.0)
    collector = Collector(job.key)
    job.find_collector_at(collector.address)
    await_result(lambda: len(collector.steps()) == 300, 20)
    assert process.poll() is None
    process.wait(60)
    collector.close()
    assert sorted(collector.steps()) == list(range(300)) and job.run_folders() == []


def test_a_collector_that_moves_is_found_again(job, tmp_path):
    first = Collector(job.key)
    job.submit()
    job.find_collector_at(first.address)
    process = job.start(LOG, LAST="10", REST="8")
    await_result(lambda: len(first.steps()) == 10)
    first.close()
    second = Collector(job.key)
    second.watermarks, second.bodies = dict(first.watermarks), first.bodies
    job.find_collector_at(second.address)
    with job.journal("shell").open("a") as file:
        file.write("step=10 loss=1\n")
    await_result(lambda: len(second.steps()) == 11, 20)
    process.wait(60)
    second.close()
    assert sorted(second.steps()) == list(range(11)) and len(second.messages("fin")) == 1


def test_several_addresses_are_tried_in_turn(tmp_path):
    job = Job(tmp_path)
    collector = Collector(job.key)
    job.record = job.record._replace(collector=("127.0.0.1:9", "nowhere.invalid:5", collector.address))
    job.submit()
    job.run(LOG, LAST="10", REST="8")
    collector.close()
    assert sorted(collector.steps()) == list(range(10))


def test_a_relay_that_was_killed_is_succeeded_by_the_next_attempt(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start(LOG, LAST="100", REST="30")
    await_result(lambda: len(collector.steps()) == 100)
    os.kill(job.relay(process), signal.SIGKILL)
    with job.journal("shell").open("a") as file:
        file.write("step=100 loss=1\n")
    os.killpg(process.pid, signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    assert len(job.run_folders()) == 1
    job.run(LOG, FIRST="101", LAST="200", REST="2", SLURM_RESTART_COUNT="1")
    assert sorted(collector.steps()) == list(range(200))
    assert sorted(collector.attempts.values()).count(1) >= 2 and job.run_folders() == []


def test_sync_delivers_what_a_killed_job_left_on_this_host(job):
    job.submit()
    process = job.start(LOG, LAST="100", REST="30")
    await_result(lambda: b"!args" in job.journal("log").read_bytes())
    collector = Collector(job.key)
    assert job.sync(collector) == []  # it lives
    relay = job.relay(process)
    for pid in (relay, process.pid):
        os.kill(pid, signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(100)) and job.run_folders() == []


def test_a_supervisor_that_is_killed_leaves_a_relay_that_finishes(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start(
        '#!/bin/sh\necho "step=1 loss=1" >> $HPCTRACK_JOURNAL\n'
        'sleep 2\necho "step=2 loss=1" >> $HPCTRACK_JOURNAL\n'
    )
    await_result(lambda: collector.steps() == [1])
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    await_result(lambda: job.run_folders() == [])
    assert collector.steps() == [1, 2] and collector.messages("fin") == []
    assert [event["name"] for event in collector.messages("event")] == ["supervisor lost"]


def test_transport_spool_sends_nothing(tmp_path):
    job = Job(tmp_path, transport="spool")
    collector = Collector(job.key)
    job.record = job.record._replace(collector=(collector.address,))
    job.submit()
    process = job.start(LOG, LAST="100", REST="4")
    await_result(lambda: {file.kind for file in job.spooled()} == {"relay", "log"})
    await_result(lambda: job.sync(collector) == [False])  # while the relay goes on there: delivered, and left
    assert sorted(collector.steps()) == list(range(100))
    process.wait(30)
    assert len(collector.messages("fin")) == 0
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(100)) and len(collector.messages("fin")) == 1
    assert job.spooled() == []


def test_a_spool_that_can_not_be_written_keeps_the_run_folder(job):
    job.submit()
    (job.spool / "journals").write_text("in the way")
    assert job.run(LOG, LAST="100") < 8
    assert len(job.run_folders()) == 1
    (job.spool / "journals").unlink()
    collector = Collector(job.key)
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(100)) and job.run_folders() == []


def test_after_half_a_minute_of_silence_journals_are_in_the_spool_while_the_job_runs(job):
    job.submit()
    process = job.start(LOG, LAST="1000", REST="60")
    await_result(lambda: {file.kind for file in job.spooled()} == {"relay", "log"}, RELAY_SECONDS + 30)
    with job.journal("shell").open("a") as file:
        file.write("step=1000 loss=1\n")
    await_result(
        lambda: any(
            file.kind == "shell" and Path(file.path).read_bytes().endswith(b"step=1000 loss=1\n")
            for file in job.spooled()
        )
    )
    log = next(Path(file.path) for file in job.spooled() if file.kind == "log")
    assert log.read_bytes() == job.journal("log").read_bytes()
    collector = Collector(job.key)
    job.find_collector_at(collector.address)
    await_result(lambda: len(collector.steps()) == 1001, 40)
    await_result(lambda: job.spooled() == [], 20)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)
    collector.close()
    assert sorted(collector.steps()) == list(range(1001)) and len(collector.messages("fin")) == 1
    assert job.run_folders() == [] and list(job.spool.glob("journals/*")) == []


def test_the_shell_journal_of_a_job_with_several_nodes_is_on_the_shared_home(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    script = """#!/bin/sh -eu
for step in 1 2 3; do echo "step=$step a=1" >> "$HPCTRACK_JOURNAL"; done
case $HPCTRACK_JOURNAL in "$HPCTRACK_SPOOL_DIR"/*) ;; *) exit 9 ;; esac
sleep 1
"""
    process = job.start(script, SLURM_JOB_NUM_NODES="2")
    assert process.wait(60) == 0
    assert sorted(collector.steps()) == [1, 2, 3]
    assert list(job.spool.glob("journals/*")) == []


def test_processes_on_other_nodes_write_to_the_spool_and_the_relay_ships_that(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run('#!/bin/sh\nHPCTRACK_RUN_DIR=/not/on/this/node "$PYTHON" -c "\nimport hpctrack, time\n'
            'for step in range(50): hpctrack.log(step=step, a=1.0)\ntime.sleep(2)"\n')  # fmt: skip
    assert sorted(collector.steps()) == list(range(50))
    assert list(job.spool.glob("journals/*")) == []


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from another node"])
def test_acknowledged_space_is_given_back(job, collector, elsewhere):
    job.submit()
    job.find_collector_at(collector.address)
    script = LOG.replace("exec", "HPCTRACK_RUN_DIR=/not/on/this/node exec") if elsewhere else LOG
    process = job.start(script, LAST="60000", REST="30")
    await_result(lambda: len(collector.steps()) == 60_000)
    journal = next(job.spool.glob("journals/*/*.log.journal")) if elsewhere else job.journal("log")
    assert journal.stat().st_size > 7 << 20
    try:
        await_result(lambda: journal.stat().st_blocks * 512 < 3 << 20, 15)
    except AssertionError:
        if not tail.punch_hole(os.open(journal, os.O_RDWR), 4096, 4096):
            pytest.skip("the file system can't punch holes")
        raise
    assert journal.read_bytes()[:9] == b"# hpctrac"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)
    assert sorted(collector.steps()) == list(range(60_000))


def test_a_journal_that_was_emptied_goes_on_under_another_name(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run('#!/bin/sh\nfor i in 1 2 3; do echo "step=$i loss=1" >> $HPCTRACK_JOURNAL; done; sleep 1\n'
            'echo "step=4 loss=1" > $HPCTRACK_JOURNAL; sleep 1\n')  # fmt: skip
    assert collector.steps() == [1, 2, 3, 4]


def test_answers_that_are_not_the_collectors_change_nothing(job, collector):
    """Everything is acknowledged under another key, with the MAC of what was sent, or by what was sent."""
    job.submit()
    forger = Collector(bytes(32))

    def forged(datagram: bytes) -> bytes:
        return wire.answer(wire.peek(datagram), forger.key, 1 << 40, 1 << 41)

    def grafted(datagram: bytes) -> bytes:
        return forged(datagram)[: -wire.MAC_SIZE] + datagram[-wire.MAC_SIZE :]

    def any_of_them(datagram: bytes) -> bytes:
        return next(kinds)(datagram)

    kinds = itertools.cycle((forged, grafted, bytes))
    forger._take = any_of_them
    job.find_collector_at(f"{forger.address}\n{collector.address}")
    job.run(LOG, LAST="100", REST="6")
    forger.close()
    assert sorted(collector.steps()) == list(range(100))


def test_lost_lines_are_told_at_the_end(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run('#!/bin/sh\nexec "$PYTHON" -c "\nimport hpctrack, resource\nhpctrack.log(step=0, a=1.0)\n'
            'resource.setrlimit(resource.RLIMIT_FSIZE, (80, -1))\n'
            'for step in range(1, 11): hpctrack.log(step=step, a=1.0)"\n')  # fmt: skip
    (fin,) = collector.messages("fin")
    assert sum(fin["lost"].values()) == 10 and collector.steps() == [0]


def test_identity_of_folders(tmp_path):
    identity = folders.Identity("u", 3, "c", 14, None, host="h", boot="b", pid=7)
    folders.write_identity(str(tmp_path), identity)
    assert folders.read_identity(str(tmp_path)) == identity
    (tmp_path / "identity.json").write_text("{")
    assert folders.read_identity(str(tmp_path)) is None


def test_a_lock_is_for_one_at_a_time(tmp_path):
    first, second = folders.Lock(str(tmp_path)), folders.Lock(str(tmp_path))
    assert first.take() and not second.take()
    first.release()
    assert second.take()
    second.release()


def test_a_lock_of_another_host_is_kept_until_it_is_stale(tmp_path):
    path = tmp_path / "lock"
    path.write_text("elsewhere 1234\n")
    assert not folders.Lock(str(tmp_path)).take()
    long_ago = time.time() - 1000
    os.utime(path, (long_ago, long_ago))
    assert folders.Lock(str(tmp_path)).take()
