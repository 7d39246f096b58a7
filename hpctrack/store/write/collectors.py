"""Collectors in PostgreSQL: keys of runs, heartbeat, the lease of the one that reconciles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from hpctrack import errors
from hpctrack.store import database
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from hpctrack.store.database import Connection

#: Seconds without a heartbeat after which a collector counts as gone.
SILENT = 30.0
#: Seconds that a lease lasts if it is not renewed.
LEASE = 30.0


@dataclass(frozen=True)
class CollectorRow:
    """A collector as its row says."""

    id: UUID
    host: str
    pid: int
    addresses: tuple[str, ...]
    started: datetime
    heartbeat: datetime
    stats: dict[str, Any]
    silent: float
    """Seconds since its last heartbeat."""
    reconciles: bool
    """Whether it holds the lease."""

    @property
    def live(self) -> bool:
        """Whether it has been heard of lately."""
        return self.silent < SILENT


def run_keys(
    connection: Connection, names: Collection[tuple[bytes, int]]
) -> dict[tuple[bytes, int], tuple[int, bytes, str]]:
    """Return id, secret and user of runs by submission (16 bytes) and task; unknown ones are left out.

    Raises `errors.StoreError`.
    """
    with database.translated():
        rows: list[tuple[Any, ...]] = connection.execute(
            statement("fetch_run_keys"), _names(names)
        ).fetchall()
    return {
        (submission.bytes, task): (run_id, bytes(secret), user)
        for submission, task, run_id, secret, user in rows
    }


def _names(names: Collection[tuple[bytes, int]]) -> dict[str, list[Any]]:
    return {
        "submissions": [UUID(bytes=submission) for submission, _ in names],
        "tasks": [task for _, task in names],
    }


def beat(
    connection: Connection,
    collector: UUID,
    *,
    host: str,
    pid: int,
    addresses: Sequence[str],
    stats: Mapping[str, Any],
    reconciles: bool = True,
) -> bool:
    """Say that a collector lives; whether it has the lease, which it takes or renews if it can.

    One that does not reconcile leaves it to others. Raises `errors.StoreError`.
    """
    parameters = {
        "id": collector,
        "host": host,
        "pid": pid,
        "addresses": list(addresses),
        "stats": Jsonb(stats),
    }
    lease = {"id": collector, "seconds": LEASE}
    with database.translated(), connection.transaction():
        connection.execute(statement("relax_commit"))
        connection.execute(statement("beat"), parameters)
        if not reconciles:
            return False
        connection.execute(statement("lock_lease"))
        return connection.execute(statement("take_lease"), lease).fetchone() is not None


def end_standstill(connection: Connection, seconds: float) -> int:
    """End sessions of hpctrack's that have stood still for so long while PostgreSQL took in their rows.

    Returns how many. Raises `errors.StoreError`.
    """
    parameters = {"own": [database.COLLECTOR, database.COMMAND], "seconds": seconds}
    with database.translated():
        return len(connection.execute(statement("end_standstill"), parameters).fetchall())


def leave(connection: Connection, collector: UUID) -> None:
    """Say that a collector ends, and give up its lease. Raises `errors.StoreError`."""
    with database.translated():
        connection.execute(statement("delete_collector"), {"id": collector})
        connection.execute(statement("delete_silent_collectors"))


def fetch(connection: Connection) -> list[CollectorRow]:
    """Return all collectors, oldest first. Raises `errors.StoreError`."""
    with database.translated():
        rows: list[tuple[Any, ...]] = connection.execute(statement("list_collectors")).fetchall()
    return [
        CollectorRow(id_, host, pid, tuple(addresses), started, heartbeat, stats, silent, bool(reconciles))
        for id_, host, pid, addresses, started, heartbeat, _lease, stats, silent, reconciles in rows
    ]


def check_role(connection: Connection) -> None:
    """Refuse a role that may not collect and reconcile. Raises `errors.StoreDenied`."""
    with database.translated(), connection.transaction():
        role, acts = connection.execute(statement("fetch_rights")).fetchone() or ("", False)
    if not acts:
        raise errors.StoreDenied(
            f"this is for a collector, and role {role} is none: hpctrack setup --grant-collector {role}"
        )


class KnownRun(NamedTuple):
    """A run that exists."""

    id: int
    #: Its last attempt, and whether that has been over for some minutes: no process of it lives on any node.
    attempt: int
    over: bool


def known_runs(
    connection: Connection, names: Collection[tuple[bytes, int]]
) -> dict[tuple[bytes, int], KnownRun]:
    """Return the runs by submission (16 bytes) and task; those that do not exist are left out.

    Raises `errors.StoreError`.
    """
    with database.translated():
        rows: list[tuple[Any, ...]] = connection.execute(
            statement("fetch_known_runs"), _names(names)
        ).fetchall()
    return {(submission.bytes, task): KnownRun(*found) for submission, task, *found in rows}


def deleted_runs(connection: Connection, keys: Mapping[tuple[bytes, int], bytes]) -> set[tuple[bytes, int]]:
    """Return those of the runs that were deleted from this database; it may well not know all others.

    ``keys``: what `records.fingerprint` says of each. Raises `errors.StoreError`.
    """
    parameters = {**_names(keys), "keys": list(keys.values())}
    with database.translated():
        rows: list[tuple[Any, ...]] = connection.execute(
            statement("fetch_deleted_runs"), parameters
        ).fetchall()
    return {(submission.bytes, task) for submission, task in rows}


def watermarks(connection: Connection, runs: Collection[int]) -> dict[tuple[int, str], int]:
    """Return up to which byte the journals of runs are in, by run and journal. Raises `errors.StoreError`."""
    with database.translated():
        rows: list[tuple[Any, ...]] = connection.execute(
            statement("fetch_runs_watermarks"), {"runs": list(runs)}
        ).fetchall()
    return {(run_id, journal): watermark for run_id, journal, watermark in rows}


def note_waiting(connection: Connection, waiting: Mapping[int, int]) -> None:
    """Say how many rows wait in the spool, by run; nothing waits of all others. Raises `errors.StoreError`.

    For the one collector of a user, who has one spool.
    """
    parameters = {"runs": list(waiting), "rows": list(waiting.values())}
    with database.translated():
        connection.execute(statement("note_waiting"), parameters)
        if waiting:
            connection.execute(statement("insert_waiting"), parameters)


def live_runs(connection: Connection) -> int:
    """Return how many runs may still have something to say. Raises `errors.StoreError`."""
    return _count(connection, "count_live_runs", {})


def other_sessions(connection: Connection, seconds: float) -> int:
    """Return how many sessions that are no collector's do something, or did in the last seconds."""
    return _count(connection, "count_other_sessions", {"own": database.COLLECTOR, "seconds": seconds})


def seconds_since_last_end(connection: Connection) -> float:
    """Return how long ago the last run ended, as Slurm or its supervisor says; infinite if none has.

    Raises `errors.StoreError`.
    """
    with database.translated():
        row = connection.execute(statement("seconds_since_last_end")).fetchone()
    seconds = row[0] if row else None
    return math.inf if seconds is None else max(float(str(seconds)), 0.0)


def _count(connection: Connection, name: str, parameters: Mapping[str, Any]) -> int:
    with database.translated():
        row = connection.execute(statement(name), parameters).fetchone()
    return int(str(row[0])) if row else 0
