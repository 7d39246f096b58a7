"""``hpctrack logs``: what a run wrote to its standard output or standard error."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

import click

from hpctrack import errors, settings
from hpctrack.cli import common, render
from hpctrack.store import lookup, queries

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpctrack import runids
    from hpctrack.store.database import Connection

_CHUNK = 1 << 16
#: Seconds between two looks at the file, and at PostgreSQL.
_LOOK, _ASK = 0.2, 2.0
#: Bytes before our place in the file by which it is known again.
_MARK = 64


@click.command()
@common.run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is over, also when it is requeued.")
@click.option("--err", is_flag=True, help="Standard error, where it is a file of its own.")
@click.option("-n", "--lines", type=click.IntRange(0), help="Begin with the last so many lines.")
@common.config_option
def command(
    *, ref: runids.RunRef, follow: bool, err: bool, lines: int | None, config_path: str | None
) -> None:
    """Print what a run wrote to standard output, as it stands in its file.

    The file must be visible from here, and yours to read.
    """
    configuration = settings.load(config_path=config_path)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(common.connect(configuration)))
        run_id = lookup.find_one(connection, ref)
        asker = _Asker(connection, run_id, lambda: common.connect(configuration))
        run = asker.ask()
        if follow:
            stack.callback(asker.close)
            _Follower(asker, run, err=err).follow(lines)
        else:
            with _open(_path(run, err=err), run) as file:
                _skip_to_last(file, lines)
                _copy(file)


def _path(run: queries.Run, *, err: bool) -> str:
    """Return the file. Raises `errors.NoOutput` where none is known."""
    path = (run.stderr_path if err else run.stdout_path) or None
    if path is not None:
        return path
    if run.kind == "command":
        raise errors.NoOutput(f"r{run.id} is a command: it wrote to the terminal that it was started from")
    if run.time_started is None and run.time_ended is None:
        raise errors.NoOutput(f"r{run.id} is {run.status.value}: it has written nothing yet")
    raise errors.NoOutput(f"r{run.id} has not told where its {'stderr' if err else 'output'} is")


def _open(path: str, run: queries.Run) -> BinaryIO:
    """Open the file. Raises `errors.NoOutput`."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (paths of the node are texts)
            raise errors.NoOutput(f"r{run.id} wrote to {render.clean(path)}, which is no file")
        return open(path, "rb", buffering=0)  # noqa: PTH123
    except FileNotFoundError:
        raise errors.NoOutput(
            f"{render.clean(path)} is not on this host, or no longer; r{run.id} ran on {run.node_list}"
        ) from None
    except OSError as error:
        raise errors.NoOutput(f"{render.clean(path)}: {error.strerror}") from None


def _skip_to_last(file: BinaryIO, lines: int | None) -> None:
    """Move to where the last so many lines begin."""
    if lines is None:
        return
    position = end = file.seek(0, os.SEEK_END)
    found = 0
    while position > 0:
        size = min(_CHUNK, position)
        position = file.seek(position - size)
        chunk = file.read(size)
        # The newline at the very end ends the last line.
        at = len(chunk) - 1 if position + size == end and chunk.endswith(b"\n") else len(chunk)
        while (at := chunk.rfind(b"\n", 0, at)) >= 0:
            found += 1
            if found == lines:
                file.seek(position + at + 1)
                return
    file.seek(0 if lines else end)


def _copy(file: BinaryIO) -> bytes:
    """Write out what the file holds from here on; returns the last chunk of that."""
    last = b""
    while chunk := file.read(_CHUNK):
        sys.stdout.buffer.write(chunk)
        last = chunk
    sys.stdout.buffer.flush()
    return last


class _Asker:
    """Asks PostgreSQL about the run; while it is away, what was known last stands."""

    def __init__(self, connection: Connection, run_id: int, connect: Callable[[], Connection]) -> None:
        self._connection: Connection | None = connection
        self._run_id = run_id
        self._connect = connect
        self._run: queries.Run | None = None

    def ask(self) -> queries.Run:
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._run = queries.get_run(self._connection, self._run_id)
        except errors.StoreUnavailable:
            if self._run is None:
                raise
            self.close()
        return self._run

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class _Follower:
    """Copies a file that grows, is emptied by the next attempt, or becomes another one."""

    def __init__(self, asker: _Asker, run: queries.Run, *, err: bool) -> None:
        self._asker = asker
        self._run = run
        self._err = err
        self._file: BinaryIO | None = None
        self._path: str | None = None
        self._end = b""
        """The last bytes that were copied: another attempt may have written as much as was there before."""

    def follow(self, lines: int | None) -> None:
        """Copy until the run is over and its file is at its end."""
        self._reopen(lines)
        if self._file is None and self._run.time_ended is not None:
            _open(_path(self._run, err=self._err), self._run)  # says why there is nothing
        if self._file is None:
            _say(f"r{self._run.id} is {self._run.status.value}; waiting for its output")
        asked = time.monotonic()
        while True:
            if self._is_another():
                self._reopen(None)
            over = self._run.time_ended is not None
            copied = _copy(self._file) if self._file is not None else b""
            self._end = copied[-_MARK:] or self._end
            if over and not copied:
                return
            if time.monotonic() - asked >= _ASK:
                self._ask()
                asked = time.monotonic()
            if not copied:
                time.sleep(_LOOK)

    def _ask(self) -> None:
        before, self._run = self._run, self._asker.ask()
        if self._run.attempt != before.attempt:
            _say(f"r{self._run.id}: {render.attempt(self._run.attempt)}")

    def _reopen(self, lines: int | None) -> None:
        if self._file is not None:
            if not _is_rewritten(self._file, self._end):
                _copy(self._file)
            self._file.close()
        self._file, self._end = None, b""
        with contextlib.suppress(errors.NoOutput):
            self._path = _path(self._run, err=self._err)
            self._file = _open(self._path, self._run)
            _skip_to_last(self._file, lines)

    def _is_another(self) -> bool:
        """Whether the path now names another file, or one that was written anew."""
        path = self._run.stderr_path if self._err else self._run.stdout_path
        if path is None:
            return False
        if self._file is None or path != self._path:
            return True
        try:
            now, ours = os.stat(path), os.fstat(self._file.fileno())  # noqa: PTH116
        except OSError:
            return False
        same = (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino)
        return not same or _is_rewritten(self._file, self._end)


def _is_rewritten(file: BinaryIO, end: bytes) -> bool:
    """Whether what was copied last no longer stands in the file: the next attempt has emptied it."""
    at = file.tell()
    return os.fstat(file.fileno()).st_size < at or os.pread(file.fileno(), len(end), at - len(end)) != end


def _say(text: str) -> None:
    click.echo(f"hpctrack: {text}", err=True)
