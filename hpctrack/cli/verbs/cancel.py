"""``hpctrack cancel``: scancel for runs."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click

from hpctrack import account, errors, settings
from hpctrack.cli import common
from hpctrack.cli.terminal import render, say
from hpctrack.run import runids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hpctrack.reconcile import claims, matching
    from hpctrack.settings import Settings
    from hpctrack.store.read.jobs import Job

#: How long squeue may take.
_SECONDS = 30.0
#: One cluster by its name, which is the row's word. Slurm's commands take lists, and ``all``.
_CLUSTER = re.compile(r"(?!all\Z)\w[\w.-]*", re.ASCII | re.IGNORECASE)


@click.command()
@common.runs_argument
@common.config_option
def command(*, refs: tuple[runids.RunRef, ...], config_path: str | None) -> None:
    """End the jobs of runs with scancel.

    Slurm is asked first whether each job is the run's: by its user, cluster, submit time and name.

    A job id of an array means all its tasks. What became of them is Slurm's word: hpctrack status tells it
    as soon as Slurm does.
    """
    from hpctrack.store.read import jobs, lookup

    configuration = settings.load(config_path=config_path)
    with common.connected(configuration) as connection:
        found = jobs.fetch(connection, lookup.find_each(connection, refs))
        for job in found:
            if job.over:
                say.out(f"r{job.run_id} is over: {job.status}")
        live = [job for job in found if not job.over]
        proven, refused, partial = _prove([job for job in live if job.kind == "batch"], configuration)
        whole = jobs.whole_arrays(connection, [job for jobs_ in proven.values() for job in jobs_]) - partial
    refused += _cancel(proven, whole)
    if hints := [_hint(job) for job in live if job.kind != "batch"]:
        refused.append(errors.UsageError("; ".join(hints)))
    for error in refused[:-1]:
        say.note(str(error))
    if refused:
        raise refused[-1]


def _prove(
    found: Sequence[Job], configuration: Settings
) -> tuple[dict[str | None, list[Job]], list[errors.HpctrackError], set[int]]:
    """Ask Slurm whose these jobs are. Returns those that are their runs', by cluster, and why others are not.

    The cluster None is the one of this host. Also returns the arrays of which squeue lists tasks beside
    these: they have no run, or one that was over.
    """
    from hpctrack.reconcile import claims, matching
    from hpctrack.slurm import accounting

    proven: dict[str | None, list[Job]] = {}
    refused: list[errors.HpctrackError] = []
    partial: set[int] = set()
    for (remote, cluster), members in _by_cluster(found, configuration):
        if remote and not _CLUSTER.fullmatch(cluster):
            refused += [_refusal(job, f"{cluster!r} names no cluster") for job in members]
            continue
        backend = accounting.CommandLine(cluster, os.environ, remote=remote, timeout=_SECONDS)
        try:
            index = matching.Index(backend.queue())
        except errors.SlurmError as error:
            refused.append(error)
            continue
        for job in members:
            why = claims.why_not(_claim(job, cluster), index)
            if why is None:
                proven.setdefault(cluster if remote else None, []).append(job)
            else:
                refused.append(_refusal(job, why))
        partial |= _partial(proven.get(cluster if remote else None, ()), index)
    return proven, refused, partial


def _partial(found: Iterable[Job], index: matching.Index) -> set[int]:
    """Return the arrays of which Slurm has other tasks than these: their bare ids would end those, too."""
    arrays: dict[int, set[int]] = {}
    for job in found:
        if job.array_job_id is not None and job.array_task_id is not None:
            arrays.setdefault(job.array_job_id, set()).add(job.array_task_id)
    return {array for array, tasks in arrays.items() if not index.tasks(array) <= tasks}


def _claim(job: Job, cluster: str) -> claims.Claim:
    from hpctrack.model import RunStatus, StoredRun
    from hpctrack.reconcile import claims

    run = StoredRun(
        job.run_id, "batch", RunStatus.PENDING, None, cluster, job.time_submitted, job.job_id,
        job.array_job_id, job.array_task_id, job_name=job.job_name,
    )  # fmt: skip
    # Logins are named like accounts; and what is the caller's own in PostgreSQL is so in Slurm.
    owners = {job.owner, account.user_name()} if job.own else {job.owner}
    return claims.Claim(run, owners, job.time_queued)


def _refusal(job: Job, why: str) -> errors.JobUnproven:
    name = runids.job_text(job.job_id, job.array_job_id, job.array_task_id)
    if name is None:
        return errors.JobUnproven(f"r{job.run_id} has no job that Slurm could end")
    return errors.JobUnproven(
        f"r{job.run_id} is left alone, since job {name} is not proven to be its: {why} "
        f"(if it is, scancel {name})"
    )


def _cancel(proven: Mapping[str | None, list[Job]], whole: set[int]) -> list[errors.HpctrackError]:
    """End jobs; returns what went wrong."""
    from hpctrack.slurm import cancel

    failed: list[errors.HpctrackError] = []
    for cluster, members in proven.items():
        jobs = [cancel.Job(job.job_id, job.array_job_id, job.array_task_id) for job in members]
        if len(members) > 1:
            say.out(f"ends {common.named([job.run_id for job in members])}")
        named = cancel.words(jobs, whole)
        try:
            cancel.cancel(named, cluster, os.environ)
        except errors.SlurmError as error:
            failed.append(error)
        else:
            say.out(f"scancel: {' '.join(named)}" + (f" on {render.clean(cluster)}" if cluster else ""))
    return failed


def _by_cluster(
    found: Sequence[Job], configuration: Settings
) -> Iterator[tuple[tuple[bool, str], list[Job]]]:
    """Group jobs by cluster: whether it is another one than this host's, and its name."""
    if not found:
        return
    from hpctrack.slurm import site

    here = site.cluster_name(os.environ, configuration.cache)
    for cluster in dict.fromkeys(job.cluster or here for job in found):
        yield (cluster != here, cluster), [job for job in found if (job.cluster or here) == cluster]


def _hint(job: Job) -> str:
    """Say how a command is ended that hpctrack run tracks."""
    if job.job_id is not None and not job.own:
        return (
            f"r{job.run_id} is a command inside a job, by the word of {job.owner} number {job.job_id}: "
            f"look whose that is before it is ended as a whole (squeue -j {job.job_id})"
        )
    if job.job_id is not None:
        return (
            f"r{job.run_id} is a command inside job {job.job_id}, which ends as a whole: scancel {job.job_id}"
        )
    where = f" on {job.host}" if job.host else ""
    return f"r{job.run_id} runs{where} outside Slurm: press Ctrl-C there, or kill its process"
