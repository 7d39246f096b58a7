"""Which runs people mean: references (`hpctrack.run.runids`) to the ids of runs.

Lists ask with `find_all`, verbs that act on several runs with `find_each`, verbs about one run with
`find_one`. A name is looked for among the caller's own runs first, and a whole name before a beginning.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from hpctrack import account, errors
from hpctrack.run import runids
from hpctrack.store import rows
from hpctrack.store.read import known_names
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable
    from datetime import datetime
    from uuid import UUID

    from hpctrack.store.database import Connection

#: Runs by their own id (None, id), and by job id and task.
Exact: TypeAlias = "dict[tuple[int | None, int | None], list[Candidate]]"
#: How many candidates an ambiguous reference lists.
_LISTED = 6
#: Runs of a name that are looked at to learn whether they are of one job.
_ENOUGH = 1000


@dataclass(frozen=True)
class Candidate:
    """A run that a reference may mean; as text what tells it from others."""

    id: int
    submission: UUID | None
    kind: str
    user_name: str
    cluster: str | None
    slurm_job_id: int | None
    array_job_id: int | None
    array_task_id: int | None
    job_name: str | None
    time_created: datetime

    def __str__(self) -> str:
        job = runids.job_text(self.slurm_job_id, self.array_job_id, self.array_task_id)
        where = f" on {self.cluster}" if self.cluster else ""
        when = self.time_created.astimezone().strftime("%Y-%m-%d %H:%M")
        known = (f"job {job}{where}" if job else None, self.job_name, self.user_name, when)
        return f"r{self.id} ({', '.join(filter(None, known))})"


def find_all(connection: Connection, refs: Iterable[runids.RunRef]) -> tuple[int, ...]:
    """Return the ids of all runs that the references may mean, each once. Raises `errors.RunNotFound`."""
    asked = tuple(refs)
    exact = _exact(connection, asked)
    return _ids(run for ref in asked for run in _candidates(connection, ref, exact, limit=None))


def find_each(connection: Connection, refs: Iterable[runids.RunRef]) -> tuple[int, ...]:
    """Return the ids of what `find_runs` returns. Raises as it does."""
    return _ids(find_runs(connection, refs))


def find_runs(connection: Connection, refs: Iterable[runids.RunRef]) -> list[Candidate]:
    """Return the runs that the references mean, some perhaps twice: a job id means all runs of that job.

    Raises `errors.RunNotFound`, and `errors.AmbiguousRun` for a reference that fits several jobs: one whose
    id Slurm has used again, or a name of several; it lists the candidates.
    """
    asked = tuple(refs)
    exact = _exact(connection, asked)
    return [run for ref in asked for run in _one_job(connection, ref, exact)]


def find_one(connection: Connection, ref: runids.RunRef) -> int:
    """Return the id of the one run that a reference means.

    Raises as `find_each` does, `errors.AmbiguousRun` also for an array of several tasks.
    """
    candidates = _one_job(connection, ref, _exact(connection, (ref,)))
    if len(candidates) > 1:
        raise _ambiguous(ref, candidates)
    return candidates[0].id


def my_names(connection: Connection) -> list[str]:
    """Return the names under which the caller's runs are stored: PostgreSQL's login, and the user's here."""
    [(login, _)] = rows.tuples(connection, "fetch_login")
    return _names(login)


def usual_names(connection: Connection) -> list[str] | None:
    """Return whose runs a site's lists are of where nobody says: the caller's.

    None, which means everybody's, for the schema's owner and collectors, as for root in Slurm's commands.
    """
    [(login, acts_for_all)] = rows.tuples(connection, "fetch_login")
    return None if acts_for_all else _names(login)


def _names(login: str) -> list[str]:
    return list(dict.fromkeys((login, account.user_name())))


def _ids(candidates: Iterable[Candidate]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(candidate.id for candidate in candidates))


def _one_job(connection: Connection, ref: runids.RunRef, exact: Exact) -> list[Candidate]:
    """Return the runs of the one job that a reference means, in the order of their ids."""
    runs = _candidates(connection, ref, exact, limit=_ENOUGH)
    jobs = _jobs(ref, runs)
    if len(jobs) > 1 and ref.job_id is not None:
        jobs = _own_jobs(connection, jobs) or jobs
    if len(jobs) > 1:
        raise _ambiguous(ref, [job[0] for job in jobs], "jobs")
    job = jobs[0]
    if ref.named and len(runs) == _ENOUGH:
        job = _candidates(connection, ref, exact, limit=None)
    return sorted(job, key=lambda run: run.id)


