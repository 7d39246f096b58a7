"""``hpctrack prune``: delete runs that have been over for long."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import click

from hpctrack import settings
from hpctrack.cli import common, completion, render, say

if TYPE_CHECKING:
    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.pruning import Prunable

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
    "-E", "--experiment", shell_complete=completion.experiments, help="Only runs of this experiment."
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
    from hpctrack.store import database, pruning

    connecting = database.connect(configuration, autocommit=True)
    with contextlib.closing(connecting) as connection:
        found = pruning.count(connection, before, experiment)
        if not as_json:
            say.out(*_summary(found, before).split("\n"))
        deleted = records = folders = 0
        left: list[str] = []
        if not dry_run:
            if found:
                common.confirm("Delete them for good?", yes=yes)
                deleted = pruning.prune(connection, before, experiment)
            folders, left = _remove_journals(configuration, connection, before)
            records = _remove_records(configuration, connection, before)
    for path in left:
        say.note(f"{path} stays: somebody works or may write there")
    told = {"deleted": deleted, "records": records, "folders": folders}
    if as_json:
        say.json({"experiments": [_keys(one) for one in found], **told})
    elif not dry_run:
        journals = f", and {common.counted(folders, 'folder')} of their journals" if folders else ""
        say.out(f"deleted {deleted} runs and {records} submission records in the spool{journals}")


def _summary(found: list[Prunable], before: datetime) -> str:
    if not found:
        return f"no run ended before {before:%Y-%m-%d %H:%M}"
    lines = [
        f"{render.clean(one.experiment)}: {one.runs} runs with {one.rows} rows of metrics, ended "
        f"{one.oldest.astimezone():%Y-%m-%d} to {one.newest.astimezone():%Y-%m-%d}"
        for one in found
    ]
    return "\n".join(lines)


def _keys(one: Prunable) -> dict[str, object]:
    return {**one._asdict(), "oldest": one.oldest.isoformat(), "newest": one.newest.isoformat()}


def _remove_journals(
    configuration: Settings, connection: Connection, before: datetime
) -> tuple[int, list[str]]:
    """Delete the folders of journals that nobody can ever deliver; return how many, and which stay.

    Without a submission record, which holds the key, that is so of folders in which nothing has happened
    since ``before``, nor for a week.
    """
    from hpctrack.stream import spool
    from hpctrack.stream.collector import backlog

    found = backlog.look(configuration, lambda: connection)
    oldest = min(before, datetime.now(timezone.utc) - _YOUNG).timestamp()
    lost = [one for one in found.stuck if one.is_keyless and 0 < one.since < oldest]
    left = [one.path for one in found.deleted if not spool.discard(one)]
    left += [one.path for one in lost if not spool.discard(spool.without_key(one))]
    return len(found.deleted) + len(lost) - len(left), left


def _remove_records(configuration: Settings, connection: Connection, before: datetime) -> int:
    """Remove old submission records of this database that are of no use any more; return how many."""
    from hpctrack.store import pruning, registration
    from hpctrack.stream import records

    oldest = min(before, datetime.now(timezone.utc) - _YOUNG).timestamp()
    here = registration.Here(configuration, connection)
    old = {
        path: uuid
        for path, uuid in records.registered_before(configuration.spool, oldest)
        if here.takes(path)
    }
    gone = pruning.deleted(connection, set(old.values())) if old else set()
    return sum(records.remove(path) for path, uuid in old.items() if uuid in gone)
