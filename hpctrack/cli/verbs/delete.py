"""``hpctrack delete``: runs, with all that belongs to them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from hpctrack import errors, settings
from hpctrack.cli import common
from hpctrack.cli.terminal import render, say
from hpctrack.run import runids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.write.changes import Doomed


@click.command()
@common.runs_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "-f", "--force", is_flag=True, help="Also runs that are not over; tasks of an array that lives come back."
)
@common.json_option
@common.config_option
def command(
    *, refs: tuple[runids.RunRef, ...], yes: bool, force: bool, as_json: bool, config_path: str | None
) -> None:
    """Delete runs with their metrics, usage, timeline, links and what was submitted.

    Says what goes, and asks. There is no way back but a back-up of PostgreSQL.
    """
    from hpctrack.store.read import lookup

    configuration = settings.load(config_path=config_path)
    with common.connected(configuration) as connection:
        ids = lookup.find_each(connection, refs)
        with clearing(configuration, connection):
            deleted = delete_runs(connection, ids, yes=yes, force=force, quiet=as_json)
    if as_json:
        say.json({"deleted": deleted})
    else:
        say.out(f"deleted {common.counted(deleted, 'run')}")


@contextlib.contextmanager
def clearing(configuration: Settings, connection: Connection) -> Iterator[None]:
    """Delete with the runs that go meanwhile their journals in this user's spool and on this host.

    Nobody could ever deliver them. What somebody may still write to stays, and is told.
    """
    from hpctrack.stream.collector import backlog
    from hpctrack.stream.node import spool

    before = {one.spooled.path for one in backlog.look(configuration, lambda: connection).ready}
    yield
    for one in backlog.look(configuration, lambda: connection).deleted if before else ():
        if one.path in before and not spool.discard(one):
            say.note(f"{one.path} stays, since somebody may write there: later, hpctrack prune")


def delete_runs(
    connection: Connection, ids: Sequence[int], *, yes: bool, force: bool, quiet: bool = False
) -> int:
    """Say what goes, ask, and delete it; return the number of runs.

    Raises `errors.UsageError` for live runs without ``force``, `errors.StoreDenied` for runs of others.
    """
    from hpctrack.store.write import changes

    doomed = changes.count(connection, ids)
    live = [run for one in doomed for run in one.live]
    if live and not force:
        raise errors.UsageError(
            f"not over yet: {common.named(sorted(live))}; hpctrack cancel ends jobs, --force "
            "deletes what is known of them"
        )
    if not quiet:
        say.out(*map(_describe, doomed) if doomed else ["no runs"])
    if doomed:
        common.confirm("Delete them for good?", yes=yes)
    return changes.delete(connection, ids)


def _describe(one: Doomed) -> str:
    what = f"{common.named(one.ids)} with {common.counted(one.rows, 'row')} of metrics"
    return f"{render.clean(one.experiment)}: {what}" + (f", {len(one.live)} not over" if one.live else "")
