"""Events: that something changed, and in which run. Only ids, of use to who asks PostgreSQL what it is now.

A trigger writes them, in the transaction that makes the change, whoever makes it; with the commit all who
`listen` are told. They are taken with `take` by the collector that reconciles; rows that nobody took are
dropped by `discard`. The notification says nothing but that something changed: anybody who can connect may
listen, and may send one, too.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from hpctrack.store import rows
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from hpctrack.store.database import Connection

#: Events that are dropped in one transaction.
_BATCH = 10_000


class Event(NamedTuple):
    """One change: of a run, or of an experiment."""

    id: int
    run_id: int | None
    experiment_id: int | None
    kind: str
    """What changed: a value of the column's CHECK."""
    time: datetime


def take(connection: Connection, limit: int) -> list[Event]:
    """Return events, the oldest first, and delete them; those that another transaction takes are left out.

    They are gone when the caller's transaction is committed. Raises `errors.StoreError`.
    """
    return sorted(rows.records(connection, "take_events", Event, limit=limit))


def discard(connection: Connection, age: timedelta) -> int:
    """Delete the events that nobody took for so long; return how many. Raises `errors.StoreError`.

    ``connection`` is in autocommit mode: goes in batches.
    """
    total = 0
    while deleted := rows.execute(connection, "discard_events", age=age, limit=_BATCH):
        total += deleted
    return total


def listen(connection: Connection, heard: Callable[[], None]) -> None:
    """Have ``heard`` called when something changed: by `hear`, and by any statement of this connection.

    Raises `errors.StoreError`.
    """
    schema = rows.scalar(connection, "fetch_channel")
    connection.add_notify_handler(lambda _notification: heard())
    rows.execute(connection, composable("listen").format(channel=sql.Identifier(schema)))


def hear(connection: Connection) -> None:
    """Take in what the connection has received meanwhile, if anything. Raises `errors.StoreError`."""
    received = select.poll()
    received.register(connection.fileno(), select.POLLIN)
    if received.poll(0):
        rows.execute(connection, "hear")
