"""What ``hpctrack doctor`` says of runs that nobody but their owner ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.cli.doctor.check import Check
from hpctrack.run.words import named
from hpctrack.store.read import lookup, queries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.store.database import Connection


def look(connection: Connection) -> Iterator[Check]:
    """Name the caller's runs of clients that are RUNNING although their programs say nothing any more."""
    silent = queries.silent_clients(connection, lookup.my_names(connection))
    if silent:
        says = f"{named(silent)}: RUNNING, and not heard from; only the program that made a run ends it"
        change = f"UPDATE runs SET status = 'FAILED' WHERE id IN ({', '.join(map(str, silent))})"  # noqa: S608
        yield Check("clients", "note", says, f'if it is gone: hpctrack psql -c "{change}"')
