"""What people change about their runs: tags, notes, links, whether they are listed or there at all.

Each function takes ids of runs and changes all of them or none (`delete` and `archive` go in batches), and
raises `errors.StoreDenied` for a run of somebody else, `errors.UsageError` for what does not fit. Connections
are in autocommit mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.types.json import Jsonb

from hpctrack import errors, limits
from hpctrack.store import database, rows
from hpctrack.store.write import retention

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from hpctrack.store.database import Connection

#: Runs that are archived in one transaction: locks stay short.
_ARCHIVED = 1000


def tag(connection: Connection, ids: Collection[int], tags: Mapping[str, Any]) -> None:
    """Add tags: names to values, true for none."""
    stored = database.without_secrets(limits.value(limits.TAGS, dict(tags)))
    _update(connection, "tag_runs", ids, tags=Jsonb(stored))


def untag(connection: Connection, ids: Collection[int], names: Collection[str]) -> None:
    """Remove tags by name; one that is not there is no error."""
    _update(connection, "untag_runs", ids, names=database.without_secrets(list(names)))


def note(connection: Connection, ids: Collection[int], text: str | None) -> None:
    """Set the note; None removes it."""
    note = None if text is None else limits.text(limits.NOTE, database.without_secrets(text))
    _update(connection, "note_runs", ids, note=note)


def archive(connection: Connection, ids: Collection[int], *, archived: bool = True) -> int:
    """Leave runs out of lists, or list them again; return how many were not so before.

    Goes in batches: what was changed before a failure stays changed.
    """
    ordered, changed = sorted(ids), 0
    check_rights(connection, ordered)
    for start in range(0, len(ordered), _ARCHIVED):
        batch = ordered[start : start + _ARCHIVED]
        with rows.transaction(connection):
            changed += len(rows.column(connection, "archive_runs", ids=batch, archived=archived))
    return changed


def link(connection: Connection, from_id: int, kind: str, to_id: int) -> None:
    """Link two runs; a link that is there stays."""
    limits.text(limits.LINK, kind)
    kind = database.without_secrets(kind)
    with rows.transaction(connection):
        check_rights(connection, [from_id])
        rows.execute(connection, "link_runs", from_id=from_id, kind=kind, to_id=to_id)


def unlink(connection: Connection, from_id: int, kind: str, to_id: int) -> bool:
    """Remove a link; False if there is none."""
    kind = database.without_secrets(kind)
    with rows.transaction(connection):
        check_rights(connection, [from_id])
        return rows.execute(connection, "unlink_runs", from_id=from_id, kind=kind, to_id=to_id) > 0


class Doomed(NamedTuple):
    """What a deletion takes of one experiment."""

    experiment: str
    ids: list[int]
    rows: int
    """Rows of metrics that came in for these runs."""
    live: list[int]
    """Ids of runs that are not over."""


def count(connection: Connection, ids: Collection[int]) -> list[Doomed]:
    """Return what `delete` would take, by experiment. Raises `errors.StoreDenied` as it does."""
    check_rights(connection, ids)
    return rows.records(connection, "count_doomed", Doomed, ids=list(ids))


def delete(
    connection: Connection, ids: Sequence[int], progress: Callable[[int], None] = lambda _: None
) -> int:
    """Delete runs with all that belongs to them, and submissions of which none is left; return how many.

    Goes in batches, ``progress`` is told of each; what was deleted before a failure stays deleted.
    """
    deleted = 0
    check_rights(connection, ids)
    for start in range(0, len(ids), retention.BATCH):
        gone = retention.delete_by(
            connection, "delete_runs", ids=sorted(ids[start : start + retention.BATCH])
        )
        deleted += gone
        progress(gone)
    return deleted


def _update(connection: Connection, name: str, ids: Collection[int], **parameters: Any) -> None:
    with rows.transaction(connection):
        check_rights(connection, ids)
        rows.execute(connection, name, ids=list(ids), **parameters)


def check_rights(connection: Connection, ids: Collection[int]) -> None:
    """Raise `errors.StoreDenied` where row-level security would silently leave runs out."""
    others = rows.tuples(connection, "find_others_runs", ids=list(ids))
    if others:
        run, owner = others[0]
        more = f", and {len(others) - 1} more are not yours either" if len(others) > 1 else ""
        raise errors.StoreDenied(f"r{run} belongs to {owner}: only they may change it{more}")
