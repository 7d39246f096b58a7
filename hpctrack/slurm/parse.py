"""What squeue and sacct print, as facts. Pure text to records.

Both commands are asked for fields that each end with a delimiter. The delimiter holds a random part, so that
nothing a user can put into a job's name (newlines and control characters included) looks like the end of a
field: nobody forges a fact about another's job. Times are asked for as seconds since the epoch, and read as
local times where a command does not oblige. What can't be read whole raises `errors.SlurmError`: no facts.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.model import JobFacts, RunStatus
from hpctrack.slurm import states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Fields of ``squeue -O``; all exist from Slurm 20.11 on. One field per attribute of `_Queued`, in its order.
SQUEUE_FIELDS = (
    "JobID JobArrayID HetJobID HetJobOffset State RestartCnt SubmitTime StartTime EndTime exit_code UserName "
    "Partition Account QOS TimeLimit BatchHost NodeList Reason Name"
).split()
#: Fields of ``sacct -o`` that every release has had since 20.11.
SACCT_FIELDS = (
    "JobID JobIDRaw Cluster State Submit Start End ExitCode DerivedExitCode User Partition Account QOS "
    "TimelimitRaw NodeList ElapsedRaw TotalCPU MaxRSS ReqTRES AllocTRES ConsumedEnergyRaw JobName"
).split()
#: Without these rows of sacct mean nothing.
_REQUIRED = frozenset("JobID JobIDRaw State Submit Start End User NodeList".split())

_NONE = frozenset(
    ("", "N/A", "n/a", "None", "NONE", "Unknown", "None assigned", "(null)", "INVALID", "NOT_SET")
)
_ARRAY = re.compile(r"(\d+)_(?:(\d+)|\[([^\]]*)\]?)\Z")
_ITEM = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?\Z")
_SIZE = re.compile(r"(\d+(?:\.\d*)?)([KMGTPE]?)[cn]?\Z", re.IGNORECASE)
_SCALE = {unit: 1 << 10 * power for power, unit in enumerate(("", "K", "M", "G", "T", "P", "E"))}
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
    batch_host: str
    node_list: str
    reason: str
    name: str


class _Step(NamedTuple):
    """What matters of the row of a step."""

    max_rss: int | None
    started: datetime | None


def squeue_format(delimiter: str) -> str:
    """Return the argument of ``squeue -O``."""
    return ",".join(f"{field}:{delimiter}" for field in SQUEUE_FIELDS)


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


def squeue(text: str, delimiter: str, cluster: str | None, now: datetime) -> list[JobFacts]:
    """Read the output of ``squeue -h -O squeue_format(delimiter)``, printed at ``now`` by ``cluster``.

    One fact per line: the pending tasks of an array stay together (`JobFacts.array_tasks`). A pending job's
    start is a forecast, and so is a running job's end: neither is a fact.
    """
    times = _Times()
    facts = []
    for record in _records("squeue", text, delimiter, len(SQUEUE_FIELDS)):
        line = _Queued._make(record)
        try:
            facts.append(_queued(line, cluster, now, times))
        except ValueError:
            raise _unreadable("squeue", record) from None
    return facts


def _queued(line: _Queued, cluster: str | None, now: datetime, times: _Times) -> JobFacts:
    status = states.status_of(line.state)
    stage = states.stage_of(status) if status else states.Stage.WAITING
    ended = stage is states.Stage.ENDED
    array_job_id, array_task_id, array_tasks = _array(line.array_id)
    exit_code, exit_signal = _exit(line.exit_code) if ended else (None, None)
    node_list = _text(line.node_list)
    return JobFacts(
        source="squeue",
        cluster=cluster,
        job_id=int(line.job_id),
        raw_state=line.state,
        status=status,
        user_name=_text(line.user),
        array_job_id=array_job_id,
        array_task_id=array_task_id,
        het_job_id=_number(line.het_job_id),
        het_offset=_number(line.het_offset),
        attempt=int(line.restarts),
        time_submitted=times[line.submitted],
        # An ended job that never got a node has its end for a start.
        time_started=times[line.started] if stage >= states.Stage.RUNNING and node_list else None,
        time_ended=times[line.ended] if ended else None,
        exit_code=exit_code,
        exit_signal=exit_signal,
        reason=_text(line.reason),
        node_list=node_list,
        batch_host=_text(line.batch_host),
        partition=_text(line.partition),
        account=_text(line.account),
        qos=_text(line.qos),
        job_name=line.name,
        time_limit=_clock(line.time_limit),
        array_tasks=array_tasks,
        time=now,
    )


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
    times = _Times()
    facts: list[JobFacts] = []
    steps: list[list[_Step]] = []
    newest: dict[str, int] = {}
    for record in _records("sacct", text, delimiter, len(fields)):
        row = dict(zip(fields, record, strict=True))
        job, dot, _ = row["JobIDRaw"].partition(".")
        try:
            if not dot:
                facts.append(_accounted(row, now, times, user_of))
                newest[job] = len(steps)
                steps.append([])
            elif job in newest:
                steps[newest[job]].append(_Step(size(row.get("MaxRSS", "")), times[row["Start"]]))
        except ValueError:
            raise _unreadable("sacct", record) from None
    told = [_with_steps(fact, rows) for fact, rows in zip(facts, steps, strict=True)]
    return _unresized([fact for fact in told if not _was_withdrawn(fact)])


def _was_withdrawn(fact: JobFacts) -> bool:
    """Whether Slurm took a start back: a heterogeneous job of which not all components could start.

    The row stays behind, waiting and with an end; neither was anything executed nor is it a restart.
    """
    return fact.status is RunStatus.PENDING and fact.time_ended is not None


def _accounted(
    row: Mapping[str, str], now: datetime, times: _Times, user_of: Callable[[int], str | None]
) -> JobFacts:
    array_job_id, array_task_id, array_tasks = _array(row["JobID"])
    het_job_id, plus, het_offset = row["JobID"].partition("+")
    exit_code, exit_signal = _exit(row.get("ExitCode", ""))
    node_list = _text(row["NodeList"])
    raw_state = row["State"]
    return JobFacts(
        source="sacct",
        cluster=_text(row.get("Cluster", "")),
        job_id=int(row["JobIDRaw"]),
        raw_state=raw_state,
        status=states.status_of(raw_state),
        user_name=_text(row["User"]),
        array_job_id=array_job_id,
        array_task_id=array_task_id,
        het_job_id=int(het_job_id) if plus else None,
        het_offset=int(het_offset) if plus else None,
        time_submitted=times[row["Submit"]],
        time_started=times[row["Start"]] if node_list else None,
        time_ended=times[row["End"]],
        exit_code=exit_code,
        exit_signal=exit_signal,
        reason=_cancelled_by(raw_state, user_of),
        node_list=node_list,
        partition=_text(row.get("Partition", "")),
        account=_text(row.get("Account", "")),
        qos=_text(row.get("QOS", "")),
        job_name=row.get("JobName"),
        time_limit=_minutes(row.get("TimelimitRaw", "")),
        resources=_resources(row),
        array_tasks=array_tasks,
        time=now,
    )


def _cancelled_by(raw_state: str, user_of: Callable[[int], str | None]) -> str | None:
    found = _CANCELLED_BY.match(raw_state)
    if not found:
        return None
    name = user_of(int(found[1]))
    return f"CANCELLED by {name}" if name else raw_state


def _resources(row: Mapping[str, str]) -> dict[str, object]:
    derived, _ = _exit(row.get("DerivedExitCode", ""))
    found = {
        "elapsed_s": _number(row.get("ElapsedRaw", "")),
        "cpu_s": clock_seconds(row.get("TotalCPU", "")),
        "max_rss_bytes": size(row.get("MaxRSS", "")),
        "req_tres": tres(row.get("ReqTRES", "")) or None,
        "alloc_tres": tres(row.get("AllocTRES", "")) or None,
        "energy_j": _number(row.get("ConsumedEnergyRaw", "")) or None,
        "derived_exit_code": derived or None,
    }
    return {name: value for name, value in found.items() if value is not None}


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


def _unresized(facts: list[JobFacts]) -> list[JobFacts]:
    """Join the rows of an execution in which the job changed its size: each but the last says RESIZING."""
    if all(fact.status is not RunStatus.RESIZING for fact in facts):
        return facts
    joined: list[JobFacts] = []
    first: dict[int, JobFacts] = {}
    for fact in sorted(
        facts, key=lambda fact: fact.time_submitted or datetime.max.replace(tzinfo=timezone.utc)
    ):
        start = first.get(fact.job_id)
        if fact.status is RunStatus.RESIZING and fact.time_ended:
            first.setdefault(fact.job_id, fact)
        elif start:
            del first[fact.job_id]
            joined.append(fact._replace(time_submitted=start.time_submitted, time_started=start.time_started))
        else:
            joined.append(fact)
    return joined + list(first.values())


def _records(program: str, text: str, delimiter: str, count: int) -> Iterator[list[str]]:
    """Split output in which each field ends with the delimiter and each record with a newline besides."""
    parts = _clean(text).split(delimiter)
    if len(parts) % count != 1 or parts[-1].strip():
        raise _unreadable(program, parts[-count:])
    for position in range(0, len(parts) - 1, count):
        record = parts[position : position + count]
        before, newline, record[0] = record[0].rpartition("\n")
        if newline and before.strip() and not before.strip().startswith("CLUSTER:"):
            raise _unreadable(program, [before])
        yield record


def _clean(text: str) -> str:
    """Replace bytes that are not UTF-8, which PostgreSQL would not take."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _unreadable(program: str, parts: list[str]) -> errors.SlurmError:
    line = " ".join(" ".join(part for part in parts if part).split())
    return errors.SlurmError(f"{program} printed what can't be read: {line[:120]!r}")


