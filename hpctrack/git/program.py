"""The program git: the one doorway, through which it reads and starts nothing.

Variables ``GIT_*`` are taken away: they name programs, folders of programs, and files to write to. Nothing is
fetched. What it says is bounded, and so is the time that it takes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: More than any honest answer has.
_MAX_OUTPUT = 64 << 20
_PIECE = 1 << 16
#: Seconds for a git that was killed to be gone.
_GRACE = 0.1
#: Only these variables of git's are harmless and of use: where not to look for a repository.
_KEPT = frozenset(("GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM"))
_SAFETY = {
    "GIT_OPTIONAL_LOCKS": "0",  # no lock that a user's own git would meet
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",  # and where that is unknown: no way to fetch
    "LC_ALL": "C",
}
_OPTIONS = ("--no-pager", "-c", "safe.bareRepository=explicit", "-c", "core.fsmonitor=false")


class Git:
    """git, for some questions that have until a deadline (`time.monotonic`) together."""

    def __init__(self, environ: Mapping[str, str], deadline: float) -> None:
        self._program = find(environ)
        self._deadline = deadline
        self.environ = {
            name: text for name, text in environ.items() if not name.startswith("GIT_") or name in _KEPT
        }

    def ask(
        self, words: str, folder: Path, stand_in: Mapping[str, str] | None = None, given: bytes = b""
    ) -> str | None:
        """Return what git says; None for a failure, or without an answer in time.

        ``words`` are its arguments, split at blanks; ``stand_in`` variables are set beside those of
        `environ`; ``given`` is its standard input. Raises OSError.
        """
        if not self._program or time.monotonic() > self._deadline:
            return None
        process = subprocess.Popen(
            [self._program, *_OPTIONS, *words.split()],
            cwd=folder,
            env={**self.environ, **_SAFETY, **(stand_in or {})},
            stdin=subprocess.PIPE if given else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            output = self._exchange(process, given)
            process.wait(max(0.0, self._deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, BrokenPipeError):
            return None
        finally:
            _end(process)
        return output.decode("utf-8", "surrogateescape") if process.returncode == 0 else None

    def _exchange(self, process: subprocess.Popen[bytes], given: bytes) -> bytes:
        """Write and read; raises `subprocess.TimeoutExpired` when time or space is up."""
        output, left = bytearray(), memoryview(given)
        with selectors.DefaultSelector() as selector:
            for pipe, event in (
                (process.stdin, selectors.EVENT_WRITE),
                (process.stdout, selectors.EVENT_READ),
            ):
                if pipe is not None:
                    os.set_blocking(pipe.fileno(), False)
                    selector.register(pipe, event)
            while selector.get_map():
                seconds = self._deadline - time.monotonic()
                if seconds <= 0 or len(output) > _MAX_OUTPUT:
                    raise subprocess.TimeoutExpired(process.args, seconds)
                for key, _ in selector.select(seconds):
                    if key.fileobj is process.stdout:
                        piece = os.read(key.fd, _PIECE)
                        output += piece
                        over = not piece
                    else:
                        left = left[os.write(key.fd, left[:_PIECE]) :]
                        over = not left
                    if over:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
        return bytes(output)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def find(environ: Mapping[str, str]) -> str:
    """Return git's path; empty where there is none. Relative entries of PATH mean the tree itself."""
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder, "git")
        with contextlib.suppress(OSError):  # of a folder that one may not look into
            if path.is_absolute() and path.is_file() and os.access(path, os.X_OK):
                return str(path)
    return ""
