"""Whether a job is the one that a run says it is, so that it may be ended for that run. Pure.

People write their own rows, Slurm uses job ids again, and scancel asks no questions: a row that names a
stranger's job would make an operator end that job, and a user another job of their own. So Slurm is asked
first. The job's user must be proven to be behind the row, and its cluster, submit time and name must be those
of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hpctrack.reconcile import matching

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from hpctrack.model import JobFacts, StoredRun


class Claim(NamedTuple):
    """A run that is to be ended, and what is known of whose it is."""

    run: StoredRun
    owners: Collection[str]
    """Slurm's names of those who are proven to be behind the row: what the row itself says is no proof."""
    submitted: datetime | None = None
    """When its latest execution was submitted, as Slurm told before."""


def why_not(claim: Claim, index: matching.Index) -> str | None:
    """Return why the job that squeue lists is not proven to be the run's; None if it is."""
    listed = [fact for fact in index.listed(claim.run) if fact.source == "squeue" and matching.goes_on(fact)]
    if not listed:
        return "squeue does not list it: it has ended, or never was"
    reasons = [_difference(claim, fact) for fact in listed]
    return None if None in reasons else reasons[0]


def _difference(claim: Claim, fact: JobFacts) -> str | None:
    run = claim.run
    if fact.slurm_user is None:
        return "squeue does not say whose it is"
    if fact.slurm_user not in claim.owners:
        return f"Slurm says that it is {fact.slurm_user}'s, and the run is {_either(claim.owners)}'s"
    if fact.cluster is not None and run.cluster is not None and fact.cluster != run.cluster:
        return f"it is on cluster {fact.cluster}, and the run on {run.cluster}"
    if fact.time_submitted is None or not matching.is_ours(run._replace(slurm_user=None), fact):
        return "it was submitted at another time than the run: its id has been used again"
    if claim.submitted == fact.time_submitted or matching.is_called(fact.job_name, run.job_name):
        return None
    return f"its name is {fact.job_name}, and the run's {run.job_name}"


def _either(names: Collection[str]) -> str:
    return " or ".join(sorted(names))
