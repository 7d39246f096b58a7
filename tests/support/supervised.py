"""Batch scripts under the supervisor: real processes and signals, no Slurm and no collector."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.paths import ROOT

MAIN = ROOT / "hpctrack" / "stream" / "__main__.py"


class SupervisedScript:
    """A batch script under the supervisor, as the wrapper starts it."""

    def __init__(
        self,
        folder: Path,
        script: bytes,
        *arguments: str,
        prefix: tuple[str, ...] = (),
        node: str = "node",
        **environ: str,
    ):
        self.folder = folder
        batch = folder / "batch"
        batch.write_bytes(b"#!/bin/sh\n# the wrapper\n" + script)
        self.node = folder / node
        if not self.node.exists():
            self.node.mkdir()
        variables = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "14", "SLURM_CLUSTER_NAME": "c",
                     "HPCTRACK_SCRIPT": "/home/a/train.sh", **environ}  # fmt: skip
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-I", "-S", MAIN, "supervise", "--spool", folder / "spool",
             "--script-line", "3", "--node-dir", self.node, "--flush", "0.5",
             "--", batch, *arguments],
            env=variables, cwd=folder, start_new_session=True, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self) -> tuple[int, str, str]:
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors

    def await_file(self, name: str) -> str:
        path = self.folder / name
        for _ in range(600):
            if path.exists() and path.read_text().endswith("\n"):
                return path.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{name} did not appear: {self.process.poll()}")
