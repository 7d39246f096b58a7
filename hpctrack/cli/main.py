"""``hpctrack``: where the command line begins.

A verb's module is imported when the verb is used, and click when there is something to parse: ``--help`` is
asked for often, from shells and by people, and takes little longer than starting Python.
"""

from __future__ import annotations

import _signal
import _thread
import io
import os
import sys
import time

from hpctrack.cli.table_of_verbs import help_text

INTERRUPTED = 130
"""128 + SIGINT, as a shell says it."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from typing_extensions import Buffer


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. A second Ctrl-C may come wherever the first is seen to."""
    sys.unraisablehook = _hear_again
    try:
        _change_ctrl_c(_signal.SIG_DFL, _signal.default_int_handler)
        code = run(arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    _change_ctrl_c(_signal.default_int_handler, _signal.SIG_DFL)
    sys.exit(code)


def _change_ctrl_c(before: Any, after: Any) -> None:
    """Have Ctrl-C raise an exception here, and end Python before and after: no traceback tells of it."""
    if _signal.getsignal(_signal.SIGINT) == before:
        _signal.signal(_signal.SIGINT, after)


def _hear_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Send a Ctrl-C again whose exception Python ignored, as it does in ``__del__()`` and callbacks."""
    if unraisable.exc_type is KeyboardInterrupt:
        _thread.start_new_thread(_interrupt, ())  # here it would be passed over, too
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt() -> None:
    time.sleep(0.01)
    os.kill(os.getpid(), _signal.SIGINT)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    _open_closed()
    _let_errors_be_lost()
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except OSError as error:
        return _give_up(error)


def _give_up(error: OSError) -> int:
    """End where standard output can't be written; a reader that has gone is told nothing."""
    from hpctrack.cli import group

    if isinstance(error, BrokenPipeError):
        group.leave_stdout()
        return 1
    return group.report_unwritable(error)


def _run(arguments: list[str]) -> int:
    if arguments in ([], ["-h"], ["--help"]) and "_HPCTRACK_COMPLETE" not in os.environ:
        sys.stdout.write(help_text())
        sys.stdout.flush()
        return 0
    return _run_verb(arguments)


def _run_verb(arguments: list[str]) -> int:
    from hpctrack.cli import group

    return group.run(arguments)


def _open_closed() -> None:
    """Have somewhere to write to where a caller closed standard output or error; children find it closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (fast; to the end)


class _Raw(io.FileIO):
    """A file that takes bytes as written even if writing fails."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data) or len(memoryview(data))
        except OSError:
            return len(memoryview(data))


def _let_errors_be_lost() -> None:
    """Have what can't be said on standard error change nothing: a full disk, a reader that has gone."""
    given = sys.stderr
    if given is sys.__stderr__ and isinstance(given, io.TextIOWrapper):
        buffer = io.BufferedWriter(_Raw(given.fileno(), "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(buffer, given.encoding, given.errors, line_buffering=True)


if __name__ == "__main__":
    main()
