"""The verbs as a `click.Group`, and how failures reach the user.

That is one line, and the exit code of the error's class.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import io
import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from hpctrack import __version__, errors, settings
from hpctrack.cli import table_of_verbs
from hpctrack.cli.main import INTERRUPTED
from hpctrack.cli.terminal import charset, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

UNEXPECTED = 70  # EX_SOFTWARE
UNWRITABLE = 74  # EX_IOERR
#: What a full disk, or one that fails, says under standard output.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class Verbs(click.Group):
    """The group of verbs, loaded late and listed by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of ``--help``."""
        return list(table_of_verbs.VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's module and return its command."""
        if cmd_name not in table_of_verbs.VERBS:
            return None
        command = importlib.import_module(table_of_verbs.module(cmd_name)).command
        assert isinstance(command, click.Command)  # noqa: S101 (a slip in a verb's module)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; where there is none, name the one that was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], table_of_verbs.VERBS, n=1)
            if not close:
                raise
            message = f"{error.format_message().rstrip('.')}, did you mean {close[0]}?"
            raise click.UsageError(message, error.ctx) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a verb's name from the table: one press of the tab key loads no verb."""
        verbs = [
            CompletionItem(name, help=verb.help)
            for name, verb in table_of_verbs.VERBS.items()
            if name.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def get_help(self, ctx: click.Context) -> str:
        """Return the help from the table: the verbs' modules stay unloaded."""
        return table_of_verbs.help_text().rstrip("\n")


@click.group(cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="hpctrack %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Track Slurm jobs in PostgreSQL."""
    if ctx.invoked_subcommand is None:
        say.raw(ctx.get_help() + "\n")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. A verb returns None, or its own exit code."""
    with _logging():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    _let_names_be_written()
    _check_time_zone()
    for name, near in settings.misspelt(os.environ):
        say.note(f"{name} is no variable of hpctrack's: did you mean {near}?")
    try:
        code = cli.main(arguments, prog_name="hpctrack", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        _end_colours()
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 (the last line of defence: no traceback reaches a user)
        return _fail(error)


def _fail(error: Exception) -> int:
    """Say in one line why a verb failed; return the exit code."""
    if isinstance(error, errors.HpctrackError):
        return _report(describe(error), error.exit_code, error.excerpt)
    if isinstance(error, click.ClickException):
        return _report(_describe_click(error), error.exit_code)
    if isinstance(error, UnicodeEncodeError):
        return _report(f"{error.object!a} is no text in UTF-8", click.UsageError.exit_code)
    if isinstance(error, OSError) and error.filename is None and error.errno in _NOT_WRITTEN:
        return report_unwritable(error)
    return _report_bug(error)


def _describe_click(error: click.ClickException) -> str:
    """Return what click says; of a mistake in the words also which help explains them."""
    if not isinstance(error, click.UsageError):
        return error.format_message()
    verb = error.ctx.command_path if error.ctx else "hpctrack"
    return f"{error.format_message().rstrip('.')} (see {verb} --help)"


def _let_names_be_written() -> None:
    """Keep a name that the terminal's encoding lacks from ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=charset.register())


def _check_time_zone() -> None:
    """Go by UTC where TZ is more than a day off, which Python's times can't hold; children keep their TZ."""
    try:
        datetime.now().astimezone()
    except ValueError:
        given = os.environ.get("TZ", "")
        say.note(f"TZ={given} is no time zone (an offset is less than 24 hours): times are in UTC")
        os.environ["TZ"] = "UTC"
        time.tzset()
        os.environ["TZ"] = given


def _end_colours() -> None:
    """Reset the colours of a terminal: an interrupt may have kept us from ending our own."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[0m")
        sys.stdout.flush()


def describe(error: errors.HpctrackError) -> str:
    """Return an error and its causes of our own tree in one line; foreign causes may hold secrets."""
    parts = [str(error)]
    cause = error.__cause__
    while isinstance(cause, errors.HpctrackError):
        parts.append(str(cause))
        cause = cause.__cause__
    return " ".join(": ".join(parts).split())


def leave_stdout() -> None:
    """Let the interpreter's own flush at exit go nowhere: the reader has gone, or writing fails."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report_unwritable(error: OSError) -> int:
    """Say that standard output can't be written, and why; return the exit code."""
    leave_stdout()
    return _report(f"standard output can't be written: {error.strerror}", UNWRITABLE)


def _report_bug(error: Exception) -> int:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    hint = "" if settings.debugging() else " (a bug; set HPCTRACK_DEBUG=1 for the traceback)"
    return _report(said + hint, UNEXPECTED)


def _report(message: str, exit_code: int, excerpt: str = "") -> int:
    if settings.debugging():
        _log_traceback(exit_code)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    say.note(message)
    say.err(*(f"  {line}" for line in excerpt.splitlines()))
    return exit_code


def _log_traceback(exit_code: int) -> None:
    import logging

    logging.getLogger("hpctrack").debug("exit %d", exit_code, exc_info=True)


def _logging() -> AbstractContextManager[object]:
    return _logging_to_stderr() if settings.debugging() else contextlib.nullcontext()


def _logging_to_stderr() -> AbstractContextManager[object]:
    import logging

    form = "%(asctime)s %(name)s %(levelname)s %(message)s"
    return say.logging_to(logging.StreamHandler(sys.stderr), form, logging.DEBUG)
