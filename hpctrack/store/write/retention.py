"""Retention: runs that have been over for long are deleted, with all that belongs to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from hpctrack.store import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from hpctrack.store.database import Connection

#: Runs in one transaction: locks stay short, and what was deleted stays so if the rest is interrupted.
BATCH = 200


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
    return rows.records(connection, "count_prunable", Prunable, before=before, experiment=experiment)


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
    total = 0
    while True:
        gone = delete_by(connection, "prune_runs", before=before, experiment=experiment, limit=BATCH)
        if not gone:
            return total
        total += gone
        progress(gone)


def delete_by(connection: Connection, name: str, **parameters: Any) -> int:
    """Delete runs by a statement, and the submissions of which none is left; return how many runs.

    It is one transaction; ``connection`` is in autocommit mode.
    """
    with rows.transaction(connection):
        submissions = rows.column(connection, name, **parameters)
        if own := sorted(set(submissions) - {None}):
            rows.execute(connection, "prune_submissions", submissions=own)
    return len(submissions)


def deleted(connection: Connection, keys: Mapping[str, bytes], doomed: Collection[int] = ()) -> set[str]:
    """Return those of the submissions whose runs were deleted from this database, all but ``doomed`` ones.

    ``keys``: the `records.fingerprint` of each. Raises `errors.StoreError`.
    """
    deleted = rows.column(
        connection,
        "fetch_deleted_submissions",
        submissions=[UUID(text) for text in keys],
        keys=list(keys.values()),
        doomed=list(doomed),
    )
    return set(map(str, deleted))
