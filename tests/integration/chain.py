"""The whole way of the data, in real processes: `hpctrack run`, script, relay, collector, PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from hpctrack.stream.collector import starting

PROGRAM = "from hpctrack.cli import main; main.main()"
ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


def eventually(check, what: str, seconds: float = PATIENCE):
    """Wait until something is so; returns what the check returned."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


class Chain:
    """A collector, and commands that are tracked through it."""

    def __init__(self, settings, connection, folder: Path, prefix: tuple[str, ...] = ()) -> None:
        """``prefix`` starts the commands somewhere else: ``ip netns exec node``."""
        self.settings, self.connection, self.folder, self.prefix = settings, connection, folder, prefix
        self._collector: subprocess.Popen | None = None
        os.makedirs(settings.data_dir, 0o700, exist_ok=True)
        node = folder / "node"
        node.mkdir()
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HPCTRACK_", "SLURM_")) and "RANK" not in name
        }
        self.environ = {
            **inherited,
            **starting.environment(settings),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "HPCTRACK_NODE_DIR": str(node),
            "HPCTRACK_FLUSH": "30s",
        }

    def hpctrack(self, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run one hpctrack command to its end."""
        return subprocess.run(
            [*self.prefix, sys.executable, "-c", PROGRAM, *argv],
            env={**self.environ, **environ}, cwd=self.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def collect(self) -> None:
        """Start the collector and wait until it can be found."""
        self._collector = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "collector", "--no-reconcile"],
            env=self.environ, cwd=self.folder, stderr=(self.folder / "collector.log").open("w"),
        )  # fmt: skip
        eventually(lambda: starting.read_addresses(self.settings), "the collector never listened")

    def close(self) -> None:
        """End the collector."""
        if self._collector is not None:
            self._collector.send_signal(signal.SIGTERM)
            self._collector.wait(PATIENCE)

    def run(self, program: str, **environ: str) -> int:
        """Track a Python program to its end; return the run's id once the collector has seen that end."""
        script = self.folder / "script.py"
        script.write_text(textwrap.dedent(program), encoding="utf-8")
        done = self.hpctrack("run", "--", sys.executable, str(script), **environ)
        assert done.returncode == 0, done.stderr
        return self.ended()

    def ended(self) -> int:
        """Return the id of the newest run once all of its journals are in, through sync if need be."""
        if self.spooled():  # it was over before it was registered
            done = self.hpctrack("sync")
            assert done.returncode == 0, done.stderr
        return eventually(self._newest, (self.folder / "collector.log").read_text())

    def spooled(self) -> list[Path]:
        """Return the journals, or pieces of them, that stand in the spool."""
        return [
            path
            for pattern in ("*.journal", "*.part")
            for path in Path(self.settings.spool).glob("journals/*/" + pattern)
        ]

    def _newest(self) -> int | None:
        found = self.connection.execute(
            "SELECT id FROM runs WHERE time_ended IS NOT NULL ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return found[0] if found else None

    def accounts(self, run_id: int) -> tuple[int, int, int]:
        """Return what the run says of itself: rows stored, rows lost, pieces rejected."""
        return self.connection.execute(
            "SELECT (SELECT rows FROM run_latest WHERE run_id = %(run)s),"
            " (SELECT coalesce(sum(lost), 0)::int FROM streams WHERE run_id = %(run)s),"
            " (SELECT count(*) FROM rejected WHERE run_id = %(run)s)",
            {"run": run_id},
        ).fetchone()
