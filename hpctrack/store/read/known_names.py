"""Which names experiments and runs have, so that an unknown one can be answered with the one meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.store import rows

if TYPE_CHECKING:
    from collections.abc import Collection

    from hpctrack.store.database import Connection

#: Newest runs that are looked at: it takes as long however many there are.
NEWEST = 1000


def of_runs(connection: Connection) -> dict[str, list[str]]:
    """Return the names that the newest runs have: of metrics, args, tags, users, partitions, jobs."""
    return dict(rows.tuples(connection, "fetch_known_names", newest=NEWEST))


def experiments(connection: Connection) -> list[str]:
    """Return the names of all experiments, the newest first."""
    return rows.column(connection, "fetch_experiment_names")


def tags(connection: Connection, ids: Collection[int]) -> list[str]:
    """Return the names of the tags that any of these runs has."""
    return rows.column(connection, "fetch_tags_of_runs", ids=list(ids))
