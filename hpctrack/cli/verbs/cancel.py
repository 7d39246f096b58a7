"""``hpctrack cancel``: scancel for runs."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

import click

from hpctrack import account, errors, settings
from hpctrack.cli import options, sessions
from hpctrack.cli.terminal import render, say
from hpctrack.run import runids
from hpctrack.run.words import named

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
@options.runs
@options.config_path
def command(*, refs: tuple[runids.RunRef, ...], config_path: str | None) -> None:
    """End the jobs of runs with scancel.

    Slurm is asked first whether each job is the run's: by its user, cluster, submit time and name.

    A job id of an array means all its tasks. What became of them is Slurm's word: hpctrack status tells it
    as soon as Slurm does.
    """
    from hpctrack.store.read import jobs, lookup

    configuration = settings.load(config_path=config_path)
    with sessions.connected(configuration) as connection:
        meant = jobs.fetch(connection, lookup.find_each(connection, refs))
        live = [job for job in meant if not _is_told_over(job)]
        proof = _prove([job for job in live if job.kind == "batch"], configuration)
        whole = jobs.whole_arrays(connection, proof.all_proven()) - proof.partial
    failures = [*proof.refused, *_cancel(proof.proven, whole), *_hints(live)]
    for error in failures[:-1]:
        say.note(str(error))
    if failures:
        raise failures[-1]


def _is_told_over(job: Job) -> bool:
    """Whether a job is over; if it is, say so."""
    if job.over:
        say.out(f"r{job.run_id} is over: {job.status.value}")
    return job.over


class _Proof(NamedTuple):
    """What Slurm says of jobs: which are their runs', and why the others are left alone."""

    proven: dict[str | None, list[Job]]
    """By cluster; None is the one of this host."""
    refused: list[errors.HpctrackError]
    partial: set[int]
    """Arrays of which squeue lists tasks beside these: they have no run, or one that was over."""

    def all_proven(self) -> list[Job]:
        """Return the jobs of all clusters that are their runs'."""
        return [job for members in self.proven.values() for job in members]


def _prove(batch: Sequence[Job], configuration: Settings) -> _Proof:
    """Ask Slurm, cluster by cluster, whose these jobs are."""
    proof = _Proof({}, [], set())
    for (remote, cluster), members in _by_cluster(batch, configuration):
        if remote and not _CLUSTER.fullmatch(cluster):
            proof.refused.extend(_refusal(job, f"{cluster!r} names no cluster") for job in members)
            continue
        try:
            index = _queue(cluster, remote=remote)
        except errors.SlurmError as error:
            proof.refused.append(error)
            continue
        proven = _sort(members, cluster, index, proof.refused)
        if proven:
            proof.proven[cluster if remote else None] = proven
            proof.partial.update(_partial(proven, index))
    return proof


def _queue(cluster: str, *, remote: bool) -> matching.Index:
    """Return the jobs that squeue lists of a cluster. Raises `errors.SlurmError`."""
    from hpctrack.reconcile import matching
    from hpctrack.slurm import accounting

    slurm = accounting.CommandLine(cluster, os.environ, remote=remote, timeout=_SECONDS)
    return matching.Index(slurm.queue())


def _sort(
    members: Iterable[Job], cluster: str, index: matching.Index, refused: list[errors.HpctrackError]
) -> list[Job]:
    """Return the jobs that are proven to be their runs'; add to ``refused`` why others are not."""
    from hpctrack.reconcile import claims

    proven = []
    for job in members:
        why_not = claims.why_not(_claim(job, cluster), index)
        if why_not is None:
            proven.append(job)
        else:
            refused.append(_refusal(job, why_not))
    return proven


def _partial(proven: Iterable[Job], index: matching.Index) -> set[int]:
    """Return the arrays of which Slurm has other tasks than these: their bare ids would end those, too."""
    arrays: dict[int, set[int]] = {}
    for job in proven:
        if job.array_job_id is not None and job.array_task_id is not None:
            arrays.setdefault(job.array_job_id, set()).add(job.array_task_id)
    return {array for array, tasks in arrays.items() if not index.tasks(array) <= tasks}


def _claim(job: Job, cluster: str) -> claims.Claim:
    from hpctrack.model import StoredRun
    from hpctrack.reconcile import claims
    from hpctrack.run.states import RunStatus

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
        targets = [cancel.Job(job.job_id, job.array_job_id, job.array_task_id) for job in members]
        if len(members) > 1:
            say.out(f"ends {named([job.run_id for job in members])}")
        words = cancel.words(targets, whole)
        try:
            cancel.cancel(words, cluster, os.environ)
        except errors.SlurmError as error:
            failed.append(error)
        else:
            say.out(f"scancel: {' '.join(words)}" + (f" on {render.clean(cluster)}" if cluster else ""))
    return failed


def _by_cluster(
    batch: Sequence[Job], configuration: Settings
) -> Iterator[tuple[tuple[bool, str], list[Job]]]:
    """Group jobs by cluster: whether it is another one than this host's, and its name."""
    from hpctrack.slurm import site

    if not batch:
        return
    here = site.cluster_name(os.environ, configuration.cache)
    for cluster in dict.fromkeys(job.cluster or here for job in batch):
        yield (cluster != here, cluster), [job for job in batch if (job.cluster or here) == cluster]


def _hints(live: Iterable[Job]) -> list[errors.HpctrackError]:
    """Return in one error how those of these are ended that are no jobs."""
    hints = [_hint(job) for job in live if job.kind != "batch"]
    return [errors.UsageError("; ".join(hints))] if hints else []


def _hint(job: Job) -> str:
    """Say how a run is ended that is no job of its own."""
    what = "a command" if job.kind == "command" else "a client's run"
    if job.job_id is not None and not job.own:
        return (
            f"r{job.run_id} is {what} inside a job, by the word of {job.owner} number {job.job_id}: "
            f"look whose that is before it is ended as a whole (squeue -j {job.job_id})"
        )
    if job.job_id is not None:
        return f"r{job.run_id} is {what} inside job {job.job_id}, which ends as a whole: scancel {job.job_id}"
    where = f" on {job.host}" if job.host else ""
    if job.kind == "client":
        return f"r{job.run_id} is ended by the program that made it{where}: end that"
    return f"r{job.run_id} runs{where} outside Slurm: press Ctrl-C there, or kill its process"
