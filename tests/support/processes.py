"""The whole chain for tests: scripts that log under ``hpctrack run``, their relays, and collectors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

from hpctrack.script import journal_lines
from hpctrack.store import database as store
from hpctrack.stream.collector import launch
from hpctrack.stream.wire import journal

PROGRAM = "from hpctrack.cli import main; main.main()"
PATIENCE = 60.0
#: Logs rows of three values at a rate; what it logs can be worked out from the step alone.
_SCRIPT = """
import struct, sys, time
import hpctrack
first, count, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
begin = time.monotonic()
for step in range(first, first + count):
    wait = begin + (step - first) / rate - time.monotonic()
    if wait > 0:
        time.sleep(wait)
    odd = struct.unpack("<d", struct.pack("<Q", step << 40 | 0x3FF1))[0]
    hpctrack.log(step=step, x=step / 7, bits=odd, n=step)
"""


def eventually(check, seconds: float = PATIENCE):
    """Wait until something is so; returns what the check returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def fill(folder: Path) -> Path:
    """Take all the space of a file system; return the file that has it."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    return filler


def environment(settings) -> dict[str, str]:
    """Return the environment of commands with these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HPCTRACK_")}
    return {**inherited, **launch.environment(settings), "PYTHONPATH": os.pathsep.join(sys.path)}


class Collector:
    """A collector in the foreground."""

    def __init__(self, settings, *options: str) -> None:
        self.settings = settings
        command = [sys.executable, "-c", PROGRAM, "collector", "--no-reconcile", *options]
        os.makedirs(settings.data_dir, exist_ok=True)
        self.process = subprocess.Popen(command, env=environment(settings), cwd=settings.data_dir)

    def address(self) -> tuple[str, int]:
        def listening():
            assert self.process.poll() is None
            return launch.read_addresses(self.settings)

        host, _, port = eventually(listening)[0].rpartition(":")
        return host, int(port)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


class Tracked:
    """A script that logs ``count`` rows under ``hpctrack run``."""

    def __init__(
        self, settings, folder: Path, count: int, rate: float, *,
        name: str = "faults", node: Path | None = None, **environ: str,
    ) -> None:  # fmt: skip
        self.settings, self.count, self.name = settings, count, name
        self.node = node or folder / f"node-{name}"
        self.node.mkdir(mode=0o700, exist_ok=True)
        script = [sys.executable, "-c", _SCRIPT, "0", str(count), str(rate)]
        own = settings._replace(node_dir=str(self.node))
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", "-E", name, "--", *script],
            env={**environment(own), **environ}, cwd=folder,
        )  # fmt: skip

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def relay(self) -> int:
        """Return the relay's pid."""

        def hello() -> str:
            found = next(self.node.glob("hpctrack-*/*/*.relay.journal"), None)
            return found.read_text().partition("!hello ")[2] if found else ""

        return json.loads(eventually(hello).partition("\n")[0])["pid"]

    def script(self) -> int:
        """Return the script's pid; the supervisor's forks show the supervisor's command line."""

        def found() -> int | None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            for pid in map(int, children.split()):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if words[1:3] == [b"-c", _SCRIPT.encode()]:
                    return pid
            return None

        return eventually(found)

    def run_id(self, connection) -> int | None:
        row = connection.execute(
            "SELECT r.id FROM runs r JOIN experiments e ON e.id = experiment_id WHERE e.name = %s",
            [self.name],
        ).fetchone()
        return row[0] if row else None

    def rows(self) -> int:
        """Return how many rows PostgreSQL holds."""
        with store.connect(self.settings, autocommit=True) as connection:
            query = "SELECT count(*) FROM metrics WHERE run_id = %s"
            return connection.execute(query, [self.run_id(connection)]).fetchone()[0]

    def logged(self) -> int:
        """Return how many rows stand in the journals of the node."""
        return sum(path.read_bytes().count(b"\n=") for path in self.node.glob("hpctrack-*/*/*.log.journal"))

    def lost(self) -> int:
        """Return how many lines found no place in the journals of the node."""
        heads = [
            journal.parse_header(path.read_bytes()[: journal_lines.HEADER_SIZE])
            for path in self.node.glob("hpctrack-*/*/*.log.journal")
        ]
        return sum(head.lost for head in heads if head is not None)

    def check(self, count: int | None = None) -> None:
        """Every row is there exactly once, bit for bit, and the run's own accounting says so."""
        expected = [expected_row(step) for step in range(self.count if count is None else count)]
        with store.connect(self.settings, autocommit=True) as connection:
            run_id = self.run_id(connection)

            def accounted() -> bool:
                query = "SELECT rows, lost FROM run_latest WHERE run_id = %s"
                return connection.execute(query, [run_id]).fetchone() == (len(expected), 0)

            eventually(accounted)
            found = connection.execute(
                "SELECT step, x, bits, n FROM metrics WHERE run_id = %s ORDER BY step", [run_id]
            ).fetchall()
            rejected = connection.execute("SELECT count(*) FROM rejected").fetchone()
        assert [(step, bits(x), bits(y), int(n)) for step, x, y, n in found] == expected
        assert rejected == (0,)


def bits(value: float) -> bytes:
    """Return the bytes of a double."""
    return struct.pack("<d", value)


def expected_row(step: int) -> tuple[int, bytes, bytes, int]:
    """Return what the script logs at a step."""
    return step, bits(step / 7), struct.pack("<Q", step << 40 | 0x3FF1), step
