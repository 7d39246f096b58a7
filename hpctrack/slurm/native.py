"""What Slurm says about jobs, by pyslurm: the backend for sites that have it.

pyslurm is asked in a process of its own (`answer`), which prints JSON. Slurm's library
ends the process that uses it where its configuration is missing, and holds Python's lock while it waits for
slurmctld: a collector could neither survive the one nor afford the other.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from hpctrack import errors
from hpctrack.model import JobFacts
from hpctrack.process import children
from hpctrack.run import states
from hpctrack.run.states import RunStatus, Stage
from hpctrack.slurm import accounting, command, units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_COMMON = (
    "id array_id array_task_id array_tasks_waiting heterogeneous_id heterogeneous_offset cluster state name "
    "requeue_count submit_time start_time end_time time_limit exit_code exit_code_signal user_name "
    "partition account qos"
).split()
#: Attributes of ``pyslurm.Job`` that matter.
LIVE = (
    *_COMMON,
    *"batch_host allocated_nodes state_reason".split(),
)
#: Attributes of ``pyslurm.db.Job``.
ACCOUNTED = (
    *_COMMON,
    *"nodelist elapsed_time derived_exit_code cancelled_by".split(),
)
#: Of its ``stats``: sums over the steps; of the memory the greatest of any task.
STATS = ("total_cpu_time", "resident_memory", "consumed_energy")
_PROBE_SECONDS = 10.0
_MIB = 1 << 20


class Native:
    """The backend by pyslurm, which must be of the site's Slurm release. See `accounting.Backend`.

    pyslurm knows of each job the newest row only; of jobs that were requeued, or have changed their size,
    sacct tells the others.
    """

    def __init__(
        self,
        commands: accounting.CommandLine,
        environ: Mapping[str, str],
        *,
        timeout: float = accounting.TIMEOUT,
    ) -> None:
        """``commands`` is asked for what pyslurm can't tell."""
        self._commands = commands
        self._environ = environ
        self._timeout = timeout

    def queue(self, users: Sequence[str] | None = None) -> list[JobFacts]:
        """See `accounting.Backend`."""
        facts = self._ask(["queue"])
        return [fact for fact in facts if _is_listed(fact) and (users is None or fact.slurm_user in users)]

    def ended(self, jobs: Sequence[str], since: datetime) -> list[JobFacts]:
        """See `accounting.Backend`: of an array task that is asked for, pyslurm loads the whole array.

        Where pyslurm fails, sacct may know why: that Slurm keeps no accounts, for example.
        """
        try:
            facts = self._on_record(list(dict.fromkeys(job.partition("_")[0] for job in jobs)), since)
        except errors.SlurmUnavailable:
            raise
        except errors.SlurmError:
            return self._commands.ended(jobs, since)
        again = list(dict.fromkeys(_name_of(fact) for fact in facts if _has_more_rows(fact)))
        if not again:
            return facts
        rows = self._commands.ended(again, since)
        return [fact for fact in facts if not _has_more_rows(fact)] + rows

    def _on_record(self, jobs: list[str], since: datetime) -> list[JobFacts]:
        begin = str(int(since.timestamp()))
        chunks = [jobs[start : start + accounting.CHUNK] for start in range(0, len(jobs), accounting.CHUNK)]
        return [fact for chunk in chunks for fact in self._ask(["ended", begin, ",".join(chunk)])]

    def _ask(self, question: list[str]) -> list[JobFacts]:
        now = datetime.now(timezone.utc)
        read = live_fact if question[0] == "queue" else accounted_fact
        return [read(job, now) for job in _answer(question, self._environ, self._timeout)["jobs"]]


def why_not(environ: Mapping[str, str]) -> str | None:
    """Return why pyslurm can't be used here; None if it imports and is of the release of Slurm's commands."""
    try:
        built_for = str(_answer(["probe"], environ, _PROBE_SECONDS)["version"])
        printed = command.run(["scontrol", "--version"], timeout=_PROBE_SECONDS, environ=environ).stdout
    except errors.SlurmError as error:
        return str(error)
    installed = printed.split()[-1] if printed.split() else "?"
    if built_for.split(".")[:2] != installed.split(".")[:2]:
        return f"pyslurm {built_for} is not for Slurm {installed}"
    return None


