"""Verbs in terminals, with signals in the midst of their code.

Run as ``interrupts.py JSON`` it starts a verb once for each of several plans, in a terminal and a folder of
its own, and prints how each ended. A plan says after how many lines of code which signals come.
"""

from __future__ import annotations

import importlib
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: Signals, each with the line of code before which it comes.
Plan = Sequence[tuple[int, int]]


class Ended(NamedTuple):
    """How a verb ended."""

    plan: Plan
    #: As of `os.waitstatus_to_exitcode`.
    code: int
    said: str
    #: Whether the terminal's modes are what they were.
    same: bool

    @property
    def is_clean(self) -> bool:
        """Whether the terminal is as it was, with its cursor and its first screen, and nothing broke."""
        shown = self.said.count("\x1b[?25l") <= self.said.count("\x1b[?25h")
        left = self.said.count("\x1b[?1049h") == self.said.count("\x1b[?1049l")
        return self.same and shown and left and "Traceback" not in self.said


def run(database, folder: Path, arguments: list[str], plans: list[Plan], **options: Any) -> list[Ended]:
    """Run a verb once per plan, in folders ``0``, ``1``... of a folder.

    ``begin``: a function's name; lines count from its first call on. ``typed``: what the user types.
    ``loaded``: modules whose loading is no part of the run.
    """
    environ = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
    environ |= {"HPCTRACK_DATA_DIR": str(folder / "data"), "HOME": str(folder), "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-I", __file__, json.dumps({"arguments": arguments, "plans": plans, **options})],
        env={**os.environ, **environ}, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Ended(*ended) for ended in json.loads(done.stdout)]


def _interrupt(plan: Plan, begin: str) -> None:
    """Have this process send itself signals as it runs."""
    lines, due = 0, list(plan)

    def trace(frame, event, _):
        nonlocal lines
        if event == "line":
            lines += 1
            if due and due[0][0] == lines:
                os.kill(os.getpid(), due.pop(0)[1])
        return trace

    def enter(frame, event, _):
        return trace if lines or not begin or frame.f_code.co_name == begin else None

    sys.settrace(enter)


def _run_once(folder: str, plan: Plan, arguments: list[str], begin: str, typed: str) -> Ended:
    from hpctrack.cli import main

    os.mkdir(folder)
    pid, leader = pty.fork()
    if pid == 0:
        os.chdir(folder)
        _interrupt(plan, begin)
        main.main(arguments)
    before, said = termios.tcgetattr(leader), b""
    os.write(leader, typed.encode())
    while True:
        try:
            said += os.read(leader, 65536)
        except OSError:  # EIO: nobody holds the other end any more
            break
    after = termios.tcgetattr(leader)
    os.close(leader)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(plan, code, said.decode(), before == after)


def _run(
    arguments: list[str], plans: list[Plan], begin: str = "", typed: str = "", loaded: Sequence[str] = ()
) -> list[Ended]:
    for name in loaded:
        importlib.import_module(name)
    return [_run_once(str(number), plan, arguments, begin, typed) for number, plan in enumerate(plans)]


if __name__ == "__main__":
    print(json.dumps(_run(**json.loads(sys.argv[1]))))
