"""``hpctrack logs``: what a run wrote to its standard output or standard error."""

from __future__ import annotations

import codecs
import contextlib
import os
import pwd
import re
import stat
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

import click

from hpctrack import errors, settings
from hpctrack.cli import options
from hpctrack.cli.terminal import render, say
from hpctrack.store.read import lookup, queries
from hpctrack.text import visible
from hpctrack.view import notation

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpctrack.run import runids

_CHUNK = 1 << 16
#: Seconds between two looks at the file, and at PostgreSQL.
_LOOK, _ASK = 0.2, 2.0
#: Bytes before our place in the file by which it is known again.
_MARK = 64
_BEGUN = re.compile(r"\x1b(?:\[[\d;:]{0,40})?$")


@click.command()
@options.run
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is over, also when it is requeued.")
@click.option("--err", is_flag=True, help="Standard error, where it is a file of its own.")
@click.option("-n", "--lines", type=click.IntRange(0), help="Begin with the last so many lines.")
@options.config_path
def command(
    *, ref: runids.RunRef, follow: bool, err: bool, lines: int | None, config_path: str | None
) -> None:
    """Print what a run wrote to standard output, as it stands in its file.

    On a terminal, what would command it is written out; colours and progress bars stay.

    The file must be visible from here, and yours to read.
    """
    from hpctrack.store.write import registration

    configuration = settings.load(config_path=config_path)
    with contextlib.closing(registration.session(configuration)) as session:
        run_id = session.ask(lambda connection: lookup.find_one(connection, ref))

        def ask() -> queries.Run:
            return session.ask(lambda connection: queries.get_run(connection, run_id))

        run = ask()
        own = run.user_name in session.ask(lookup.my_names)
        if follow:
            _Follower(ask, run, err=err, own=own).follow(lines)
        else:
            with _open(_path(run, err=err), run, own=own) as file:
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


def _open(path: str, run: queries.Run, *, own: bool) -> BinaryIO:
    """Open the file. Raises `errors.NoOutput`."""
    try:
        return _open_theirs(path, run, own=own)
    except FileNotFoundError:
        raise errors.NoOutput(
            f"{render.clean(path)} is not on this host, or no longer; "
            f"r{run.id} ran on {render.clean(run.node_list)}"
        ) from None
    except OSError as error:
        raise errors.NoOutput(f"{render.clean(path)}: {error.strerror}") from None


def _open_theirs(path: str, run: queries.Run, *, own: bool) -> BinaryIO:
    """Open the file if the run's owner could. Raises `errors.NoOutput`, OSError.

    The run's owner chose the path: it must not lead another user to a file that the owner can't read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (paths of the node are texts)
        raise errors.NoOutput(f"r{run.id} wrote to {render.clean(path)}, which is no file")
    # Something else may take its place: a FIFO is not waited for, and what was opened is looked at.
    file = open(path, "rb", buffering=0, opener=_opener)  # noqa: SIM115
    opened = os.fstat(file.fileno())
    if stat.S_ISREG(opened.st_mode) and (own or _is_theirs(opened, run.user_name)):
        return file
    file.close()
    whose = render.clean(run.user_name)
    raise errors.NoOutput(f"r{run.id} is {whose}'s, and {render.clean(path)} is not: it is left closed")


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _is_theirs(status: os.stat_result, user: str) -> bool:
    """Whether a file belongs to the account of a login's name, or is for everybody to read."""
    if status.st_mode & stat.S_IROTH:
        return True
    try:
        return status.st_uid == pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return False


def _skip_to_last(file: BinaryIO, lines: int | None) -> None:
    """Move to where the last so many lines begin."""
    if lines is None:
        return
    position = end = file.seek(0, os.SEEK_END)
    newlines = 0
    while position > 0:
        size = min(_CHUNK, position)
        position = file.seek(position - size)
        chunk = file.read(size)
        # The newline at the very end ends the last line.
        at = len(chunk) - 1 if position + size == end and chunk.endswith(b"\n") else len(chunk)
        while (at := chunk.rfind(b"\n", 0, at)) >= 0:
            newlines += 1
            if newlines == lines:
                file.seek(position + at + 1)
                return
    file.seek(0 if lines else end)


def _copy(file: BinaryIO) -> None:
    """Write out what the file holds from here on."""
    output = _Output()
    while chunk := file.read(_CHUNK):
        output.write(chunk)
    output.close()


