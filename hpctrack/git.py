"""The git repository that a submission comes from: its state, asked for without being waited for long."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 1.0

# No lock that a user's own git would meet, no monitor left running in the background.
_STATUS = (
    "git -c core.fsmonitor=false status --porcelain=v2 --branch --untracked-files=no --ignore-submodules=none"
)
_REMOTES = "git config --get-regexp ^remote\\..*\\.url$"


class State(TypedDict):
    """What ``submissions.git`` holds. ``remote`` may hold a password: it is to be redacted."""

    commit: str | None
    branch: str | None
    dirty: bool
    remote: str | None


class Inquiry:
    """A question to git that is under way; asked early, answered while other things are done."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        self._deadline = time.monotonic() + SECONDS
        self._processes = [_start(command.split(), folder, environ) for command in (_STATUS, _REMOTES)]

    def answer(self) -> State | None:
        """Return the state; None without git, a repository or a commit, or without an answer in time."""
        status, remotes = (self._output(process) for process in self._processes)
        return None if status is None else parse(status, remotes or "")

    def _output(self, process: subprocess.Popen[bytes] | None) -> str | None:
        if process is None:
            return None
        try:
            output, _ = process.communicate(timeout=max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return None
        return output.decode("utf-8", "surrogateescape") if process.returncode == 0 else None


def _start(argv: list[str], folder: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(
            argv,
            cwd=folder,
            env={**environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None


def parse(status: str, remotes: str) -> State | None:
    """Read ``git status --porcelain=v2 --branch`` and the remotes' addresses; None without a commit."""
    headers = dict(
        line[2:].split(" ", 1) for line in status.splitlines() if line.startswith("# ") and " " in line[2:]
    )
    commit = headers.get("branch.oid", "(initial)")
    branch = headers.get("branch.head", "(detached)")
    if commit == "(initial)":
        return None
    urls = dict(line.split(" ", 1) for line in remotes.splitlines() if " " in line)
    return State(
        commit=commit,
        branch=None if branch == "(detached)" else branch,
        dirty=any(line and not line.startswith("#") for line in status.splitlines()),
        remote=urls.get("remote.origin.url") or next(iter(urls.values()), None),
    )
