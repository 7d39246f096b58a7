"""``hpctrack prune``: delete runs that have been over for long."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

import click

from hpctrack import settings
from hpctrack.cli import common, completers, misspelt
from hpctrack.cli.terminal import render, say

if TYPE_CHECKING:
    from collections.abc import Collection

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.write.pruning import Prunable
    from hpctrack.stream.node.spool import Spooled

#: A submission record younger than this stays: its job may be registered in another database.
_YOUNG = timedelta(days=7)


@click.command()
@click.option(
    "--older-than",
    "before",
    required=True,
    metavar="TIME",
    callback=common.since,
    help="Runs that ended before: 90d, 52w ago, or a date.",
)
@click.option(
    "-E", "--experiment", shell_complete=completers.experiments, help="Only runs of this experiment."
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common.json_option
@common.config_option
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
    configuration = settings.load(config_path=config_path)
    from hpctrack.store import database
    from hpctrack.store.write import pruning

    connecting = database.connect(configuration, autocommit=True)
    with contextlib.closing(connecting) as connection:
        found = pruning.count(connection, before, experiment)
        if not found:
            misspelt.note_experiment(connection, experiment)
        if not as_json:
            say.out(*_summary(found, before).split("\n"))
        doomed = [run for one in found for run in one.ids] if dry_run else []
        deleted = len(doomed)
        if found and not dry_run:
            common.confirm("Delete them for good?", yes=yes)
            deleted = pruning.prune(connection, before, experiment)
        useless = _useless(configuration, connection, before, doomed)
    left = [] if dry_run else _remove(useless)
    for path in left:
        say.note(f"{path} stays: somebody works or may write there")
    folders, records = len(useless.folders) - len(left), len(useless.records)
    if as_json:
        told = {"dry_run": dry_run, "deleted": deleted, "records": records, "folders": folders}
        say.json({"experiments": [_keys(one) for one in found], **told})
    else:
        say.out(_told("would delete" if dry_run else "deleted", deleted, records, folders))


def _told(what: str, runs: int, records: int, folders: int) -> str:
    journals = f", and {common.counted(folders, 'folder')} of their journals" if folders else ""
    recorded = f"{common.counted(records, 'submission record')} in the spool"
    return f"{what} {common.counted(runs, 'run')} and {recorded}{journals}"


def _summary(found: list[Prunable], before: datetime) -> str:
    if not found:
        return f"no run ended before {before:%Y-%m-%d %H:%M}"
    lines = [
        f"{render.clean(one.experiment)}: {common.named(one.ids)} with "
        f"{common.counted(one.rows, 'row')} of metrics, {_ends(one)}"
        for one in found
    ]
    return "\n".join(lines)


def _ends(one: Prunable) -> str:
    days = dict.fromkeys(f"{time.astimezone():%Y-%m-%d}" for time in (one.oldest, one.newest))
    return f"ended {' to '.join(days)}"


def _keys(one: Prunable) -> dict[str, object]:
    told = {"runs": len(one.ids), "oldest": one.oldest.isoformat(), "newest": one.newest.isoformat()}
    return {**one._asdict(), **told}


class _Useless(NamedTuple):
    """What nobody needs once runs are gone."""

    folders: list[Spooled]
    """Of journals that nobody can ever deliver."""
    records: list[str]
    """Of submissions: their paths."""


def _useless(
    configuration: Settings, connection: Connection, before: datetime, doomed: Collection[int]
) -> _Useless:
    """Find what is of no use without the runs that are gone, nor without those that are to go."""
    oldest = min(before, datetime.now(timezone.utc) - _YOUNG).timestamp()
    folders = _find_folders(configuration, connection, oldest, set(doomed))
    return _Useless(folders, _find_records(configuration, connection, oldest, doomed))


def _find_folders(
    configuration: Settings, connection: Connection, oldest: float, doomed: set[int]
) -> list[Spooled]:
    """Return folders of journals of deleted runs, and of those whose submission record is missing.

    It holds the key; such folders only if nothing has happened there since ``oldest``.
    """
    from hpctrack.stream.collector import backlog
    from hpctrack.stream.node import spool

    found = backlog.look(configuration, lambda: connection)
    lost = [one for one in found.stuck if one.is_keyless and 0 < one.since < oldest]
    ending = [one.spooled for one in found.ready if one.run_id in doomed]
    return [*found.deleted, *ending, *map(spool.without_key, lost)]


def _find_records(
    configuration: Settings, connection: Connection, oldest: float, doomed: Collection[int]
) -> list[str]:
    """Return old submission records of this database that are of no use any more."""
    from hpctrack.store.write import pruning, registration
    from hpctrack.stream.wire import records

    here = registration.Here(configuration, connection)
    old = {
        path: (uuid, key)
        for path, uuid, key in records.registered_before(configuration.spool, oldest)
        if here.takes(path)
    }
    gone = pruning.deleted(connection, dict(old.values()), doomed) if old else set()
    return [path for path, (uuid, _) in old.items() if uuid in gone]


def _remove(useless: _Useless) -> list[str]:
    """Delete it; return the folders that stay, since somebody works or may write there."""
    from hpctrack.stream.node import spool
    from hpctrack.stream.wire import records

    left = [one.path for one in useless.folders if not spool.discard(one)]
    for path in useless.records:
        records.remove(path)
    return left
