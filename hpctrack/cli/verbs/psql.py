"""``hpctrack psql``: psql on the tracked data."""

from __future__ import annotations

import os

import click

from hpctrack import settings
from hpctrack.cli import options
from hpctrack.process import inherited


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@options.long_config_path
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PSQL OPTIONS]")
def command(*, config_path: str | None, arguments: tuple[str, ...]) -> None:
    """Open psql, connected as hpctrack is, with its tables on the search path.

    Options are psql's own: -c 'SELECT * FROM jobs', -f FILE, --csv. Questions and queries to start from:
    docs/sql.md. Here, too, you change only your own runs.
    """
    from hpctrack.store import psql

    configuration = settings.load(config_path=config_path)
    environ = psql.environment(configuration, os.environ)
    program = psql.program(environ)
    inherited.restore_signals()
    os.execve(program, [program, *arguments], environ)  # noqa: S606