def _text(text: str) -> str | None:
    return None if text in _NONE else text


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


class _Times(dict[str, "datetime | None"]):
    """Times by their text, each read once. Raises ValueError for what is no time."""

    def __missing__(self, text: str) -> datetime | None:
        self[text] = found = time(text)
        return found


def time(text: str) -> datetime | None:
    """Read a time: seconds since the epoch, or local without a zone; None for ``Unknown`` and the like."""
    if text in _NONE:
        return None
    if text.isdecimal():
        return datetime.fromtimestamp(int(text), timezone.utc)
    return datetime.fromisoformat(text).astimezone(timezone.utc)


def _clock(text: str) -> timedelta | None:
    """Read a time limit, ``[days-][[hours:]minutes:]seconds``; None for ``UNLIMITED`` and the like."""
    seconds = clock_seconds(text)
    return None if seconds is None else timedelta(seconds=seconds)


def _minutes(text: str) -> timedelta | None:
    return timedelta(minutes=int(text)) if text.isdecimal() else None


def clock_seconds(text: str) -> float | None:
    """Read a span of time, ``[[days-]hours:]minutes:seconds[.fraction]``."""
    days, dash, clock = text.rpartition("-")
    seconds = 0.0
    try:
        for part in clock.split(":"):
            seconds = seconds * 60 + float(part)
        return seconds + 86400 * int(days) if dash else seconds
    except ValueError:
        return None


