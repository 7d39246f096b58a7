"""The relay: from a full journal to acknowledged datagrams; what a row costs, and what waiting costs."""

from __future__ import annotations

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

from benchmarks.result import ENVIRON, Result
from hpctrack.slurm import batch_script
from hpctrack.stream import journal_lines, records, wire

#: What the names of its results begin with.
RESULTS = ("stream.relay",)

ROWS = 400_000
#: The first sample of usage loads psutil: idle is what the second stretch costs.
_SETTLED, _IDLE = 3, 20
_KEY_BYTES = 32
_CREDIT = 1 << 40
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
#: One write for the whole journal, as fast as the disk is: the relay finds it full.
_FILL = '#!/bin/sh\ncat rows >> "$HPCTRACK_JOURNAL"\n'
_SLEEP = "#!/bin/sh\nexec sleep {}\n"


def measure() -> Iterator[Result]:
    """Measure a supervisor and its relay as processes, against a receiver that verifies and acknowledges."""
    # A relay outlives its supervisor: it becomes ours to wait for, so that its times are told.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        empty, _ = _track(folder, "#!/bin/sh\n")
        _write_rows(folder / "rows")
        busy, seconds = _track(folder, _FILL)
        settled, _ = _track(folder, _SLEEP.format(_SETTLED))
        waiting, _ = _track(folder, _SLEEP.format(_SETTLED + _IDLE))
    note = f"{ROWS} rows of five values"
    yield Result("stream.relay.rows", ROWS / seconds, "rows/s", target=100_000, at_least=True, note=note)
    yield Result("stream.relay.row", (busy - empty) / ROWS * 1e6, "us", target=8, note="processor time")
    idle = 100 * max(waiting - settled, 0.0) / _IDLE
    yield Result("stream.relay.idle", idle, "%", target=0.2, note="of a core; supervisor, relay, sentinels")


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


def _track(folder: Path, script: str) -> tuple[float, float]:
    """Run a tracked script; returns its processor seconds, and those that its longest journal took."""
    secret = os.urandom(_KEY_BYTES)
    number = uuid.uuid4()
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    receiver.bind(("127.0.0.1", 0))
    record = records.Record(
        uuid=str(number), secret=secret.hex(), time=time.time(), cluster=None, job_id=None, tasks=None,
        submission={"uuid": str(number)}, run={}, collector=(f"127.0.0.1:{receiver.getsockname()[1]}",),
        flush=120.0,
    )  # fmt: skip
    spool = folder / "spool"
    path = records.write(str(spool), record)
    (folder / "plain.sh").write_text(script)
    (folder / "plain.sh").chmod(0o700)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_receive, args=(receiver, wire.run_key(secret, -1), theirs), daemon=True)
    process.start()
    receiver.close()
    main = Path(batch_script.__file__).parents[1] / "stream" / "__main__.py"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-I", "-S", str(main), "command", "--spool", str(spool), "--record", path,
         "--run", f"{number}:-1", "--node-dir", str(folder), "--flush", "120", "--", "./plain.sh"],
        cwd=folder, env={**ENVIRON, "HOME": str(folder)}, check=True,
    )  # fmt: skip
    for child in _children():
        if child != process.pid:
            os.waitpid(child, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours.send(None)
    seconds = float(ours.recv())
    process.join()
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, seconds


def _children() -> list[int]:
    pid = os.getpid()
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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
        if not wire.verified(key, datagram):
            raise AssertionError("a wrong MAC")
        header = wire.peek(datagram)
        name, mark = header.journal, watermarks.get(header.journal, 0)
        if header.kind == wire.DATA:
            held.setdefault(name, {})[header.start] = header.end
            while mark in held[name]:
                mark = held[name].pop(mark)
            watermarks[name] = mark
        if mark < header.start:
            receiver.sendto(wire.held(header, key, mark, _CREDIT), address)
        else:
            receiver.sendto(wire.answer(header, key, mark, _CREDIT), address)
        now = time.monotonic()
        spans[name] = spans.get(name, (now, now))[0], now
    pipe.recv()
    longest = max(watermarks, key=watermarks.__getitem__)
    pipe.send(spans[longest][1] - spans[longest][0])
