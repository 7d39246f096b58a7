"""Verbs in terminals of their own."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time


def _take_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A verb in a terminal of its own."""

    def __init__(self, database, arguments, columns, command=None, **environ):
        self.output = b""
        leader, follower = pty.openpty()
        names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
        base = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
        names["HPCTRACK_DATA_DIR"] = database.data_dir
        size = {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm-256color"}
        self._leader = leader
        self.process = subprocess.Popen(
            [*(command or [sys.executable, "-m", "hpctrack.cli.main"]), *arguments],
            stdin=follower, stdout=follower, stderr=follower, env={**base, **names, **size, **environ},
            preexec_fn=_take_terminal,  # noqa: PLW1509 (there are no threads here)
        )  # fmt: skip
        os.close(follower)

    def read_until(self, condition):
        """Read until the text so far satisfies a condition."""
        deadline = time.monotonic() + 30
        while not condition(self.text):
            ready, _, _ = select.select([self._leader], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"never came: {self.text}"
            assert self._read(), f"ended before it came: {self.text}"

    def finish(self):
        """Read to the end; returns the exit code."""
        while select.select([self._leader], [], [], 30)[0] and self._read():
            pass
        return self.process.wait(30)

    def drain(self):
        """Read what is there, so that who writes can go on."""
        while select.select([self._leader], [], [], 0)[0] and self._read():
            pass

    def _read(self):
        try:
            data = os.read(self._leader, 65536)
        except OSError:  # EIO: nobody holds the other end any more
            return b""
        self.output += data
        return data

    @property
    def text(self):
        return self.output.decode("utf-8", "replace")

    def type(self, text):
        os.write(self._leader, text.encode())

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._leader)