def size(text: str) -> int | None:
    """Read a size such as ``216K``, ``1.5G`` or ``4000Mc`` in bytes; a count without unit stays as it is."""
    found = _SIZE.match(text)
    return int(float(found[1]) * _SCALE[found[2].upper()]) if found else None


def tres(text: str) -> dict[str, int]:
    """Read trackable resources, ``cpu=2,mem=500M,gres/gpu=1``: counts, and memory in bytes."""
    pairs = (item.partition("=") for item in text.split(","))
    return {name: found for name, _, value in pairs if (found := size(value)) is not None}


def _exit(text: str) -> tuple[int | None, int | None]:
    """Read ``code:signal``, or a wait status as squeue prints it before Slurm 23.11."""
    code, colon, number = text.partition(":")
    if not code.isdecimal():
        return None, None
    if colon:
        return int(code), int(number) if number.isdecimal() else None
    status = int(code)
    return (0, status & 0x7F) if status & 0x7F else (status >> 8, 0)


def _array(text: str) -> tuple[int | None, int | None, tuple[range, ...]]:
    """Read ``12_3``, ``12_[1-5,7%2]`` or a plain id: array's id, task, or the tasks that stand together."""
    found = _ARRAY.match(text)
    if not found:
        return None, None, ()
    if found[2]:
        return int(found[1]), int(found[2]), ()
    return int(found[1]), None, array_tasks(found[3])


def array_tasks(text: str) -> tuple[range, ...]:
    """Read a list of array tasks, ``0-15:4,20%2``. What Slurm cut off (``...``) is left out."""
    items = text.partition("%")[0].split(",")
    found = (_ITEM.match(item) for item in items)
    return tuple(range(int(f[1]), int(f[2] or f[1]) + 1, int(f[3] or 1)) for f in found if f)
