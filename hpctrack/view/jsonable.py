"""The objects that ``--json`` prints. Pure. Their keys are documented in docs/json.md, and stay."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from hpctrack.run import fields
from hpctrack.run.states import RunStatus
from hpctrack.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hpctrack.model import Attempt, Transition
    from hpctrack.run.efficiency import Resources
    from hpctrack.store.read.queries import RunRow, Usage
    from hpctrack.view.question import Answer
    from hpctrack.view.story import Story


def to_json(value: object) -> str:
    """Return JSON text, which commands no terminal; nan and infinities, unknown to JSON, as strings."""
    return visible.in_json(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: object) -> Any:
    """Return a value that JSON can hold: times in ISO 8601 in UTC, lengths of time in seconds."""
    convert = _CONVERSIONS.get(type(value))
    if convert is None:  # a subclass, or what JSON has no form for
        convert = next((way for kind, way in _CONVERSIONS.items() if isinstance(value, kind)), str)
    return convert(value)


def _same(value: Any) -> Any:
    return value


def _listed(values: Iterable[Any]) -> list[Any]:
    return [plain(value) for value in values]


_CONVERSIONS: dict[type, Callable[[Any], Any]] = {
    str: _same,
    bool: _same,
    int: _same,
    type(None): _same,
    float: lambda value: value if math.isfinite(value) else str(value),
    datetime: lambda value: value.astimezone(timezone.utc).isoformat(),
    timedelta: timedelta.total_seconds,
    RunStatus: lambda value: value.value,
    dict: lambda value: {str(key): plain(item) for key, item in value.items()},
    list: _listed,
    tuple: _listed,
}


def of_record(record: Any, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """Return a frozen record as an object, its fields the keys."""
    if isinstance(record, tuple):
        names = type(record)._fields  # type: ignore[attr-defined]  # a NamedTuple
    else:
        names = [field.name for field in dataclasses.fields(record)]
    return {name: getattr(record, name) for name in names if name not in leave_out}


_IN_LISTS = [field for field in fields.FIELDS if field.json is not None and not field.whole]
_IN_WHOLE = [field for field in fields.FIELDS if field.json is not None and field.whole]


def of_run(run: RunRow, now: datetime) -> dict[str, Any]:
    """Return a run as lists have it."""
    return {str(field.json): field.read(run, now) for field in _IN_LISTS}


def of_answer(answer: Answer) -> dict[str, Any]:
    """Return what ``hpctrack status`` answers."""
    return {
        "time": answer.now,
        "runs": [{**of_run(run, answer.now), "summaries": _of_summaries(run)} for run in answer.runs],
        "next": answer.next_page,
        "counts": {status.value: count for status, count in answer.page.counts.items()},
        "counted": answer.page.counted,
        "clusters": [of_record(cluster) for cluster in answer.clusters],
    }


def _of_summaries(run: RunRow) -> dict[str, Any]:
    """Return the statistics of the metrics that were asked for."""
    return {name: of_record(summary, leave_out=("run_id", "name")) for name, summary in run.summaries.items()}


def of_story(story: Story) -> dict[str, Any]:
    """Return a run in full."""
    return {
        **of_run(story.run, story.now),
        **{str(field.json): field.read(story.run, story.now) for field in _IN_WHOLE},
        "submission": story.submission and of_record(story.submission, leave_out=("env",)),
        "transitions": _listed_as(_of_change, story.transitions),
        "attempts": _listed_as(_of_change, story.attempts),
        "usage": _listed_as(_of_usage, story.usage),
        "resources": _listed_as(_of_resources, story.resources),
        "hints": story.hints(),
        "losses": {**story.losses._asdict(), "reasons": dict(story.losses.reasons)},
        "links": [f"r{row.from_id} {row.kind} r{row.to_id}" for row in story.relatives],
        "metrics": [of_record(curve, leave_out=("buckets",)) for curve in story.curves],
        "series": _listed_as(of_record, story.series),
        "env": story.environment(),
    }


def _listed_as(convert: Callable[[Any], dict[str, Any]], rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [convert(row) for row in rows]


def _of_change(row: Transition | Attempt) -> dict[str, Any]:
    others = of_record(row, leave_out=("run_id", "attempt", "status"))
    return {"restarts": row.attempt, "state": row.status, **others}


def _of_usage(row: Usage) -> dict[str, Any]:
    return {"restarts": row.attempt, **of_record(row, leave_out=("attempt", "totals")), **row.totals}


def _of_resources(row: Resources) -> dict[str, Any]:
    shares = {"cpu_efficiency": row.cpu, "memory_efficiency": row.memory, "time_efficiency": row.time}
    return {"restarts": row.attempt, **of_record(row, leave_out=("run_id", "attempt")), **shares}
