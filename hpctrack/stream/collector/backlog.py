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
from hpctrack.stream.wire.names import TASK_NONE, JournalKey, RunName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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
    #: Of runs of other databases, by the names of these.
    elsewhere: dict[str, list[spool.Spooled]]
    stuck: list[spool.Stuck]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""
        return not any(self)


class _Claimed(NamedTuple):
    """A folder whose run has a submission record."""

    spooled: spool.Spooled
    name: RunName
    record: records.Record
    key: bytes
    """What the database would know it by, were its run deleted (`records.fingerprint`)."""


def look(settings: Settings, connect: Callable[[], Connection]) -> Backlog:
    """Find what waits; PostgreSQL is asked if there is something. Raises `errors.StoreError`."""
    survey = spool.survey(settings.spool, settings.node_dir)
    backlog = Backlog([], [], [], {}, survey.stuck)
    if survey.waiting:
        _sort(backlog, _claimed(backlog, survey.waiting, settings), settings, connect())
    return backlog


def _claimed(backlog: Backlog, waiting: Iterable[spool.Spooled], settings: Settings) -> list[_Claimed]:
    """Return the folders whose run has a record; a record that can't be read is stuck with its folder."""
    claimed = []
    for spooled in waiting:
        try:
            record = folders.find_record(settings.spool, spooled.identity)
            if record is not None:
                name = RunName.of(record.uuid, spooled.identity.task)
                claimed.append(_Claimed(spooled, name, record, records.fingerprint(record)))
        except (OSError, ValueError) as error:
            backlog.stuck.append(spool.unreadable(spooled, error))
    return claimed


def _sort(backlog: Backlog, claimed: Sequence[_Claimed], settings: Settings, connection: Connection) -> None:
    """Sort folders by what PostgreSQL knows of their runs."""
    keys = {folder.name: folder.key for folder in claimed}
    runs = collectors.known_runs(connection, keys)
    gone = collectors.deleted_runs(connection, {name: key for name, key in keys.items() if name not in runs})
    here = registration.Here(settings, connection)
    marks = collectors.watermarks(connection, {run.id for run in runs.values()})
    for spooled, name, record, _ in claimed:
        run = runs.get(name)
        if run is not None:
            ended = run.over or spooled.identity.attempt < run.attempt
            backlog.ready.append(Ready(spooled, run.id, ended, _unacknowledged(spooled, run.id, marks)))
        elif not here.is_place(record.place):
            backlog.elsewhere.setdefault(record.place, []).append(spooled)
        else:
            _sort_unknown(backlog, spooled, record, is_deleted=name in gone)


def _sort_unknown(
    backlog: Backlog, spooled: spool.Spooled, record: records.Record, *, is_deleted: bool
) -> None:
    """Sort in a folder whose run this database does not have."""
    try:
        if not _has_task(record, spooled.identity.task):
            backlog.stuck.append(spool.unclaimed(spooled))
        elif is_deleted:
            backlog.deleted.append(spooled)
        else:
            backlog.unregistered.append(spooled)
    except ValueError as error:
        backlog.stuck.append(spool.unreadable(spooled, error))


def register(backlog: Backlog, settings: Settings, connection: Connection) -> int:
    """Register the submissions that this database does not know; return how many there were.

    Also registers again what PostgreSQL knew before it was restored. Raises `errors.StoreError`.
    """
    for spooled in backlog.unregistered:
        with contextlib.suppress(OSError, ValueError):  # it waits on, and is told
            record = folders.find_record(settings.spool, spooled.identity)
            if record is not None:
                records.set_unregistered(records.path(settings.spool, record))
    return registration.register_pending(settings, connection) if backlog.unregistered else 0


def _has_task(record: records.Record, task: int) -> bool:
    return task == TASK_NONE if record.tasks is None else task in array_spec.expand(record.tasks)


def _unacknowledged(spooled: spool.Spooled, run_id: int, marks: Mapping[JournalKey, int]) -> int:
    """Return how many bytes of a folder's journals PostgreSQL does not have; headers count for nothing."""
    missing: dict[bytes, int] = {}
    try:
        for file in tail.find(spooled.path):
            end = file.base + os.lstat(file.path).st_size
            mark = max(marks.get(JournalKey(run_id, file.journal.hex()), 0), file.base)
            if end > mark:
                journal = tail.Tail([file])
                mark = max(marks.get(JournalKey(run_id, journal.name.hex()), 0), file.base)
                blank = mark == 0 and journal.is_blank
                journal.close()
            if end > mark and not blank:
                missing[file.journal] = max(missing.get(file.journal, 0), end - mark)
    except OSError:
        return spooled.size
    return sum(missing.values())