def _jobs(ref: runids.RunRef, runs: list[Candidate]) -> list[list[Candidate]]:
    """Divide runs by their jobs."""
    jobs: dict[Hashable, list[Candidate]] = defaultdict(list)
    for run in runs if ref.job_id is None else _scripts(runs):
        jobs[_job_key(ref, run)].append(run)
    return list(jobs.values())


def _scripts(runs: list[Candidate]) -> list[Candidate]:
    """Return the runs that are batch jobs; if there is none, what says that it runs inside the job."""
    return [run for run in runs if run.kind == "batch"] or runs


def _own_jobs(connection: Connection, jobs: list[list[Candidate]]) -> list[list[Candidate]]:
    """Return the caller's jobs: anybody may say in SQL that a run of theirs had this job id."""
    names = my_names(connection)
    return [job for job in jobs if job[0].user_name in names]


def _job_key(ref: runids.RunRef, candidate: Candidate) -> Hashable:
    if ref.job_id is not None and candidate.kind != "batch":
        return candidate.cluster, candidate.user_name
    return candidate.submission or candidate.id


def _ambiguous(ref: runids.RunRef, candidates: list[Candidate], what: str = "runs") -> errors.AmbiguousRun:
    listed = ", ".join(map(str, candidates[:_LISTED]))
    more = f" and {len(candidates) - _LISTED} more" if len(candidates) > _LISTED else ""
    return errors.AmbiguousRun(f"{ref.text} means {len(candidates)} {what}, name one of them: {listed}{more}")


def _candidates(
    connection: Connection, ref: runids.RunRef, exact: Exact, limit: int | None
) -> list[Candidate]:
    """Return the runs that a reference may mean. Raises `errors.RunNotFound` if there is none."""
    runs = _matches(connection, ref, exact, limit)
    if runs:
        return runs
    if ref.named:
        near = nearest.to(ref.text, known_names.of_runs(connection).get("name", ()))
        hint = "" if near is None else f": did you mean {near!r}?"
        raise errors.RunNotFound(
            f"no run's name begins with {ref.text!r}{hint or ';'} a run is named by its Slurm job id "
            "(14, 14_3), its own id (r14) or the beginning of its job's name"
        )
    what = "no run" if ref.run_id is not None else "no tracked run of job"
    raise errors.RunNotFound(f"{what} {ref.text}: hpctrack status lists the runs")


def _matches(connection: Connection, ref: runids.RunRef, exact: Exact, limit: int | None) -> list[Candidate]:
    if ref.named:
        return _by_sluid(connection, ref.text) or _named(connection, ref.text, limit)
    if ref.run_id is None and ref.task is None:
        return rows.records(connection, "find_job", Candidate, job_id=ref.job_id)
    return exact.get((ref.job_id, ref.run_id if ref.task is None else ref.task), [])


def _exact(connection: Connection, refs: Collection[runids.RunRef]) -> Exact:
    """Return what runs' own ids and tasks mean: there may be thousands, and they are asked for together."""
    exact: Exact = defaultdict(list)
    for run in _by_id(connection, [ref.run_id for ref in refs if ref.run_id is not None]):
        exact[None, run.id].append(run)
    for job_id, tasks in _tasks(refs).items():
        for run in rows.records(connection, "find_tasks", Candidate, job_id=job_id, tasks=tasks):
            exact[job_id, run.array_task_id].append(run)
    return exact


def _by_id(connection: Connection, run_ids: list[int]) -> list[Candidate]:
    return rows.records(connection, "find_runs", Candidate, run_ids=run_ids) if run_ids else []


def _tasks(refs: Collection[runids.RunRef]) -> dict[int | None, list[int]]:
    """Return the tasks that are asked for, by array."""
    tasks = defaultdict(list)
    for ref in refs:
        if ref.task is not None:
            tasks[ref.job_id].append(ref.task)
    return tasks


def _by_sluid(connection: Connection, text: str) -> list[Candidate]:
    """Return the runs with an execution that Slurm calls so: the batch job, if it is tracked."""
    sluid = runids.sluid(text)
    return _scripts(rows.records(connection, "find_sluid", Candidate, sluid=sluid)) if sluid else []


def _named(connection: Connection, text: str, limit: int | None) -> list[Candidate]:
    """Return the runs of a name, the newest first."""
    literally = text.translate({ord(special): f"\\{special}" for special in "\\%_"})
    for users in (my_names(connection), None):
        for pattern in (literally, literally + "%"):
            runs = rows.records(connection, "find_named", Candidate, name=pattern, users=users, limit=limit)
            if runs:
                return runs
    return []
