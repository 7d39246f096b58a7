"""Collectors as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from hpctrack.stream.collector import launch
from tests.support.commands import PROGRAM, environment
from tests.support.waiting import PATIENCE, eventually


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
