"""Which names experiments and runs have, to answer one that there is not with the one that was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.store import database
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Collection

    from hpctrack.store.database import Connection

#: Newest runs that are looked at: it takes as long however many there are.
NEWEST = 1000


def of_runs(connection: Connection) -> dict[str, list[str]]:
    """Return the names that the newest runs have: of metrics, args, tags, users, partitions, jobs."""
    with database.translated():
        rows = connection.execute(statement("fetch_known_names"), {"newest": NEWEST}).fetchall()
    return {str(scope): list(map(str, names)) for scope, names in rows}  # type: ignore[call-overload]


def experiments(connection: Connection) -> list[str]:
    """Return the names of all experiments, the newest first."""
    with database.translated():
        rows = connection.execute(statement("fetch_experiment_names")).fetchall()
    return [str(name) for (name,) in rows]


def tags(connection: Connection, ids: Collection[int]) -> list[str]:
    """Return the names of the tags that any of these runs has."""
    with database.translated():
        rows = connection.execute(statement("fetch_tags_of_runs"), {"ids": list(ids)}).fetchall()
    return [str(name) for (name,) in rows]
