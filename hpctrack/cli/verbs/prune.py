"""``hpctrack prune``: delete runs that have been over for long."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

import click

from hpctrack import settings
from hpctrack.cli import misspelt, options
from hpctrack.cli.terminal import render, say
from hpctrack.run.words import counted, named

if TYPE_CHECKING:
    from collections.abc import Collection

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.write.retention import Prunable
    from hpctrack.stream.node.spool import Spooled

#: A submission record younger than this stays: its job may be registered in another database.
_YOUNG = timedelta(days=7)


@click.command()
@click.option(
    "--older-than",
    "before",
    required=True,
    metavar="TIME",
    callback=options.read_time,
    help="Runs that ended before: 90d, 52w ago, or a date.",
)
@options.experiment("Only runs of this experiment.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@options.yes
@options.as_json
@options.config_path
def command(
    *,
    before: datetime,
    experiment: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Delete runs that have been over for long, with metrics, usage, timeline and submission.

    Says what goes, and asks. Your own runs; for a collector and the owner of the tables everybody's. Runs
    that are not over and experiments stay. Submission records in your spool whose runs were deleted go, too.
    There is no way back but a back-up of PostgreSQL.
    """
    from hpctrack.store import database
    from hpctrack.store.write import retention

    configuration = settings.load(config_path=config_path)
    connecting = database.connect(configuration, autocommit=True)
    with contextlib.closing(connecting) as connection:
        prunable = retention.count(connection, before, experiment)
        if not prunable:
            misspelt.note_experiment(connection, experiment)
        if not as_json:
            say.out(*_summary(prunable, before).split("\n"))
        doomed = [run for group in prunable for run in group.ids] if dry_run else []
        deleted = len(doomed)
        if prunable and not dry_run:
            deleted = _delete(connection, before, experiment, yes=yes)
        useless = _useless(configuration, connection, before, doomed)
    removed = useless.counted() if dry_run else _remove(useless)
    if as_json:
        told = {"dry_run": dry_run, "deleted": deleted, **removed._asdict()}
        say.json({"experiments": [_keys(group) for group in prunable], **told})
    else:
        say.out(_told("would delete" if dry_run else "deleted", deleted, removed))


def _delete(connection: Connection, before: datetime, experiment: str | None, *, yes: bool) -> int:
    from hpctrack.store.write import retention

    say.confirm("Delete them for good?", yes=yes)
    return retention.prune(connection, before, experiment)


def _summary(prunable: list[Prunable], before: datetime) -> str:
    if not prunable:
        return f"no run ended before {before:%Y-%m-%d %H:%M}"
    lines = [
        f"{render.clean(group.experiment)}: {named(group.ids)} with "
        f"{counted(group.rows, 'row')} of metrics, {_ends(group)}"
        for group in prunable
    ]
    return "\n".join(lines)


def _ends(group: Prunable) -> str:
    days = dict.fromkeys(f"{time.astimezone():%Y-%m-%d}" for time in (group.oldest, group.newest))
    return f"ended {' to '.join(days)}"


def _told(what: str, runs: int, removed: _Removed) -> str:
    folders = f", and {counted(removed.folders, 'folder')} of their journals"
    recorded = f"{counted(removed.records, 'submission record')} in the spool"
    return f"{what} {counted(runs, 'run')} and {recorded}{folders if removed.folders else ''}"


def _keys(group: Prunable) -> dict[str, object]:
    told = {"runs": len(group.ids), "oldest": group.oldest.isoformat(), "newest": group.newest.isoformat()}
    return {**group._asdict(), **told}


class _Removed(NamedTuple):
    """How many records and folders of journals went from the spool and this host, or would go."""

    records: int
    folders: int


class _Useless(NamedTuple):
    """Folders and records that are of no use once their runs are deleted."""

    folders: list[Spooled]
    """Of journals that nobody can ever deliver."""
    records: list[str]
    """Of submissions: their paths."""

    def counted(self) -> _Removed:
        """Return how many there are."""
        return _Removed(len(self.records), len(self.folders))


def _useless(
    configuration: Settings, connection: Connection, before: datetime, doomed: Collection[int]
) -> _Useless:
    """Find what is of no use without the runs that were deleted or are about to be."""
    oldest = min(before, datetime.now(timezone.utc) - _YOUNG).timestamp()
    folders = _find_folders(configuration, connection, oldest, set(doomed))
    return _Useless(folders, _find_records(configuration, connection, oldest, doomed))


def _find_folders(
    configuration: Settings, connection: Connection, oldest: float, doomed: set[int]
) -> list[Spooled]:
    """Return the folders of journals of deleted runs, and those without a submission record.

    The record holds the key. Folders without one only if nothing was written there since ``oldest``.
    """
    from hpctrack.stream.collector import backlog
    from hpctrack.stream.node import spool

    waits = backlog.look(configuration, lambda: connection)
    lost = [folder for folder in waits.stuck if folder.is_keyless and 0 < folder.since < oldest]
    ending = [folder.spooled for folder in waits.ready if folder.run_id in doomed]
    return [*waits.deleted, *ending, *map(spool.without_key, lost)]


def _find_records(
    configuration: Settings, connection: Connection, oldest: float, doomed: Collection[int]
) -> list[str]:
    """Return old submission records of this database that are of no use any more."""
    from hpctrack.store.write import registration, retention
    from hpctrack.stream.wire import records

    here = registration.Here(configuration, connection)
    old = {
        path: (uuid, key)
        for path, uuid, key in records.registered_before(configuration.spool, oldest)
        if here.takes(path)
    }
    gone = retention.deleted(connection, dict(old.values()), doomed) if old else set()
    return [path for path, (uuid, _) in old.items() if uuid in gone]


def _remove(useless: _Useless) -> _Removed:
    """Delete it. A folder where somebody works or may write stays, and is told."""
    from hpctrack.stream.node import spool
    from hpctrack.stream.wire import records

    left = [folder.path for folder in useless.folders if not spool.discard(folder)]
    for path in useless.records:
        records.remove(path)
    for path in left:
        say.note(f"{path} stays: somebody works or may write there")
    return _Removed(len(useless.records), len(useless.folders) - len(left))
