"""Which runs people mean: references (`hpctrack.run.runids`) to the ids of runs.

Lists ask with `find_all`, verbs that act on several runs with `find_each`, verbs about one run with
`find_one`. A name is looked for among the caller's own runs first, and a whole name before a beginning.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg.rows import class_row

from hpctrack import account, errors
from hpctrack.run import runids
from hpctrack.store import database
from hpctrack.store.read import known_names
from hpctrack.store.statements import statement
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
    with database.translated():
        (login,) = connection.execute(statement("fetch_login")).fetchone() or (None,)
    return list(dict.fromkeys((str(login), account.user_name())))


def _ids(candidates: Iterable[Candidate]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(candidate.id for candidate in candidates))


def _one_job(connection: Connection, ref: runids.RunRef, exact: Exact) -> list[Candidate]:
    """Return the runs of the one job that a reference means, in the order of their ids."""
    found = _candidates(connection, ref, exact, limit=_ENOUGH)
    if ref.job_id is not None:
        # The job itself, if it is tracked, rather than what hpctrack run tracks inside it.
        found = [one for one in found if one.kind == "batch"] or found
    jobs: dict[Hashable, list[Candidate]] = {}
    for candidate in found:
        jobs.setdefault(_job_key(ref, candidate), []).append(candidate)
    if len(jobs) > 1 and ref.job_id is not None:
        # Anybody may say in SQL that a run of theirs had this job id.
        names = my_names(connection)
        jobs = {key: runs for key, runs in jobs.items() if runs[0].user_name in names} or jobs
        found = [one for runs in jobs.values() for one in runs]
    if len(jobs) > 1:
        raise _ambiguous(ref, [runs[0] for runs in jobs.values()], "jobs")
    if len(found) == _ENOUGH:
        found = _candidates(connection, ref, exact, limit=None)
    return sorted(found, key=lambda one: one.id)


def _job_key(ref: runids.RunRef, candidate: Candidate) -> Hashable:
    if ref.job_id is not None and candidate.kind == "command":
        return candidate.cluster, candidate.user_name
    return candidate.submission or candidate.id


def _ambiguous(ref: runids.RunRef, candidates: list[Candidate], what: str = "runs") -> errors.AmbiguousRun:
    listed = ", ".join(map(str, candidates[:_LISTED]))
    more = f" and {len(candidates) - _LISTED} more" if len(candidates) > _LISTED else ""
    return errors.AmbiguousRun(f"{ref.text} means {len(candidates)} {what}, name one of them: {listed}{more}")


def _candidates(
    connection: Connection, ref: runids.RunRef, exact: Exact, limit: int | None
) -> list[Candidate]:
    if ref.named:
        found = _by_sluid(connection, ref.text) or _named(connection, ref.text, limit)
    elif ref.run_id is None and ref.task is None:
        found = _fetch(connection, "find_job", {"job_id": ref.job_id})
    else:
        found = exact.get((ref.job_id, ref.run_id if ref.task is None else ref.task), [])
    if found:
        return found
    if ref.named:
        near = nearest.to(ref.text, known_names.of_runs(connection).get("name", ()))
        hint = "" if near is None else f": did you mean {near!r}?"
        raise errors.RunNotFound(
            f"no run's name begins with {ref.text!r}{hint or ';'} a run is named by its Slurm job id "
            "(14, 14_3), its own id (r14) or the beginning of its job's name"
        )
    what = "no run" if ref.run_id is not None else "no tracked run of job"
    raise errors.RunNotFound(f"{what} {ref.text}: hpctrack status lists the runs")


def _exact(connection: Connection, refs: Collection[runids.RunRef]) -> Exact:
    """Return what runs' own ids and tasks mean: there may be thousands, and they are asked for together."""
    found: Exact = defaultdict(list)
    runs = [ref.run_id for ref in refs if ref.run_id is not None]
    for run in _fetch(connection, "find_runs", {"run_ids": runs}) if runs else ():
        found[None, run.id].append(run)
    tasks = defaultdict(list)
    for ref in refs:
        if ref.task is not None:
            tasks[ref.job_id].append(ref.task)
    for job, wanted in tasks.items():
        for run in _fetch(connection, "find_tasks", {"job_id": job, "tasks": wanted}):
            found[job, run.array_task_id].append(run)
    return found


def _by_sluid(connection: Connection, text: str) -> list[Candidate]:
    """Return the runs of which an execution is called so: the job itself, if it is tracked."""
    sluid = runids.sluid(text)
    found = _fetch(connection, "find_sluid", {"sluid": sluid}) if sluid else []
    return [one for one in found if one.kind == "batch"] or found


def _named(connection: Connection, text: str, limit: int | None) -> list[Candidate]:
    """Return the runs of a name, the newest first."""
    exact = text.translate({ord(special): f"\\{special}" for special in "\\%_"})
    for users in (my_names(connection), None):
        for pattern in (exact, exact + "%"):
            parameters = {"name": pattern, "users": users, "limit": limit}
            if found := _fetch(connection, "find_named", parameters):
                return found
    return []


def _fetch(connection: Connection, name: str, parameters: dict[str, Any]) -> list[Candidate]:
    with database.translated(), connection.cursor(row_factory=class_row(Candidate)) as cursor:
        return cursor.execute(statement(name), parameters).fetchall()
