"""``hpctrack setup``: the schema, the user's SQL files, and what roles may do."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

import click

from hpctrack import errors, settings
from hpctrack.cli import options
from hpctrack.cli.terminal import say
from hpctrack.run.audience import SCOPES

if TYPE_CHECKING:
    from hpctrack.settings import Settings
    from hpctrack.store.schema import roles


class _Rights(NamedTuple):
    """What roles are to be given."""

    readers: tuple[str, ...]
    users: tuple[str, ...]
    collectors: tuple[str, ...]
    runs_visible: str | None
    details_visible: str | None
    """Who is to see runs, and their details; None leaves it as it is."""

    def wanted(self) -> list[tuple[roles.RoleKind, str]]:
        """Return each role with what it is for."""
        from hpctrack.store.schema.roles import RoleKind

        kinds = {
            RoleKind.READER: self.readers,
            RoleKind.USER: self.users,
            RoleKind.COLLECTOR: self.collectors,
        }
        return [(kind, role) for kind, names in kinds.items() for role in names]


_NO_RIGHTS = _Rights((), (), (), None, None)
_SCOPE = click.Choice(SCOPES)


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE.sql ...]", type=click.Path())
@click.option("-u", "--user", "dsn_user", help="PostgreSQL user.")
@click.option("-a", "--host", "dsn_host", help="Host of the PostgreSQL server, or folder of its socket.")
@click.option("-p", "--port", "dsn_port", help="Port of the PostgreSQL server.")
@click.option("-d", "--database", "dsn_dbname", help="Database.")
@click.option("-s", "--schema", help="Schema (default: hpctrack).")
@click.option("--grant-read", "readers", multiple=True, metavar="ROLE", help="Let a role look at runs.")
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
    "--runs-visible",
    type=_SCOPE,
    help="Who sees a run: its owner, members of its Slurm account (at first), or all.",
)
@click.option(
    "--details-visible",
    type=_SCOPE,
    help="Who sees its environment, arguments, script and standard error, too (at first: own).",
)
@options.config_path
@click.option(
    "--take-over", is_flag=True, help="Take the embedded PostgreSQL over from a host that is gone for good."
)
def command(
    *,
    files: tuple[str, ...],
    readers: tuple[str, ...],
    users: tuple[str, ...],
    collectors: tuple[str, ...],
    runs_visible: str | None,
    details_visible: str | None,
    config_path: str | None,
    take_over: bool,
    **server: str | None,
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
    Which runs they see --runs-visible and --details-visible say (docs/visibility.md):

    \b
      hpctrack setup --grant-user cluster_users --runs-visible account --details-visible own
    """
    configuration = settings.load(server, config_path=config_path)
    rights = _Rights(readers, users, collectors, runs_visible, details_visible)
    if take_over:
        _take_over(configuration)
    if configuration.personal and rights != _NO_RIGHTS:
        raise errors.UsageError("rights are for a server that others use, but none is configured")
    _migrate(configuration, files)
    if not configuration.personal:
        _grant(configuration, rights)
        _renew_members(configuration)


def _migrate(configuration: Settings, files: tuple[str, ...]) -> None:
    """Bring the schema up to date and apply the user's files; say what was done."""
    from hpctrack.store.schema import setup

    report = setup.apply(configuration, files)
    say.out(f"{report.where}:")
    for step in report.steps:
        what = "migration" if step.built_in else "file"
        say.out(f"  {what} {step.name}: {'applied' if step.applied else 'applied before'}")


def _grant(configuration: Settings, rights: _Rights) -> None:
    """Give roles their rights; say which have which."""
    from hpctrack.store.schema import roles

    choices = roles.Choices(rights.runs_visible, rights.details_visible)
    for grant in roles.apply(configuration, rights.wanted(), choices):
        say.out(f"  {grant.kind.value} {grant.role}: {'granted before' if grant.known else 'granted'}")
        for note in grant.notes:
            say.note(f"{grant.role} {note}")


def _renew_members(configuration: Settings) -> None:
    """Learn who belongs to which account, where Slurm's commands are there; else the collector will."""
    from hpctrack.slurm import command, site
    from hpctrack.store import database
    from hpctrack.store.schema import roles
    from hpctrack.stream.collector import membership

    try:
        command.find("sacctmgr", os.environ)
    except errors.CommandNotFound:
        return
    with contextlib.closing(database.connect(configuration, autocommit=True)) as connection:
        if not roles.may_choose(connection):
            return
        try:
            cluster = site.cluster_name(os.environ, configuration.cache)
        except errors.SlurmError:
            return  # the host has Slurm's commands, and no cluster
        try:
            why = membership.renew(connection, configuration.members, cluster, os.environ)
        except errors.SlurmError as error:
            why = str(error)
    if why is not None:
        say.note(f"who belongs to which account stays as it was known: {why}")


def _take_over(configuration: Settings) -> None:
    from hpctrack.store import embedded

    if not configuration.personal:
        raise errors.UsageError("--take-over is for the embedded PostgreSQL, but a server is configured")
    say.err("Taking over: where another host owned it, this waits two minutes for its server to end.")
    say.err(embedded.take_over(configuration))
