"""The verbs as a `click.Group`, and how failures reach the user.

That is one line, and the exit code of the error's class.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from hpctrack import __version__, errors, settings
from hpctrack.cli import verbs

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
"""128 + SIGINT, as a shell says it."""
UNEXPECTED = 70  # EX_SOFTWARE


class Verbs(click.Group):
    """The group of verbs, loaded late and listed by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of ``--help``."""
        return list(verbs.VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's module and return its command."""
        verb = verbs.VERBS.get(cmd_name)
        if verb is None:
            return None
        module, _, name = verb.target.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101 (a slip in the table above)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a verb's name from the table: one press of the tab key loads no verb."""
        found = [
            CompletionItem(name, help=verb.help)
            for name, verb in verbs.VERBS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def get_help(self, ctx: click.Context) -> str:
        """Return the help from the table: the verbs' modules stay unloaded."""
        return verbs.help_text().rstrip("\n")


@click.group(cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="hpctrack %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Track Slurm jobs in PostgreSQL."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    It completes verbs, options, runs, experiments and states.

    \b
    bash, in ~/.bashrc:    eval "$(hpctrack completion bash)"
    zsh, in ~/.zshrc:      eval "$(hpctrack completion zsh)"
    fish, in config.fish:  hpctrack completion fish | source
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 (click knows the three)
    click.echo(found(cli, {}, "hpctrack", "_HPCTRACK_COMPLETE").source())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. A verb returns None, or its own exit code."""
    _start_logging()
    # A name that the terminal's encoding lacks must not end the command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = cli.main(arguments, prog_name="hpctrack", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except errors.HpctrackError as error:
        return _report(describe(error), error.exit_code, error.excerpt)
    except click.UsageError as error:
        verb = error.ctx.command_path if error.ctx else "hpctrack"
        return _report(f"{error.format_message().rstrip('.')} (see {verb} --help)", error.exit_code)
    except click.ClickException as error:
        return _report(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 (the last line of defence: no traceback reaches a user)
        said = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "" if settings.debugging() else " (a bug; set HPCTRACK_DEBUG=1 for the traceback)"
        return _report(said + hint, UNEXPECTED)


def describe(error: errors.HpctrackError) -> str:
    """Return an error and its causes of our own tree in one line; foreign causes may hold secrets."""
    parts = [str(error)]
    cause = error.__cause__
    while isinstance(cause, errors.HpctrackError):
        parts.append(str(cause))
        cause = cause.__cause__
    return " ".join(": ".join(parts).split())


def _report(message: str, exit_code: int, excerpt: str = "") -> int:
    if settings.debugging():
        import logging

        logging.getLogger("hpctrack").debug("exit %d", exit_code, exc_info=True)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    click.echo(f"hpctrack: {' '.join(message.split())}", err=True)
    for line in excerpt.splitlines():
        click.echo(f"  {line}", err=True)
    return exit_code


def _start_logging() -> None:
    if settings.debugging():
        import logging

        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        logging.getLogger("hpctrack").setLevel(logging.DEBUG)
