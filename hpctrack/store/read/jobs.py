"""The jobs of runs, as they are looked at before they are ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpctrack.store import rows

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from hpctrack.run.states import RunStatus
    from hpctrack.store.database import Connection


@dataclass(frozen=True)
class Job:
    """A run, and what Slurm calls its job."""

    run_id: int
    kind: str
    status: RunStatus
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
    return rows.records(connection, "fetch_jobs", Job, ids=list(ids))


def whole_arrays(connection: Connection, jobs: Collection[Job]) -> set[int]:
    """Return the ids of those arrays of which these are all the tasks that are not over."""
    arrays = {
        job.array_job_id: job.submission
        for job in jobs
        if job.array_job_id is not None and job.submission is not None
    }
    ids = [job.run_id for job in jobs]
    return set(arrays).difference(
        rows.column(connection, "find_other_tasks", ids=ids, submissions=list(arrays.values()))
    )
