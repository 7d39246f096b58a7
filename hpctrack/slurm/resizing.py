"""Jobs that change their size while they run: accounting has a row for each part of an execution. Pure."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from hpctrack.model import JobFacts
from hpctrack.run.states import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: How what the parts of an execution used, between which the job changed its size, makes what it used.
_OF_PARTS: dict[str, Callable[[list[Any]], object]] = {
    "cpu_s": sum,
    "energy_j": sum,
    "max_rss_bytes": max,
    "derived_exit_code": max,
}


def join(facts: list[JobFacts]) -> list[JobFacts]:
    """Join the rows of an execution in which the job changed its size: each but the last says RESIZING."""
    if all(fact.status is not RunStatus.RESIZING for fact in facts):
        return facts
    joined: list[JobFacts] = []
    parts: dict[int | None, list[JobFacts]] = defaultdict(list)
    for fact in sorted(facts, key=_submitted):
        own = parts[fact.job_id]
        if fact not in own:
            own.append(fact)
        if fact.status is not RunStatus.RESIZING or not fact.time_ended:
            joined.append(_joined(parts.pop(fact.job_id)))
    return joined + [_joined(own) for own in parts.values()]


def _submitted(fact: JobFacts) -> datetime:
    return fact.time_submitted or datetime.max.replace(tzinfo=timezone.utc)


def _joined(parts: list[JobFacts]) -> JobFacts:
    """Return one fact of the parts of an execution: Slurm hangs its steps on the first, or on several."""
    first, last = parts[0], parts[-1]
    if first is last:
        return last
    started = next((part.time_started for part in parts if part.time_started), None)
    submitted, sluid, resources = first.time_submitted, first.sluid, _used(parts)
    return last._replace(time_submitted=submitted, time_started=started, sluid=sluid, resources=resources)


def _used(parts: list[JobFacts]) -> dict[str, object]:
    """Return what the parts of an execution used together."""
    resources = dict(parts[-1].resources)
    resources["elapsed_s"] = _elapsed(parts)
    for name, reckon in _OF_PARTS.items():
        values = [part.resources[name] for part in parts if name in part.resources]
        if values:
            resources[name] = reckon(values)
    if not resources.get("cpu_s"):
        resources.pop("cpu_s", None)  # before 26.05 Slurm closes the steps without a measurement
    return resources


def _elapsed(parts: list[JobFacts]) -> int:
    """Sum up: the last part may have the start of the first, and with it all its time."""
    last = parts[-1]
    lasted = [part for part in parts[:-1] if part.time_started != last.time_started]
    return _sum(part.resources.get("elapsed_s") for part in (*lasted, last))


def _sum(numbers: Iterable[Any]) -> int:
    return sum(number for number in numbers if number is not None)