def _answer(question: list[str], environ: Mapping[str, str], timeout: float) -> dict[str, Any]:
    argv = children.argv("hpctrack.slurm.native:answer", *question)
    printed = command.run(argv, timeout=timeout, environ=children.environ(environ), name="pyslurm").stdout
    try:
        return dict(json.loads(printed))
    except (ValueError, TypeError) as error:
        raise errors.SlurmError(f"pyslurm printed what can't be read: {printed[:120]!r}") from error


# ---- Facts -------------------------------------------------------------------------------------------------


def live_fact(job: Mapping[str, Any], now: datetime) -> JobFacts:
    """Read `LIVE` of a job, as squeue's line of it is read: a forecast is no fact.

    Raises `errors.SlurmError` for what can't be read.
    """
    stage = _stage_of(job)
    nodes = _text(job, "allocated_nodes")
    ended = stage is Stage.ENDED
    return _fact(job, now)._replace(
        source="squeue",
        time_started=_time(job, "start_time") if stage >= Stage.RUNNING and nodes else None,
        time_ended=_time(job, "end_time") if ended else None,
        slurm_exit_code=job.get("exit_code") if ended else None,
        slurm_exit_signal=job.get("exit_code_signal") if ended else None,
        reason=_text(job, "state_reason"),
        node_list=nodes,
        batch_host=_text(job, "batch_host"),
    )


def accounted_fact(job: Mapping[str, Any], now: datetime) -> JobFacts:
    """Read `ACCOUNTED` of a job, with its ``stats``, ``requested`` and ``allocated``, as sacct's row is read.

    Raises `errors.SlurmError` for what can't be read.
    """
    nodes = _text(job, "nodelist")
    who = job.get("cancelled_by")
    return _fact(job, now)._replace(
        time_started=_time(job, "start_time") if nodes else None,
        reason=f"CANCELLED by {who}" if who and str(job["state"]).startswith("CANCELLED") else None,
        node_list=nodes,
        resources=_resources(job),
    )


