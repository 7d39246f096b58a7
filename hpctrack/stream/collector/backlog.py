"""The backlog: what waits in a spool and on this host, sorted by what can be done about it.

Folders of journals are known by their files (`spool.survey`), runs by PostgreSQL. Only folders of runs that
PostgreSQL knows are sent: nobody would answer for others, and that says nothing about the collector.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.run import array_spec
from hpctrack.store.write import collectors, registration
from hpctrack.stream.disk import folders, tail
from hpctrack.stream.node import spool
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import TASK_NONE, RunName

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection


class Ready(NamedTuple):
    """A folder of a run that PostgreSQL knows."""

    spooled: spool.Spooled
    run_id: int
    #: Whether the folder's attempt is over on all nodes, says PostgreSQL.
    ended: bool
    #: Bytes that are not acknowledged.
    waiting: int


class Backlog(NamedTuple):
    """What waits."""

    ready: list[Ready]
    #: Of runs that this database says were deleted: nobody can ever deliver it.
    deleted: list[spool.Spooled]
    #: Of submissions that this database does not know yet, or any more: it may have been restored.
    unregistered: list[spool.Spooled]
    #: Of runs of other databases, by what those are called.
    elsewhere: dict[str, list[spool.Spooled]]
    stuck: list[spool.Stuck]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""
        return not any(self)


def look(settings: Settings, connect: Callable[[], Connection]) -> Backlog:
    """Find what waits; PostgreSQL is asked if there is something. Raises `errors.StoreError`."""
    survey = spool.survey(settings.spool, settings.node_dir)
    found = Backlog([], [], [], {}, survey.stuck)
    if survey.waiting:
        _sort(found, survey.waiting, settings, connect())
    return found


def _sort(found: Backlog, waiting: list[spool.Spooled], settings: Settings, connection: Connection) -> None:
    named: list[tuple[spool.Spooled, RunName, records.Record]] = []
    keys: dict[RunName, bytes] = {}
    for one in waiting:
        try:
            record = folders.find_record(settings.spool, one.identity)
            if record is not None:
                name = RunName.of(record.uuid, one.identity.task)
                keys[name] = records.fingerprint(record)
                named.append((one, name, record))
        except (OSError, ValueError) as error:
            found.stuck.append(spool.unreadable(one, error))
    runs = collectors.known_runs(connection, keys)
    gone = collectors.deleted_runs(connection, {name: key for name, key in keys.items() if name not in runs})
    here = registration.Here(settings, connection)
    marks = collectors.watermarks(connection, {run.id for run in runs.values()})
    for one, name, record in named:
        run = runs.get(name)
        if run is not None:
            ended = run.over or one.identity.attempt < run.attempt
            found.ready.append(Ready(one, run.id, ended, _unacknowledged(one, run.id, marks)))
        elif not here.is_place(record.place):
            found.elsewhere.setdefault(record.place, []).append(one)
        else:
            _sort_unknown(found, one, record, is_deleted=name in gone)


def _sort_unknown(found: Backlog, one: spool.Spooled, record: records.Record, *, is_deleted: bool) -> None:
    """Sort in what this database has no run of."""
    try:
        if not _has_task(record, one.identity.task):
            found.stuck.append(spool.unclaimed(one))
        elif is_deleted:
            found.deleted.append(one)
        else:
            found.unregistered.append(one)
    except ValueError as error:
        found.stuck.append(spool.unreadable(one, error))


def register(found: Backlog, settings: Settings, connection: Connection) -> int:
    """Register the submissions of what waits for that; return how many there were.

    Those that PostgreSQL knew before it was restored are registered again. Raises `errors.StoreError`.
    """
    for one in found.unregistered:
        with contextlib.suppress(OSError, ValueError):  # it waits on, and is told
            record = folders.find_record(settings.spool, one.identity)
            if record is not None:
                records.set_unregistered(records.path(settings.spool, record))
    return registration.register_pending(settings, connection) if found.unregistered else 0


def _has_task(record: records.Record, task: int) -> bool:
    return task == TASK_NONE if record.tasks is None else task in array_spec.expand(record.tasks)


def _unacknowledged(one: spool.Spooled, run_id: int, marks: dict[tuple[int, str], int]) -> int:
    """Return how many bytes of a folder's journals PostgreSQL does not have; headers count for nothing."""
    missing: dict[bytes, int] = {}
    try:
        for file in tail.find(one.path):
            end = file.base + os.lstat(file.path).st_size
            mark = max(marks.get((run_id, file.journal.hex()), 0), file.base)
            if end > mark:
                journal = tail.Tail([file])
                mark = max(marks.get((run_id, journal.name.hex()), 0), file.base)
                blank = mark == 0 and journal.is_blank
                journal.close()
            if end > mark and not blank:
                missing[file.journal] = max(missing.get(file.journal, 0), end - mark)
    except OSError:
        return one.size
    return sum(missing.values())
