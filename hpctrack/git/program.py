"""The only module that starts git, so that git reads a repository and starts no other program.

git does not get the variables ``GIT_*``: they name programs, folders of programs, and files to write to. It
fetches nothing. Its output and its time are bounded.
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

#: Bytes; no honest answer is as long.
_MAX_OUTPUT = 64 << 20
_PIECE = 1 << 16
#: Seconds that a killed git gets to end.
_GRACE = 0.1
#: The only variables that git keeps. They are harmless: they say where not to look for a repository.
_KEPT = frozenset(("GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM"))
_SAFETY = {
    "GIT_OPTIONAL_LOCKS": "0",  # no lock that a user's own git would meet
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",  # an older git does not know the line above: this leaves it no way to fetch
    "LC_ALL": "C",
}
_OPTIONS = ("--no-pager", "-c", "safe.bareRepository=explicit", "-c", "core.fsmonitor=false")


class Git:
    """git, for several questions that share one deadline (`time.monotonic`)."""

    def __init__(self, environ: Mapping[str, str], deadline: float) -> None:
        self._program = find(environ)
        self._deadline = deadline
        self.environ = {
            name: text for name, text in environ.items() if not name.startswith("GIT_") or name in _KEPT
        }

    def ask(
        self, words: str, folder: Path, stand_in: Mapping[str, str] | None = None, given: bytes = b""
    ) -> str | None:
        """Return git's output; None if it fails, or does not answer in time.

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
        """Write the input and return the output. Raises `subprocess.TimeoutExpired` beyond either bound."""
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
    """Return git's path; empty if there is none. Relative entries of PATH may lead into the tree: skipped."""
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder, "git")
        with contextlib.suppress(OSError):  # we may not look into that folder
            if path.is_absolute() and path.is_file() and os.access(path, os.X_OK):
                return str(path)
    return ""
