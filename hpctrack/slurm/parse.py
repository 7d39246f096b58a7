"""What squeue and sacct print, as facts. Pure text to records.

Both commands are asked for fields that each end with a delimiter. The delimiter holds a random part, so that
nothing a user can put into a job's name (newlines and control characters included) looks like the end of a
field: nobody forges a fact about another's job. Times are asked for as seconds since the epoch, and read as
local times where a command does not oblige. What can't be read whole raises `errors.SlurmError`: no facts.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.model import JobFacts
from hpctrack.run import runids, states
from hpctrack.run.states import RunStatus
from hpctrack.slurm import resizing, units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Fields of ``squeue -O``. Releases have had them since 20.11, SLUID since 25.11. One per attribute of
#: `_Queued`, in its order.
SQUEUE_FIELDS = (
    "JobID JobArrayID HetJobID HetJobOffset State RestartCnt SubmitTime StartTime EndTime exit_code UserName "
    "Partition Account QOS TimeLimit TimeUsed BatchHost NodeList Reason SLUID Name"
).split()
_SQUEUE_KNOWS_SLUIDS = (25, 11)
#: Fields of ``sacct -o``. Releases have had them since 20.11, Restarts and SLUID since 24.11, OriginalSLUID
#: since 26.05. One per attribute of `_Row`, in its order.
SACCT_FIELDS = (
    "JobID JobIDRaw Cluster State Submit Start End ExitCode DerivedExitCode User Partition Account QOS "
    "TimelimitRaw NodeList ElapsedRaw TotalCPU MaxRSS ReqTRES AllocTRES ConsumedEnergyRaw Restarts "
    "OriginalSLUID SLUID JobName"
).split()
#: Without these rows of sacct mean nothing.
_REQUIRED = frozenset("JobID JobIDRaw State Submit Start End User NodeList".split())

_NONE = timedelta()
_CANCELLED_BY = re.compile(r"CANCELLED by (\d+)\Z")


class _Queued(NamedTuple):
    """One line of squeue."""

    job_id: str
    array_id: str
    het_job_id: str
    het_offset: str
    state: str
    restarts: str
    submitted: str
    started: str
    ended: str
    exit_code: str
    user: str
    partition: str
    account: str
    qos: str
    time_limit: str
    time_used: str
    batch_host: str
    node_list: str
    reason: str
    sluid: str
    name: str


class _Row(NamedTuple):
    """One row of sacct; empty where the release has no such field."""

    job_id: str
    raw_id: str
    cluster: str
    state: str
    submitted: str
    started: str
    ended: str
    exit_code: str
    derived_exit_code: str
    user: str
    partition: str
    account: str
    qos: str
    time_limit: str
    node_list: str
    elapsed: str
    cpu: str
    max_rss: str
    req_tres: str
    alloc_tres: str
    energy: str
    restarts: str
    execution: str
    part: str
    """SLUIDs of the execution and of this row: the same, unless the job changed its size."""
    name: str


class _Step(NamedTuple):
    """What matters of the row of a step."""

    max_rss: int | None
    started: datetime | None


def squeue_fields(version: str) -> list[str]:
    """Choose the fields for ``squeue -O`` by what ``squeue --version`` prints: most releases list none."""
    match = re.match(r"\S+ (\d+)\.(\d+)", version)
    release = (int(match[1]), int(match[2])) if match else (0, 0)
    return [field for field in SQUEUE_FIELDS if field != "SLUID" or release >= _SQUEUE_KNOWS_SLUIDS]


def squeue_format(delimiter: str, fields: Sequence[str]) -> str:
    """Return the argument of ``squeue -O``."""
    return ",".join(f"{field}:{delimiter}" for field in fields)


def sacct_fields(helpformat: str) -> list[str]:
    """Choose the fields for ``sacct -o`` from what ``sacct --helpformat`` lists.

    Raises `errors.SlurmError` where one is missing without which nothing can be concluded.
    """
    offered = {field.lower() for field in helpformat.split()}
    chosen = [field for field in SACCT_FIELDS if field.lower() in offered]
    missing = _REQUIRED.difference(chosen)
    if missing:
        raise errors.SlurmError(f"sacct --helpformat: no field {', '.join(sorted(missing))}")
    return chosen


def squeue(
    text: str,
    delimiter: str,
    cluster: str | None,
    now: datetime,
    fields: Sequence[str] = SQUEUE_FIELDS,
    *,
    late: timedelta = _NONE,
) -> list[JobFacts]:
    """Read the output of ``squeue -h -O squeue_format(delimiter, fields)``, asked for at ``now``.

    ``late`` is how long squeue took to answer. One fact per line: the pending tasks of an array stay together
    (`JobFacts.array_tasks`). A pending job's start is a forecast, and so is a running job's end: neither is a
    fact.
    """
    times = units.Times()
    facts = []
    places = _places(SQUEUE_FIELDS, fields)
    for record in _records("squeue", text, delimiter, len(fields)):
        if len(record) != len(SQUEUE_FIELDS):
            line = _Queued._make([[*record, ""][place] for place in places])
        else:
            line = _Queued._make(record)
        try:
            facts.append(_queued(line, cluster, now, times, late))
        except ValueError:
            raise _unreadable("squeue", record) from None
    return facts


def _places(known: Sequence[str], fields: Sequence[str]) -> list[int]:
    """Return where each field stands in a record that has an empty word behind its end."""
    return [fields.index(field) if field in fields else len(fields) for field in known]


def _queued(
    line: _Queued, cluster: str | None, now: datetime, times: units.Times, late: timedelta
) -> JobFacts:
    status = states.status_of(line.state)
    stage = status.stage if status else states.Stage.WAITING
    ended = stage is states.Stage.ENDED
    array_job_id, array_task_id, array_tasks = units.array(line.array_id)
    exit_code, exit_signal = units.exit_status(line.exit_code) if ended else (None, None)
    node_list = units.text(line.node_list)
    return JobFacts(
        source="squeue",
        cluster=cluster,
        job_id=int(line.job_id),
        raw=line.state,
        status=status,
        slurm_user=units.text(line.user),
        array_job_id=array_job_id,
        array_task_id=array_task_id,
        het_job_id=units.number(line.het_job_id),
        het_offset=units.number(line.het_offset),
        attempt=int(line.restarts),
        time_submitted=times[line.submitted],
        # An ended job that never got a node has its end for a start.
        time_started=times[line.started] if stage >= states.Stage.RUNNING and node_list else None,
        time_ended=times[line.ended] if ended else None,
        slurm_exit_code=exit_code,
        slurm_exit_signal=exit_signal,
        reason=units.text(line.reason),
        node_list=node_list,
        batch_host=units.text(line.batch_host),
        partition=units.text(line.partition),
        account=units.text(line.account),
        qos=units.text(line.qos),
        job_name=line.name,
        time_limit=units.span(line.time_limit),
        unlimited=units.is_unlimited(line.time_limit),
        time_used=_time_used(line, status, late),
        array_tasks=array_tasks,
        time=now,
        sluid=None if array_tasks else runids.sluid(line.sluid),
    )


def _time_used(line: _Queued, status: RunStatus | None, late: timedelta) -> timedelta | None:
    """How long a job has run when squeue was asked, but for suspensions; it says how long when it prints."""
    used = units.seconds(line.time_used) if line.time_used else None
    if used is None or status not in (RunStatus.RUNNING, RunStatus.SUSPENDED):
        return None
    ran = timedelta(seconds=used)
    return ran if status is RunStatus.SUSPENDED else max(_NONE, ran - late)


def sacct(
    text: str,
    delimiter: str,
    fields: list[str],
    now: datetime,
    user_of: Callable[[int], str | None] = lambda _: None,
) -> list[JobFacts]:
    """Read the output of ``sacct -n -p -D -o fields``, printed at ``now``.

    One fact per execution of a job, in the order of the rows. Of the rows of steps come the greatest MaxRSS
    and, where Slurm has wiped the start of an execution that it requeued, its start. ``user_of`` names the
    user id of whoever cancelled a job.
    """
    times = units.Times()
    facts: list[JobFacts] = []
    steps: list[list[_Step]] = []
    newest: dict[str, int] = {}
    places = _places(SACCT_FIELDS, fields)
    raw_id, started, max_rss = (places[_Row._fields.index(name)] for name in ("raw_id", "started", "max_rss"))
    for record in _records("sacct", text, delimiter, len(fields)):
        record.append("")
        job, dot, _ = record[raw_id].partition(".")
        try:
            if not dot:
                row = _Row._make([record[place] for place in places])
                facts.append(_accounted(row, now, times, user_of))
                newest[job] = len(steps)
                steps.append([])
            elif job in newest:
                steps[newest[job]].append(_Step(units.peak(record[max_rss]), times[record[started]]))
        except ValueError:
            raise _unreadable("sacct", record) from None
    executions = [_with_steps(fact, rows) for fact, rows in zip(facts, steps, strict=True)]
    return resizing.join([fact for fact in executions if not _was_withdrawn(fact)])


def _was_withdrawn(fact: JobFacts) -> bool:
    """Whether Slurm took a start back: a heterogeneous job of which not all components could start.

    The row stays behind, waiting and with an end; neither was anything executed nor is it a restart.
    """
    return fact.status is RunStatus.PENDING and fact.time_ended is not None


def _accounted(
    row: _Row, now: datetime, times: units.Times, user_of: Callable[[int], str | None]
) -> JobFacts:
    array_job_id, array_task_id, array_tasks = units.array(row.job_id)
    het_job_id, plus, het_offset = row.job_id.partition("+")
    exit_code, exit_signal = units.exit_status(row.exit_code)
    node_list = units.text(row.node_list)
    return JobFacts(
        source="sacct",
        cluster=units.text(row.cluster),
        job_id=int(row.raw_id),
        raw=row.state,
        status=states.status_of(row.state),
        slurm_user=units.text(row.user),
        array_job_id=array_job_id,
        array_task_id=array_task_id,
        het_job_id=int(het_job_id) if plus else None,
        het_offset=int(het_offset) if plus else None,
        attempt=units.number(row.restarts),
        time_submitted=times[row.submitted],
        # A job that never got a node may have its end for a start.
        time_started=times[row.started] if node_list else None,
        time_ended=times[row.ended],
        slurm_exit_code=exit_code,
        slurm_exit_signal=exit_signal,
        reason=_cancelled_by(row.state, user_of),
        node_list=node_list,
        partition=units.text(row.partition),
        account=units.text(row.account),
        qos=units.text(row.qos),
        job_name=row.name,
        time_limit=units.minutes(row.time_limit),
        unlimited=units.is_unlimited(row.time_limit),
        resources=_resources(row),
        array_tasks=array_tasks,
        time=now,
        sluid=None if array_tasks else runids.sluid(row.execution) or runids.sluid(row.part),
    )


def _cancelled_by(state: str, user_of: Callable[[int], str | None]) -> str | None:
    match = _CANCELLED_BY.match(state)
    if match is None:
        return None
    name = user_of(int(match[1]))
    return f"CANCELLED by {name}" if name else state


def _resources(row: _Row) -> dict[str, object]:
    derived, _ = units.exit_status(row.derived_exit_code)
    told = {
        "elapsed_s": units.number(row.elapsed),
        "cpu_s": units.seconds(row.cpu),
        "max_rss_bytes": units.peak(row.max_rss),
        "req_tres": units.tres(row.req_tres) or None,
        "alloc_tres": units.tres(row.alloc_tres) or None,
        "energy_j": units.number(row.energy) or None,
        "derived_exit_code": derived or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _with_steps(fact: JobFacts, steps: list[_Step]) -> JobFacts:
    """Add what only the rows of an execution's steps say."""
    if not steps:
        return fact
    sizes = [step.max_rss for step in steps if step.max_rss is not None]
    starts = [step.started for step in steps if step.started is not None]
    resources = dict(fact.resources)
    if sizes:
        resources["max_rss_bytes"] = max(sizes)
    started = fact.time_started
    if started is None and starts:
        started = min(starts)
        if fact.time_ended:
            resources["elapsed_s"] = max(0, int((fact.time_ended - started).total_seconds()))
    return fact._replace(time_started=started, resources=resources)


def _records(program: str, text: str, delimiter: str, count: int) -> Iterator[list[str]]:
    """Split output in which each field ends with the delimiter and each record with a newline besides."""
    parts = _clean(text).split(delimiter)
    if len(parts) % count != 1 or not _is_heading(parts[-1]):
        raise _unreadable(program, parts[-count:])
    for position in range(0, len(parts) - 1, count):
        record = parts[position : position + count]
        before, newline, record[0] = record[0].rpartition("\n")
        if newline and not _is_heading(before):
            raise _unreadable(program, [before])
        yield record


def _is_heading(text: str) -> bool:
    """Whether what stands between records is nothing but the name of the cluster that they are of."""
    text = text.strip()
    return not text or text.startswith("CLUSTER:")


def _clean(text: str) -> str:
    """Replace bytes that are not UTF-8, which PostgreSQL would not take."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _unreadable(program: str, parts: list[str]) -> errors.SlurmError:
    line = " ".join(" ".join(part for part in parts if part).split())
    return errors.SlurmError(f"{program} printed what can't be read: {line[:120]!r}")