class _Output:
    """Standard output for the bytes of a file: as they are, but for what would command a terminal.

    Colours, and the carriage returns of progress bars, reach it.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._shown = sys.stdout.isatty()
        self._begun = ""
        """What may be the beginning of a colour."""

    def write(self, chunk: bytes) -> None:
        """Write what comes next."""
        if not self._shown:
            sys.stdout.buffer.write(chunk)
            return
        text = self._begun + self._decoder.decode(chunk)
        begun = _BEGUN.search(text)
        self._begun = begun[0] if begun else ""
        self._show(text.removesuffix(self._begun))

    def close(self) -> None:
        """Write what was held back."""
        self._show(self._begun + self._decoder.decode(b"", final=True))
        self._begun = ""

    @staticmethod
    def _show(text: str) -> None:
        sys.stdout.write(visible.coloured(text))
        sys.stdout.flush()


class Rewritten(Exception):
    """What was copied last no longer stands in the file: the next attempt has emptied it."""


class Growing:
    """A file that is copied as it grows."""

    def __init__(self, file: BinaryIO) -> None:
        self._output = _Output()
        self._file = file
        self._at = file.tell()
        size = min(_MARK, self._at)
        self._end = os.pread(file.fileno(), size, self._at - size)
        """The last bytes before our place: another attempt may have written as much as was there before."""

    def is_at(self, path: str) -> bool:
        """Say whether a path still names this file, or names none just now."""
        try:
            now, ours = os.stat(path), os.fstat(self._file.fileno())  # noqa: PTH116
        except OSError:
            return True
        return (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino)

    def copy(self) -> bool:
        """Write out what has come; False if nothing has. Raises `Rewritten`."""
        copied = False
        try:
            while chunk := self._next():
                self._output.write(chunk)
                copied = True
        finally:
            sys.stdout.buffer.flush()
        return copied

    def _next(self) -> bytes:
        # Both in one read: between two, the file could be emptied and written anew.
        data = os.pread(self._file.fileno(), len(self._end) + _CHUNK, self._at - len(self._end))
        if not data.startswith(self._end):
            raise Rewritten
        chunk = data[len(self._end) :]
        self._at += len(chunk)
        self._end = data[-_MARK:]
        return chunk

    def close(self) -> None:
        """Close the file."""
        self._output.close()
        self._file.close()


class _Follower:
    """Copies a file that grows, is emptied by the next attempt, or becomes another one."""

    def __init__(self, ask: Callable[[], queries.Run], run: queries.Run, *, err: bool, own: bool) -> None:
        self._ask = ask
        self._run = run
        self._err = err
        self._own = own
        self._file: Growing | None = None
        self._path: str | None = None

    def follow(self, lines: int | None) -> None:
        """Copy until the run is over and its file is at its end."""
        self._reopen(lines)
        if self._file is None and self._run.time_ended is not None:
            _open(_path(self._run, err=self._err), self._run, own=self._own)  # says why there is nothing
        if self._file is None:
            _say(f"r{self._run.id} is {self._run.status.value}; waiting for its output")
        asked = time.monotonic()
        while True:
            over = self._run.time_ended is not None
            copied = self._copy()
            if over and not copied:
                return
            if time.monotonic() - asked >= _ASK:
                self._refresh()
                asked = time.monotonic()
            if not copied:
                time.sleep(_LOOK)

    def _refresh(self) -> None:
        before = self._run
        with contextlib.suppress(errors.StoreUnavailable):  # what was known last stands
            self._run = self._ask()
        if self._run.attempt != before.attempt:
            _say(f"r{self._run.id}: {notation.attempt(self._run.attempt)}")

    def _copy(self) -> bool:
        """Write out what has come; False if nothing has."""
        another = self._names_another()
        copied = False
        if self._file is not None:
            try:
                copied = self._file.copy()
            except Rewritten:
                another = True
        if another:
            self._reopen(None)
        return copied or (another and self._file is not None)

    def _names_another(self) -> bool:
        """Say whether the run's output is now in another file than the one that is open."""
        path = self._run.stderr_path if self._err else self._run.stdout_path
        if path is None:
            return False
        return self._file is None or path != self._path or not self._file.is_at(path)

    def _reopen(self, lines: int | None) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        with contextlib.suppress(errors.NoOutput):
            self._path = _path(self._run, err=self._err)
            file = _open(self._path, self._run, own=self._own)
            _skip_to_last(file, lines)
            self._file = Growing(file)


def _say(text: str) -> None:
    say.note(text)
