"""Retention: runs that have been over for long are deleted, with all that belongs to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from hpctrack.store import database
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from hpctrack.store.database import Connection

#: Runs in one transaction: locks stay short, and what was deleted stays so if the rest is interrupted.
_BATCH = 200


class Prunable(NamedTuple):
    """What would go of one experiment."""

    experiment: str
    ids: list[int]
    oldest: datetime
    newest: datetime
    rows: int
    """Rows of metrics that came in for these runs."""


def count(connection: Connection, before: datetime, experiment: str | None = None) -> list[Prunable]:
    """Return what `prune` would delete, by experiment. Raises `errors.StoreError`."""
    parameters = {"before": before, "experiment": experiment}
    with database.translated():
        rows: list[tuple[Any, ...]] = connection.execute(statement("count_prunable"), parameters).fetchall()
    return [Prunable._make(row) for row in rows]


def prune(
    connection: Connection,
    before: datetime,
    experiment: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Delete the runs that were over before a time; return how many.

    ``connection`` is in autocommit mode. Experiments stay. ``progress`` is told of each batch. Raises
    `errors.StoreError`; what was deleted until then stays deleted.
    """
    parameters = {"before": before, "experiment": experiment, "limit": _BATCH}
    total = 0
    while True:
        with database.translated(), connection.transaction():
            rows: list[tuple[Any, ...]] = connection.execute(statement("prune_runs"), parameters).fetchall()
            submissions = sorted({row[0] for row in rows if row[0] is not None})
            if submissions:
                connection.execute(statement("prune_submissions"), {"submissions": submissions})
        if not rows:
            return total
        total += len(rows)
        progress(len(rows))


def deleted(connection: Connection, keys: Mapping[str, bytes], doomed: Collection[int] = ()) -> set[str]:
    """Return those of the submissions whose runs were deleted from this database, all but ``doomed`` ones.

    ``keys``: what `records.fingerprint` says of each. Those that it does not know are none of these. Raises
    `errors.StoreError`.
    """
    submissions = [UUID(text) for text in keys]
    parameters = {"submissions": submissions, "keys": list(keys.values()), "doomed": list(doomed)}
    with database.translated():
        rows: list[tuple[Any, ...]] = connection.execute(
            statement("fetch_deleted_submissions"), parameters
        ).fetchall()
    return {str(row[0]) for row in rows}
