"""Scripts that log under ``hpctrack run``, and what PostgreSQL is to have of them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

from hpctrack.script import journal_lines
from hpctrack.store import database as store
from hpctrack.stream.wire import journal
from tests.support.commands import PROGRAM, environment
from tests.support.waiting import PATIENCE, eventually

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


class Tracked:
    """A script that logs ``count`` rows under ``hpctrack run``."""

    def __init__(
        self, settings, folder: Path, count: int, rate: float, *,
        name: str = "faults", node: Path | None = None, program: str = PROGRAM, **environ: str,
    ) -> None:  # fmt: skip
        self.settings, self.count, self.name = settings, count, name
        self.node = node or folder / f"node-{name}"
        self.node.mkdir(mode=0o700, exist_ok=True)
        script = [sys.executable, "-c", _SCRIPT, "0", str(count), str(rate)]
        own = settings._replace(node_dir=str(self.node))
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "run", "-E", name, "--", *script],
            env={**environment(own), **environ}, cwd=folder,
        )  # fmt: skip

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def relay(self) -> int:
        """Return the relay's pid."""

        def hello() -> str:
            path = next(self.node.glob("hpctrack-*/*/*.relay.journal"), None)
            return path.read_text().partition("!hello ")[2] if path else ""

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
            rows = connection.execute(
                "SELECT step, x, bits, n FROM metrics WHERE run_id = %s ORDER BY step", [run_id]
            ).fetchall()
            rejected = connection.execute("SELECT count(*) FROM rejected").fetchone()
        assert [(step, bits(x), bits(y), int(n)) for step, x, y, n in rows] == expected
        assert rejected == (0,)


def bits(value: float) -> bytes:
    """Return the bytes of a double."""
    return struct.pack("<d", value)


def expected_row(step: int) -> tuple[int, bytes, bytes, int]:
    """Return what the script logs at a step."""
    return step, bits(step / 7), struct.pack("<Q", step << 40 | 0x3FF1), step
