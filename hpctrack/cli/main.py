"""``hpctrack``: the verbs, and how failures reach the user: one line, and the exit code of the error's class.

A verb's module is imported when the verb is used, so that ``hpctrack --help`` loads click and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem, get_completion_class

from hpctrack import __version__, errors, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
"""128 + SIGINT, as a shell says it."""
UNEXPECTED = 70  # EX_SOFTWARE


class Verb(NamedTuple):
    """Where a verb's `click.Command` is, and its line in ``--help``."""

    section: str
    target: str
    help: str


VERBS = {
    "sbatch": Verb("Submit", "hpctrack.cli.submit:command", "Submit a job with sbatch, tracked."),
    "run": Verb("Submit", "hpctrack.cli.run:command", "Run a command here, tracked."),
    "rerun": Verb("Submit", "hpctrack.cli.rerun:command", "Submit what was submitted again."),
    "cancel": Verb("Submit", "hpctrack.cli.cancel:command", "End the jobs of runs with scancel."),
    "templates": Verb("Submit", "hpctrack.cli.templates:command", "List job scripts to start from."),
    "status": Verb("Look", "hpctrack.cli.status:command", "List runs: state, progress, latest metrics."),
    "show": Verb("Look", "hpctrack.cli.show:command", "Tell everything about one run."),
    "metrics": Verb("Look", "hpctrack.cli.metrics:command", "Print what a run measured, row by row."),
    "plot": Verb("Look", "hpctrack.cli.plot:command", "Draw metrics of runs, here or into a file."),
    "logs": Verb("Look", "hpctrack.cli.logs:command", "Print what a run wrote to its output."),
    "psql": Verb("Look", "hpctrack.cli.psql:command", "Open psql on the tracked data."),
    "tag": Verb("Change", "hpctrack.cli.annotate:tag", "Tag runs."),
    "untag": Verb("Change", "hpctrack.cli.annotate:untag", "Take tags off runs."),
    "note": Verb("Change", "hpctrack.cli.annotate:note", "Note something about a run."),
    "link": Verb("Change", "hpctrack.cli.annotate:link", "Link a run to another."),
    "experiment": Verb(
        "Change", "hpctrack.cli.experiment:command", "List, show, rename, delete experiments."
    ),
    "delete": Verb("Change", "hpctrack.cli.delete:command", "Delete runs with all that belongs to them."),
    "setup": Verb(
        "Keep", "hpctrack.cli.setup:command", "Create or migrate the schema; apply SQL files; give rights."
    ),
    "collector": Verb("Keep", "hpctrack.cli.collector:command", "Receive what running jobs send."),
    "sync": Verb("Keep", "hpctrack.cli.sync:command", "Deliver what could not be sent when it happened."),
    "reconcile": Verb("Keep", "hpctrack.cli.reconcile:command", "Compare PostgreSQL with Slurm once."),
    "prune": Verb("Keep", "hpctrack.cli.prune:command", "Delete runs that have been over for long."),
    "doctor": Verb("Keep", "hpctrack.cli.doctor:command", "Check that everything works, and say what to do."),
    "completion": Verb("Keep", "hpctrack.cli.main:completion", "Print a shell's completion script."),
}


class Verbs(click.Group):
    """The group of verbs, loaded late and listed by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of ``--help``."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's module and return its command."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        module, _, name = verb.target.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101 (a slip in the table above)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a verb's name from the table: one press of the tab key loads no verb."""
        verbs = [
            CompletionItem(name, help=verb.help)
            for name, verb in VERBS.items()
            if name.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table: their modules stay unloaded."""
        width = max(map(len, VERBS))
        for section in dict.fromkeys(verb.section for verb in VERBS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name.ljust(width), verb.help)
                        for name, verb in VERBS.items()
                        if verb.section == section
                    ]
                )


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="RUN is a Slurm job id (14, 14_3), a run's own id (r14), or the beginning of its job's name.",
)
@click.version_option(__version__, "-V", "--version", message="hpctrack %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Track Slurm jobs in PostgreSQL.

    Put hpctrack in front of sbatch, and PostgreSQL knows what ran, with which arguments, what it measured
    while it ran, and how Slurm says it ended.
    """
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


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run(arguments))


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
        _close_stdout()
        return 1
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
    logging.getLogger("hpctrack").debug("exit %d", exit_code, exc_info=True)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    click.echo(f"hpctrack: {' '.join(message.split())}", err=True)
    for line in excerpt.splitlines():
        click.echo(f"  {line}", err=True)
    return exit_code


def _start_logging() -> None:
    if settings.debugging():
        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        logging.getLogger("hpctrack").setLevel(logging.DEBUG)


def _close_stdout() -> None:
    """Let the interpreter's own flush at exit go nowhere, since the reader has gone."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
