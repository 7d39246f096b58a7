"""``hpctrack delete``: runs, with all that belongs to them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from hpctrack import errors, settings
from hpctrack.cli import options, sessions
from hpctrack.cli.terminal import render, say
from hpctrack.run import runids
from hpctrack.run.words import counted, named

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.write.changes import Doomed


@click.command()
@options.runs
@options.yes
@options.force
@options.as_json
@options.config_path
def command(
    *, refs: tuple[runids.RunRef, ...], yes: bool, force: bool, as_json: bool, config_path: str | None
) -> None:
    """Delete runs with their metrics, usage, timeline, links and what was submitted.

    Says what goes, and asks. There is no way back but a back-up of PostgreSQL.
    """
    from hpctrack.store.read import lookup

    configuration = settings.load(config_path=config_path)
    with sessions.connected(configuration) as connection:
        ids = lookup.find_each(connection, refs)
        with clearing(configuration, connection):
            deleted = delete_runs(connection, ids, yes=yes, force=force, quiet=as_json)
    if as_json:
        say.json({"deleted": deleted})
    else:
        say.out(f"deleted {counted(deleted, 'run')}")


@contextlib.contextmanager
def clearing(configuration: Settings, connection: Connection) -> Iterator[None]:
    """Delete the journals of runs that are deleted meanwhile, in this user's spool and on this host.

    They can't be delivered any more. A folder that a process may still write to stays, and is told.
    """
    from hpctrack.stream.collector import backlog
    from hpctrack.stream.node import spool

    before = {folder.spooled.path for folder in backlog.look(configuration, lambda: connection).ready}
    yield
    if not before:
        return
    for spooled in backlog.look(configuration, lambda: connection).deleted:
        if spooled.path in before and not spool.discard(spooled):
            say.note(f"{spooled.path} stays, since somebody may write there: later, hpctrack prune")


def delete_runs(
    connection: Connection, ids: Sequence[int], *, yes: bool, force: bool, quiet: bool = False
) -> int:
    """Say what goes, ask, and delete it; return the number of runs.

    Raises `errors.UsageError` for live runs without ``force``, `errors.StoreDenied` for runs of others.
    """
    from hpctrack.store.write import changes

    doomed = changes.count(connection, ids)
    if not force:
        _check_over(doomed)
    if not quiet:
        say.out(*map(_describe, doomed) if doomed else ["no runs"])
    if doomed:
        say.confirm("Delete them for good?", yes=yes)
    return changes.delete(connection, ids)


def _check_over(doomed: Sequence[Doomed]) -> None:
    """Raise `errors.UsageError` if any of the runs goes on."""
    live = [run for group in doomed for run in group.live]
    if live:
        raise errors.UsageError(
            f"not over yet: {named(sorted(live))}; hpctrack cancel ends jobs, --force "
            "deletes what is known of them"
        )


def _describe(group: Doomed) -> str:
    what = f"{named(group.ids)} with {counted(group.rows, 'row')} of metrics"
    not_over = f", {len(group.live)} not over" if group.live else ""
    return f"{render.clean(group.experiment)}: {what}{not_over}"
