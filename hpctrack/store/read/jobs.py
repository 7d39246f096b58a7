"""What is to be known of runs before their jobs are ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.rows import class_row

from hpctrack.store import database
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from hpctrack.store.database import Connection


@dataclass(frozen=True)
class Job:
    """A run, and what Slurm calls its job."""

    run_id: int
    kind: str
    status: str
    over: bool
    submission: UUID | None
    cluster: str | None
    job_id: int | None
    array_job_id: int | None
    array_task_id: int | None
    host: str | None
    """Where its latest attempt's script runs, as far as known."""
    owner: str
    """PostgreSQL login whose run it is."""
    own: bool
    """Whether that is the caller's."""
    job_name: str | None
    time_submitted: datetime
    time_queued: datetime | None
    """When its latest attempt was put into the queue, by Slurm's clock; None while that is not known."""


def fetch(connection: Connection, ids: Collection[int]) -> list[Job]:
    """Return the jobs of these runs."""
    with database.translated(), connection.cursor(row_factory=class_row(Job)) as cursor:
        return cursor.execute(statement("fetch_jobs"), {"ids": list(ids)}).fetchall()


def whole_arrays(connection: Connection, jobs: Collection[Job]) -> set[int]:
    """Return the ids of those arrays of which these are all the tasks that are not over."""
    arrays = {
        job.array_job_id: job.submission
        for job in jobs
        if job.array_job_id is not None and job.submission is not None
    }
    parameters = {"ids": [job.run_id for job in jobs], "submissions": list(arrays.values())}
    with database.translated():
        rows = connection.execute(statement("find_other_tasks"), parameters).fetchall()
    return set(arrays) - {row[0] for row in rows}
