"""What attempts asked for and what they used."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hpctrack.run.efficiency import Resources
from hpctrack.store import rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from hpctrack.store.database import Connection
    from hpctrack.store.read.queries import RunRow

_AT_ONCE = 1000


def of_run(connection: Connection, run_id: int) -> list[Resources]:
    """Return the resources of a run's attempts, oldest first."""
    return rows.records(connection, "fetch_resources", Resources, ids=[run_id], latest=False)


def add(connection: Connection, runs: Iterable[RunRow]) -> Iterator[RunRow]:
    """Yield runs with the resources of their latest attempts."""
    batch: list[RunRow] = []
    for run in runs:
        batch.append(run)
        if len(batch) == _AT_ONCE:
            yield from _added(connection, batch)
            batch = []
    yield from _added(connection, batch)


def _added(connection: Connection, runs: Collection[RunRow]) -> Iterator[RunRow]:
    if not runs:
        return
    ids = [run.id for run in runs]
    latest = rows.records(connection, "fetch_resources", Resources, ids=ids, latest=True)
    of_run = {resources.run_id: resources for resources in latest}
    for run in runs:
        yield dataclasses.replace(run, resources=of_run.get(run.id))
