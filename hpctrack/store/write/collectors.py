"""Collectors in PostgreSQL: keys of runs, heartbeat, the lease of the one that reconciles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from hpctrack import errors
from hpctrack.store import database, rows
from hpctrack.stream.wire.names import JournalKey, RunName

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
    addresses: Sequence[str]
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


class Sender(NamedTuple):
    """A run that sends datagrams, the secret of its submission, and whose it is."""

    run_id: int
    secret: bytes
    user: str


def run_keys(connection: Connection, names: Collection[RunName]) -> dict[RunName, Sender]:
    """Return the keys of runs; runs that do not exist are left out. Raises `errors.StoreError`."""
    return {
        RunName(submission.bytes, task): Sender(run_id, bytes(secret), user)
        for submission, task, run_id, secret, user in rows.tuples(
            connection, "fetch_run_keys", **_names(names)
        )
    }


def _names(names: Collection[RunName]) -> dict[str, list[Any]]:
    return {
        "submissions": [UUID(bytes=name.submission) for name in names],
        "tasks": [name.task for name in names],
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
    with rows.transaction(connection):
        rows.execute(connection, "relax_commit")
        rows.execute(
            connection,
            "beat",
            id=collector,
            host=host,
            pid=pid,
            addresses=list(addresses),
            stats=Jsonb(stats),
        )
        if not reconciles:
            return False
        rows.execute(connection, "lock_lease")
        return rows.execute(connection, "take_lease", id=collector, seconds=LEASE) > 0


def end_standstill(connection: Connection, seconds: float) -> int:
    """End sessions of hpctrack's that have stood still for so long while PostgreSQL took in their rows.

    Returns how many. Raises `errors.StoreError`.
    """
    own = [database.COLLECTOR, database.COMMAND]
    return rows.execute(connection, "end_standstill", own=own, seconds=seconds)


def leave(connection: Connection, collector: UUID) -> None:
    """Say that a collector ends, and give up its lease. Raises `errors.StoreError`."""
    rows.execute(connection, "delete_collector", id=collector)
    rows.execute(connection, "delete_silent_collectors")


def fetch(connection: Connection) -> list[CollectorRow]:
    """Return all collectors, oldest first. Raises `errors.StoreError`."""
    return rows.records(connection, "list_collectors", CollectorRow)


def check_role(connection: Connection) -> None:
    """Refuse a role that may not collect and reconcile. Raises `errors.StoreDenied`."""
    with rows.transaction(connection):  # the connection may not be in autocommit mode
        [(role, acts)] = rows.tuples(connection, "fetch_rights")
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


def known_runs(connection: Connection, names: Collection[RunName]) -> dict[RunName, KnownRun]:
    """Return the runs that exist. Raises `errors.StoreError`."""
    return {
        RunName(submission.bytes, task): KnownRun(run_id, attempt, over)
        for submission, task, run_id, attempt, over in rows.tuples(
            connection, "fetch_known_runs", **_names(names)
        )
    }


def deleted_runs(connection: Connection, keys: Mapping[RunName, bytes]) -> set[RunName]:
    """Return those of the runs that were deleted from this database; it may well not know all others.

    ``keys``: the `records.fingerprint` of each. Raises `errors.StoreError`.
    """
    deleted = rows.tuples(connection, "fetch_deleted_runs", **_names(keys), keys=list(keys.values()))
    return {RunName(submission.bytes, task) for submission, task in deleted}


def watermarks(connection: Connection, runs: Collection[int]) -> dict[JournalKey, int]:
    """Return up to which byte the journals of runs are in. Raises `errors.StoreError`."""
    marks = rows.tuples(connection, "fetch_runs_watermarks", runs=list(runs))
    return {JournalKey(run_id, journal): watermark for run_id, journal, watermark in marks}


def note_waiting(connection: Connection, waiting: Mapping[int, int]) -> None:
    """Say how many rows wait in the spool, by run; nothing waits of all others. Raises `errors.StoreError`.

    For the one collector of a user, who has one spool.
    """
    counts = {"runs": list(waiting), "rows": list(waiting.values())}
    rows.execute(connection, "note_waiting", **counts)
    if waiting:
        rows.execute(connection, "insert_waiting", **counts)


def live_runs(connection: Connection) -> int:
    """Return how many runs may still have something to say. Raises `errors.StoreError`."""
    return int(rows.scalar(connection, "count_live_runs"))


def other_sessions(connection: Connection, seconds: float) -> int:
    """Return how many sessions that are no collector's do something, or did in the last seconds."""
    return int(rows.scalar(connection, "count_other_sessions", own=database.COLLECTOR, seconds=seconds))


def seconds_since_last_end(connection: Connection) -> float:
    """Return how long ago the last run ended, as Slurm or its supervisor says; infinite if none has.

    Raises `errors.StoreError`.
    """
    seconds = rows.scalar(connection, "seconds_since_last_end")
    return math.inf if seconds is None else max(float(seconds), 0.0)
