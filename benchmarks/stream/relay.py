"""The relay: from a full journal to acknowledged datagrams; what a row costs, and what waiting costs."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from benchmarks.result import ENVIRON, Result
from hpctrack import resources
from hpctrack.script import journal_lines
from hpctrack.stream.wire import ciphers, datagrams, layout, records

#: What the names of its results begin with.
RESULTS = ("stream.relay",)

ROWS = 400_000
#: The first sample of usage loads psutil: idle is what comes after it.
_SETTLED, _IDLE = 3, 20
_KEY_BYTES = 32
_CREDIT = 1 << 40
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
#: One write for the whole journal, as fast as the disk is: the relay finds it full.
_FILL = '#!/bin/sh\ncat rows >> "$HPCTRACK_JOURNAL"\n'
_SLEEP = "#!/bin/sh\nexec sleep {}\n"


class _Tracked:
    """A tracked command: its supervisor, and what is known when all of it has ended."""

    def __init__(self) -> None:
        self.supervisor = 0
        #: Processor seconds of supervisor, relay and sentinels.
        self.spent = 0.0
        #: Seconds from the first to the last datagram of the longest journal.
        self.seconds = 0.0


def measure() -> Iterator[Result]:
    """Measure a supervisor and its relay as processes, against a receiver that verifies and acknowledges."""
    # A relay outlives its supervisor: it becomes ours to wait for, so that its times are told.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        with _track(folder, "#!/bin/sh\n") as empty:
            pass
        _write_rows(folder / "rows")
        with _track(folder, _FILL) as busy:
            pass
        with _track(folder, _SLEEP.format(_SETTLED + _IDLE + 1)) as waiting:
            time.sleep(_SETTLED)
            before = _on_processor(waiting.supervisor)
            time.sleep(_IDLE)
            idle = _on_processor(waiting.supervisor) - before
    note = f"{ROWS} rows of five values"
    yield Result("stream.relay.rows", ROWS / busy.seconds, "rows/s", target=100_000, at_least=True, note=note)
    row = (busy.spent - empty.spent) / ROWS * 1e6
    yield Result("stream.relay.row", row, "us", target=8, note="processor time")
    note = "of a core; supervisor, relay, sentinels"
    yield Result("stream.relay.idle", 100 * idle / _IDLE, "%", target=0.2, note=note)


def _on_processor(pid: int) -> float:
    """Return the seconds that a process and its descendants have run so far (proc(5), schedstat)."""
    process = psutil.Process(pid)
    threads = (
        path
        for member in (process, *process.children(recursive=True))
        for path in Path(f"/proc/{member.pid}/task").glob("*/schedstat")
    )
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def _write_rows(path: Path) -> None:
    packer = journal_lines.packer(["loss", "accuracy", "lr", "norm", "val/loss"], "ddddd")
    if packer is None:
        raise AssertionError
    table, pack = packer
    now = time.time_ns()
    with path.open("wb") as file:
        for step in range(ROWS):
            packed = pack(1 / (step + 1), step / ROWS, 1e-4, 3.25, 2.5 + step)
            file.write(journal_lines.format_packed(table, packed, step, None, now + 1000 * step))


@contextlib.contextmanager
def _track(folder: Path, script: str) -> Iterator[_Tracked]:
    """Run a tracked script; at its end its figures are known."""
    secret = os.urandom(_KEY_BYTES)
    number = uuid.uuid4()
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    receiver.bind(("127.0.0.1", 0))
    record = records.Record(
        uuid=str(number), secret=secret.hex(), time=time.time(), cluster=None, base_job_id=None, tasks=None,
        submission={"uuid": str(number)}, run={}, collector=(f"127.0.0.1:{receiver.getsockname()[1]}",),
        flush=120.0,
    )  # fmt: skip
    spool = folder / "spool"
    path = records.write(str(spool), record)
    (folder / "plain.sh").write_text(script)
    (folder / "plain.sh").chmod(0o700)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_receive, args=(receiver, ciphers.run_key(secret, -1), theirs), daemon=True
    )
    process.start()
    receiver.close()
    main = Path(resources.PACKAGE) / "stream" / "__main__.py"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    tracked = _Tracked()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(main), "command", "--spool", str(spool), "--record", path,
         "--run", f"{number}:-1", "--node-dir", str(folder), "--flush", "120", "--", "./plain.sh"],
        cwd=folder, env={**ENVIRON, "HOME": str(folder)},
    ) as supervisor:  # fmt: skip
        tracked.supervisor = supervisor.pid
        yield tracked
    if supervisor.returncode:
        raise RuntimeError(f"the tracked command ended with {supervisor.returncode}")
    # Whoever ends leaves us its own children.
    while others := [child.pid for child in psutil.Process().children() if child.pid != process.pid]:
        for child in others:
            os.waitpid(child, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours.send(None)
    tracked.seconds = float(ours.recv())
    process.join()
    tracked.spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _receive(receiver: socket.socket, key: bytes, pipe: Connection) -> None:
    """Answer like a collector that commits at once, until told to end; tell how long the longest one took."""
    watermarks: dict[bytes, int] = {}
    held: dict[bytes, dict[int, int]] = {}
    spans: dict[bytes, tuple[float, float]] = {}
    receiver.settimeout(0.1)
    while not pipe.poll():
        try:
            datagram, address = receiver.recvfrom(2000)
        except TimeoutError:
            continue
        if not datagrams.verified(key, datagram):
            raise AssertionError("a wrong MAC")
        header = datagrams.peek(datagram)
        name, mark = header.journal, watermarks.get(header.journal, 0)
        if header.kind == layout.DATA:
            held.setdefault(name, {})[header.start] = header.end
            while mark in held[name]:
                mark = held[name].pop(mark)
            watermarks[name] = mark
        if mark < header.start:
            receiver.sendto(datagrams.held(header, key, mark, _CREDIT), address)
        else:
            receiver.sendto(datagrams.answer(header, key, mark, _CREDIT), address)
        now = time.monotonic()
        spans[name] = spans.get(name, (now, now))[0], now
    pipe.recv()
    longest = max(watermarks, key=watermarks.__getitem__)
    pipe.send(spans[longest][1] - spans[longest][0])