def _fact(job: Mapping[str, Any], now: datetime) -> JobFacts:
    """What a job in the queue and one on record have in common."""
    try:
        limit = str(job.get("time_limit"))
        array, task, waiting = _array(job)
        het, offset = _component(job)
        return JobFacts(
            source="sacct",
            cluster=_text(job, "cluster"),
            job_id=int(job["id"]),
            raw=str(job["state"]),
            status=states.status_of(str(job["state"])),
            slurm_user=_text(job, "user_name"),
            array_job_id=array,
            array_task_id=task,
            het_job_id=het,
            het_offset=offset,
            attempt=int(job["requeue_count"]),
            time_submitted=_time(job, "submit_time"),
            time_ended=_time(job, "end_time"),
            slurm_exit_code=job.get("exit_code"),
            slurm_exit_signal=job.get("exit_code_signal"),
            partition=_text(job, "partition"),
            account=_text(job, "account"),
            qos=_text(job, "qos"),
            job_name=str(job.get("name") or ""),
            time_limit=units.minutes(limit),
            unlimited=units.is_unlimited(limit),
            array_tasks=waiting,
            time=now,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise errors.SlurmError(f"pyslurm told of a job what can't be read: {str(job)[:120]}") from error


def _array(job: Mapping[str, Any]) -> tuple[int | None, int | None, tuple[range, ...]]:
    """Return the array's id, and the task or those that wait together, as `units.array` reads them."""
    array, task = job.get("array_id") or None, job.get("array_task_id")
    waiting = _waiting(job.get("array_tasks_waiting") or "")
    if array and task is None and not waiting:
        task = 0  # which pyslurm takes for none
    return array, task, waiting


def _component(job: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the id of the heterogeneous job, and which of its components this is."""
    het = job.get("heterogeneous_id") or None
    return het, int(job.get("heterogeneous_offset") or 0) if het else None


def _is_listed(fact: JobFacts) -> bool:
    """Whether squeue would list it, as a job that goes on; slurmctld remembers others for a while."""
    return fact.status is RunStatus.REQUEUED or not accounting.has_ended(fact)


def _has_more_rows(fact: JobFacts) -> bool:
    """Whether the row may not be the job's only one.

    A job's newest row after a change of its size has one time as both submission and start: that of the
    change. So may the row of a job that started at once.
    """
    return bool(fact.attempt) or (fact.time_started is not None and fact.time_started == fact.time_submitted)


def _waiting(text: str) -> tuple[range, ...]:
    """Read a list of array tasks; accounting stores it as a mask."""
    if not text.startswith("0x"):
        return units.array_tasks(text)
    mask = int(text, 16)
    return tuple(range(task, task + 1) for task in range(mask.bit_length()) if mask >> task & 1)


def _stage_of(job: Mapping[str, Any]) -> Stage:
    status = states.status_of(str(job.get("state")))
    return status.stage if status else Stage.WAITING


def _name_of(fact: JobFacts) -> str:
    """A job as sacct knows it."""
    if fact.array_job_id is not None and fact.array_task_id is not None:
        return f"{fact.array_job_id}_{fact.array_task_id}"
    return str(fact.het_job_id or fact.job_id)


def _text(job: Mapping[str, Any], name: str) -> str | None:
    value = job.get(name)
    return units.text(str(value)) if value is not None else None


def _time(job: Mapping[str, Any], name: str) -> datetime | None:
    return units.time(str(job[name])) if job.get(name) else None


def _resources(job: Mapping[str, Any]) -> dict[str, object]:
    stats = job.get("stats") or {}
    told = {
        "max_rss_bytes": stats.get("resident_memory"),
        "req_tres": job.get("requested"),
        "alloc_tres": job.get("allocated"),
        "energy_j": stats.get("consumed_energy"),
        "derived_exit_code": job.get("derived_exit_code"),
    }
    known: dict[str, object] = {name: value for name, value in told.items() if value}  # 0 means unknown
    known["elapsed_s"] = job.get("elapsed_time") or 0
    if stats.get("total_cpu_time") is not None:
        known["cpu_s"] = stats["total_cpu_time"]
    return known


# ---- In a process of its own -------------------------------------------------------------------------------


def answer() -> None:
    """Print what pyslurm knows, as JSON. Arguments: ``probe``, ``queue``, or ``ended SINCE ID,ID...``."""
    out, sys.stdout = sys.stdout, sys.stderr  # pyslurm prints what it does not know
    try:
        told = _load(sys.argv[1:])
    except Exception as error:  # noqa: BLE001 (whatever it is, it is told in one line)
        sys.exit(f"pyslurm: {error}" if str(error) else f"pyslurm: {type(error).__name__}")
    json.dump(told, out)


def _load(argv: Sequence[str]) -> dict[str, object]:
    import pyslurm

    if argv[0] == "queue":
        jobs = [_attributes(job, LIVE) for job in pyslurm.Jobs.load().values()]
    elif argv[0] == "ended":
        wanted = pyslurm.db.JobFilter(start_time=int(argv[1]), ids=[int(word) for word in argv[2].split(",")])
        jobs = [_accounted(job) for job in pyslurm.db.Jobs.load(wanted).values()]
    else:
        jobs = []
    return {"version": pyslurm.__version__, "jobs": jobs}


def _accounted(job: Any) -> dict[str, object]:
    return {
        **_attributes(job, ACCOUNTED),
        "stats": _attributes(job.stats, STATS),
        "requested": dict(_counts(job.requested_tres)),
        "allocated": dict(_counts(job.allocated_tres)),
    }


def _attributes(thing: Any, names: Iterable[str]) -> dict[str, object]:
    """Return attributes; pyslurm raises for text that is not UTF-8."""
    values: dict[str, object] = {}
    for name in names:
        try:
            values[name] = getattr(thing, name)
        except UnicodeDecodeError as error:
            values[name] = bytes(error.object).decode("utf-8", "replace")
    return values


def _counts(tres: Any) -> Iterator[tuple[str, int]]:
    """Return trackable resources as sacct names them; memory in bytes."""
    if tres is None:
        return
    for name in ("cpu", "mem", "node", "energy", "billing"):
        resource = getattr(tres, name, None)
        if resource is not None:
            yield name, resource.count * (_MIB if name == "mem" else 1)
    for kind in (tres.gres, tres.fs, tres.license, tres.interconnect, tres.other):
        for resource in kind.values():
            yield resource.type_and_name, resource.count
