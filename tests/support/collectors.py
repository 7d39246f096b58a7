"""Collectors as processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import psutil

from hpctrack.stream.collector import launch
from hpctrack.stream.wire.names import Address
from tests.support.commands import PROGRAM, environment
from tests.support.waiting import PATIENCE, eventually

#: A collector that leaves what waits in the spool to `hpctrack sync` and to the tests.
QUIET = f"from hpctrack.stream.collector import courier; courier._FIRST = 3600.0; {PROGRAM}"


class Collector:
    """A collector in the foreground."""

    def __init__(self, settings, *options: str, program: str = PROGRAM) -> None:
        self.settings = settings
        command = [sys.executable, "-c", program, "collector", "--no-reconcile", *options]
        os.makedirs(settings.data_dir, exist_ok=True)
        self.process = subprocess.Popen(command, env=environment(settings), cwd=settings.data_dir)

    def address(self) -> Address:
        def listening():
            assert self.process.poll() is None
            return launch.read_addresses(self.settings)

        return eventually(listening)[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def detached(settings) -> list[psutil.Process]:
    """Return the detached collectors of these settings."""
    collectors = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.name() == "hpct-collector"
                and process.environ().get("HPCTRACK_DATA_DIR") == settings.data_dir
            ):
                collectors.append(process)
    return collectors
