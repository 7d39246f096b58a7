"""``hpctrack setup``: the schema, and the user's SQL files."""

from __future__ import annotations

import click

from hpctrack import errors, settings
from hpctrack.cli import common
from hpctrack.cli.terminal import say


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE.sql ...]", type=click.Path())
@click.option("-u", "--user", help="PostgreSQL user.")
@click.option("-a", "--host", help="Host of the PostgreSQL server, or folder of its socket.")
@click.option("-p", "--port", help="Port of the PostgreSQL server.")
@click.option("-d", "--database", help="Database.")
@click.option("-s", "--schema", help="Schema (default: hpctrack).")
@click.option(
    "--grant-read", "readers", multiple=True, metavar="ROLE", help="Let a role look at everybody's runs."
)
@click.option(
    "--grant-user",
    "users",
    multiple=True,
    metavar="ROLE",
    help="Let a role, or a group of roles, submit, too, and change its own runs. PUBLIC means everybody.",
)
@click.option(
    "--grant-collector", "collectors", multiple=True, metavar="ROLE", help="Let a role run the collector."
)
@click.option(
    "--show-details/--hide-details",
    default=None,
    help="Whether everybody sees environment, arguments and script of others' runs (at first: hidden).",
)
@common.config_option
@click.option(
    "--take-over", is_flag=True, help="Take the embedded PostgreSQL over from a host that is gone for good."
)
def command(
    *,
    files: tuple[str, ...],
    user: str | None,
    host: str | None,
    port: str | None,
    database: str | None,
    schema: str | None,
    readers: tuple[str, ...],
    users: tuple[str, ...],
    collectors: tuple[str, ...],
    show_details: bool | None,
    config_path: str | None,
    take_over: bool,
) -> None:
    """Create or migrate the schema, apply your own SQL files, and give rights.

    Each file is applied once, in the order given, in one transaction; run it again with more files whenever
    you like. The usual file adds columns for metrics:

    \b
      ALTER TABLE metrics ADD COLUMN loss double precision;

    Without a configured server (hpctrack.conf, HPCTRACK_DSN_HOST ...) this is the embedded PostgreSQL in your
    data folder. Passwords come from ~/.pgpass or HPCTRACK_DSN_PASSWORD.

    On a server, --grant-read, --grant-user and --grant-collector say what other roles may do; each can be
    given several times. Roles must exist. Rights given once extend to tables that files add later.
    """
    configuration = settings.load(
        {"dsn_user": user, "dsn_host": host, "dsn_port": port, "dsn_dbname": database, "schema": schema},
        config_path=config_path,
    )
    if take_over:
        _take_over(configuration)
    from hpctrack.store.schema import migrate, roles

    wanted = [
        *((roles.Kind.READER, role) for role in readers),
        *((roles.Kind.USER, role) for role in users),
        *((roles.Kind.COLLECTOR, role) for role in collectors),
    ]
    if configuration.personal and (wanted or show_details is not None):
        raise errors.UsageError("rights are for a server that others use, but none is configured")
    report = migrate.setup(configuration, files)
    say.out(f"{report.where}:")
    for step in report.steps:
        what = "migration" if step.built_in else "file"
        say.out(f"  {what} {step.name}: {'applied' if step.applied else 'applied before'}")
    if configuration.personal:
        return
    for grant in roles.apply(configuration, wanted, show_details=show_details):
        say.out(f"  {grant.kind.value} {grant.role}: {'granted before' if grant.known else 'granted'}")
        for note in grant.notes:
            say.note(f"{grant.role} {note}")


def _take_over(configuration: settings.Settings) -> None:
    if not configuration.personal:
        raise errors.UsageError("--take-over is for the embedded PostgreSQL, but a server is configured")
    from hpctrack.store import embedded

    say.err("Taking over: where another host owned it, this waits two minutes for its server to end.")
    say.err(embedded.take_over(configuration))
