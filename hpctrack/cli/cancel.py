"""``hpctrack cancel``: scancel for runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from hpctrack import errors, runids, settings
from hpctrack.cli import common

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hpctrack.settings import Settings
    from hpctrack.store.jobs import Job


@click.command()
@common.runs_argument
@common.config_option
def command(*, refs: tuple[runids.RunRef, ...], config_path: str | None) -> None:
    """End the jobs of runs with scancel.

    A job id of an array means all its tasks. What became of them is Slurm's word: hpctrack status tells it
    as soon as Slurm does.
    """
    from hpctrack.store import jobs, lookup

    configuration = settings.load(config_path=config_path)
    with common.connected(configuration) as connection:
        found = jobs.fetch(connection, lookup.find_each(connection, refs))
        live = [job for job in found if not job.over]
        whole = jobs.whole_arrays(connection, live)
    for job in found:
        if job.over:
            click.echo(f"r{job.run_id} is over: {job.status}")
    _cancel([job for job in live if job.kind == "batch"], whole, configuration)
    if hints := [_hint(job) for job in live if job.kind != "batch"]:
        raise errors.UsageError("; ".join(hints))


def _cancel(found: Sequence[Job], whole: set[int], configuration: Settings) -> None:
    from hpctrack.slurm import cancel

    for cluster, members in _by_cluster(found, configuration):
        jobs = [cancel.Job(job.job_id, job.array_job_id, job.array_task_id) for job in members]
        named = cancel.words(jobs, whole)
        cancel.cancel(named, cluster, os.environ)
        click.echo(f"scancel: {' '.join(named)}" + (f" on {cluster}" if cluster else ""))


def _by_cluster(found: Sequence[Job], configuration: Settings) -> Iterator[tuple[str | None, list[Job]]]:
    """Group jobs by cluster; None is the one of this host."""
    if not found:
        return
    from hpctrack.slurm import site

    here = site.cluster_name(os.environ, configuration.cache)
    for cluster in dict.fromkeys(job.cluster for job in found):
        members = [job for job in found if job.cluster == cluster]
        yield (None if cluster in (here, None) else cluster), members


def _hint(job: Job) -> str:
    """Say how a command is ended that hpctrack run tracks."""
    if job.job_id is not None:
        return (
            f"r{job.run_id} is a command inside job {job.job_id}, which ends as a whole: scancel {job.job_id}"
        )
    where = f" on {job.host}" if job.host else ""
    return f"r{job.run_id} runs{where} outside Slurm: press Ctrl-C there, or kill its process"
