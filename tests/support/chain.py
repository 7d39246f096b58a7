"""The whole way of the data, in real processes: `hpctrack run`, script, relay, collector, PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support.collectors import Collector
from tests.support.commands import PROGRAM, environment
from tests.support.waiting import eventually


class Chain:
    """A collector, and commands that are tracked through it."""

    def __init__(self, settings, connection, folder: Path) -> None:
        self.settings, self.connection, self.folder = settings, connection, folder
        self._collector: Collector | None = None
        node = folder / "node"
        node.mkdir()
        inherited = environment(settings)
        self.environ = {
            **{
                name: value for name, value in inherited.items() if name[:5] != "SLURM" and "RANK" not in name
            },
            "HPCTRACK_NODE_DIR": str(node),
            "HPCTRACK_FLUSH": "30s",
        }

    def hpctrack(self, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run one hpctrack command to its end."""
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *argv],
            env={**self.environ, **environ}, cwd=self.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def collect(self) -> None:
        """Start the collector and wait until it can be found."""
        self._collector = Collector(self.settings)
        self._collector.address()

    def close(self) -> None:
        """End the collector."""
        if self._collector is not None:
            self._collector.end()

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
        return eventually(self._newest)

    def spooled(self) -> list[Path]:
        """Return the journals, or pieces of them, that stand in the spool."""
        return [
            path
            for pattern in ("*.journal", "*.part")
            for path in Path(self.settings.spool).glob("journals/*/" + pattern)
        ]

    def _newest(self) -> int | None:
        row = self.connection.execute(
            "SELECT id FROM runs WHERE time_ended IS NOT NULL ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return row[0] if row else None

    def accounts(self, run_id: int) -> tuple[int, int, int]:
        """Return what the run says of itself: rows stored, rows lost, pieces rejected."""
        return self.connection.execute(
            "SELECT (SELECT rows FROM run_latest WHERE run_id = %(run)s),"
            " (SELECT coalesce(sum(lost), 0)::int FROM streams WHERE run_id = %(run)s),"
            " (SELECT count(*) FROM rejected WHERE run_id = %(run)s)",
            {"run": run_id},
        ).fetchone()
