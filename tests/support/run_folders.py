"""Run folders: what stands in them, and programs that log into one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from hpctrack.script import journal_lines
from hpctrack.stream.wire import journal
from tests.support.paths import ROOT


def lines(folder: Path) -> list[journal.Line]:
    return [
        line for path in sorted(folder.glob("*.log.journal")) for line in journal.parse(path.read_bytes())
    ]


def logged(folder: Path) -> dict[str, journal_lines.Value]:
    """Return the values of the one row that was logged."""
    (row,) = lines(folder)
    assert isinstance(row, journal.Row)
    return row.values


class Programs:
    """Programs that log into one run folder."""

    def __init__(self, folder: Path):
        self.folder = folder / "run"
        self.folder.mkdir(mode=0o700)
        self.spool = folder / "spool"
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "SLURM_JOB_ID": "14",
            "HPCTRACK_JOB_ID": "14",
            "HPCTRACK_RUN_DIR": str(self.folder),
            "HPCTRACK_SPOOL_DIR": str(self.spool),
        }

    def start(self, program: str, python: str = sys.executable, **environ: str) -> subprocess.Popen:
        return subprocess.Popen(
            [python, "-c", textwrap.dedent(program)],
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def execute(self, program: str, python: str = sys.executable, **environ: str) -> str:
        """Run a program to its end; return what it said on standard error."""
        process = self.start(program, python, **environ)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return errors

    def journals(self, folder: Path | None = None) -> list[list[journal.Line]]:
        paths = sorted((folder or self.folder).glob("*.log.journal"))
        return [list(journal.parse(path.read_bytes())) for path in paths]

    def steps(self) -> list[int]:
        return sorted(line.step for lines in self.journals() for line in lines)

    def lost(self) -> int:
        headers = [journal.parse_header(path.read_bytes()) for path in self.folder.glob("*.journal")]
        return sum(header.lost for header in headers)
