"""For tests of the relay: jobs under a real supervisor, and a small collector over real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import psutil

from hpctrack.stream.disk import folders, tail
from hpctrack.stream.node import spool
from hpctrack.stream.wire import ciphers, datagrams, layout, records
from hpctrack.stream.wire.names import Address
from tests.support.paths import ROOT
from tests.support.waiting import eventually

MAIN = ROOT / "hpctrack" / "stream" / "__main__.py"


class MemoryCollector:
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
        self.held: dict[bytes, dict[int, tuple[datagrams.Header, bytes]]] = {}
        self.attempts: dict[bytes, int] = {}
        self.datagrams = self.forged = 0
        #: All that crossed the network, both ways.
        self.seen = bytearray()
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
            self.seen += datagram
            if self.rng.random() < self.loss:
                continue
            answer = self._take(datagram)
            if answer is not None and self.rng.random() >= self.loss:
                self.seen += answer
                self.socket.sendto(answer, address)

    def _take(self, datagram: bytes) -> bytes | None:
        self.datagrams += 1
        header = datagrams.peek(datagram)
        if not datagrams.verified(self.key, datagram):
            self.forged += 1
            return None
        assert header.kind == layout.DATA
        watermark = self.watermarks.get(header.journal, 0)
        if header.end <= watermark:
            return datagrams.answer(header, self.key, watermark, watermark + (1 << 20))
        if header.start < watermark:
            return datagrams.answer(header._replace(echo=0), self.key, watermark, watermark + (1 << 20))
        name = header._replace(echo=0, part=0)
        parts = self.parts.setdefault(name, {})
        parts[header.part] = datagrams.body(self.key, datagram)
        if len(parts) == header.parts:
            del self.parts[name]
            body = b"".join(parts[part] for part in range(header.parts))
            self.held.setdefault(header.journal, {})[header.start] = (header, body)
        held = self.held.get(header.journal, {})
        while watermark in held:
            earlier, body = held.pop(watermark)
            self.bodies.setdefault(header.journal, []).append(body)
            self.attempts[header.journal] = header.attempt
            watermark = self.watermarks[header.journal] = earlier.end
        if header.end <= watermark:
            return datagrams.answer(header, self.key, watermark, watermark + (1 << 20))
        return datagrams.held(header, self.key, watermark, watermark + (1 << 20))

    def blocks(self) -> list[tuple[bytes, int, bytes]]:
        """Return (journal, kind, contents) of all blocks."""
        listed = []
        for journal, bodies in self.bodies.items():
            for body in bodies:
                rest = body
                while rest:
                    kind, size = struct.unpack_from("<BI", rest)
                    listed.append((journal, kind, rest[5 : 5 + size]))
                    rest = rest[5 + size :]
        return listed

    def steps(self) -> list[int]:
        """Return the steps of all rows; those of one block are equally spaced here, or one."""
        listed = []
        for _, kind, block in self.blocks():
            if kind == layout.ROWS:
                count, mode, _, _, table = struct.unpack_from("<HBBBxH", block)
                assert mode in (layout.AFFINE, layout.RAW)
                if mode == layout.AFFINE:
                    first, stride = struct.unpack_from("<qq", block, 8 + table)
                    listed += [first + i * stride for i in range(count)]
                else:
                    listed += struct.unpack_from(f"<{count}q", block, 8 + table)
        return listed

    def torn(self) -> int:
        return sum(struct.unpack("<I", block)[0] for _, kind, block in self.blocks() if kind == layout.TORN)

    def gaps(self) -> list[int]:
        return [struct.unpack("<Q", block)[0] for _, kind, block in self.blocks() if kind == layout.GAP]

    def messages(self, kind: str) -> list[dict]:
        listed = []
        for _, block_kind, block in self.blocks():
            size = block[0]
            if block_kind == layout.MESSAGE and block[1 : 1 + size].decode() == kind:
                listed.append(json.loads(block[1 + size :]))
        return listed


class Job:
    """A tracked job without Slurm: record, supervisor, script."""

    def __init__(self, folder: Path, **settings):
        self.folder = folder
        self.spool = folder / "spool"
        self.node = folder / "node"
        self.node.mkdir()
        secret = os.urandom(32)
        self.key = ciphers.run_key(secret, -1)
        self.record = records.Record(
            uuid=str(uuid.uuid4()), secret=secret.hex(), time=time.time(), cluster="c", base_job_id=14,
            tasks=None, submission={"env": {"SAME": "value", "LANG": "C"}}, run={}, usage_interval=0.5,
            **settings,
        )  # fmt: skip
        self.started: list[subprocess.Popen] = []

    def submit(self) -> None:
        records.write(str(self.spool), self.record)

    def find_collector_at(self, address: str) -> None:
        """Write the address file, as a collector does."""
        self.spool.mkdir(mode=0o700, exist_ok=True)
        (self.spool / "collector").write_text(address + "\n")

    def start(
        self,
        script: str,
        *arguments: str,
        flush: float = 5,
        prefix: tuple[str, ...] = (),
        mode: str = "supervise",
        **environ: str,
    ) -> subprocess.Popen:
        """Start a script as the wrapper does; ``mode``: or as ``hpctrack run`` does."""
        batch = self.folder / "batch"
        batch.write_text("# the wrapper\n" + script if mode == "supervise" else script)
        batch.chmod(0o700)
        process = subprocess.Popen(
            [*prefix, sys.executable, "-I", "-S", MAIN, mode, "--spool", self.spool,
             "--script-line", "2",
             "--node-dir", self.node, "--flush", str(flush), "--", batch, *arguments],
            env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "14", "SLURM_CLUSTER_NAME": "c", "LANG": "C",
                 "SAME": "value", "HPCTRACK_SCRIPT": "/home/a/train.sh", "SLURMD_NODENAME": "n1",
                 "PYTHON": sys.executable, **environ},
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=(self.folder / "out").open("w"),
            stderr=(self.folder / "err").open("w"), start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, script: str, *arguments: str, **options) -> None:
        """Run a script to its end, and that of its supervisor, in two minutes: a longer flush shows."""
        self.start(script, *arguments, **options).wait(120)

    def relay(self, process: subprocess.Popen) -> int:
        """Return the relay's pid: the process whose journal of its own stands in the run folder."""
        hello = eventually(lambda: self.journal("relay").read_text().partition("!hello ")[2])
        return json.loads(hello.partition("\n")[0])["pid"]

    def kill(self, process: subprocess.Popen) -> None:
        """Kill supervisor, relay, script, sentinels; return when they are gone, and with them their locks."""
        supervisor = psutil.Process(process.pid)
        everybody = [supervisor, *supervisor.children(recursive=True)]
        for member in everybody:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait(30)
        eventually(lambda: not any(folders.started_at(member.pid) for member in everybody))

    def run_dir(self) -> Path:
        (path,) = eventually(lambda: list(self.node.glob("hpctrack-*/*")))
        return path

    def journal(self, kind: str) -> Path:
        return eventually(lambda: next(self.run_dir().glob(f"*.{kind}.journal"), None))

    def run_folders(self) -> list[Path]:
        return list(self.node.glob("hpctrack-*/*"))

    def spooled(self) -> list[tail.File]:
        return [file for folder in self.spool.glob("journals/*") for file in tail.find(str(folder))]

    def sync(self, collector: MemoryCollector, *, ended: bool = False) -> list[bool]:
        """Deliver what waits, as ``hpctrack sync`` does; ``ended``: the run is over on all nodes."""
        return [
            spool.deliver(
                waiting,
                str(self.spool),
                lambda: [Address.parse(collector.address)],
                lambda count: None,
                ended=ended,
            )
            for waiting in spool.pending(str(self.spool), str(self.node))
        ]


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
