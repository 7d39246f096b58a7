"""Messages of the node side, stored: usage, events, arguments, tags, losses. Nothing in them is trusted."""

from __future__ import annotations

import json
import math
import re
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack.store import values
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hpctrack import model
    from hpctrack.store.database import Connection

_JOURNAL = re.compile(r"[0-9a-f]{16}")
_INT32, _INT64 = 1 << 31, 1 << 63
_LAST_TIME = 2.5e11
"""Seconds since the epoch: the year 9892."""
#: Of how many journals of a run, and how many lines of each, the relay may report losses.
_MAX_JOURNALS = 4096
_MAX_LOST = 1 << 48
_MAX_NODE = 255
_MAX_GPU = 64 << 10  # characters of JSON
#: Statements that change a run's arguments and tags.
_MERGES = {"args": "merge_args", "tags": "merge_tags"}
#: Events of a run that are kept, and characters of an event's name.
_MAX_EVENTS = 1000
_MAX_EVENT = 400
#: Whom a signal was meant for (`hpctrack.stream.node.signals.Reach`).
_REACHES = {
    "container": "sent to every process of the job",
    "group": "sent to the script's process group",
    "process": "sent to the batch script alone",
}


class Parsed(NamedTuple):
    """A message whose text is a JSON object."""

    run_id: int
    attempt: int
    kind: str
    body: Mapping[str, Any]


def parse(run_id: int, attempt: int, message: model.NodeMessage) -> Parsed | None:
    """Read a message; None if it is not a JSON object."""
    try:
        body = json.loads(message.text)
    except (ValueError, RecursionError):
        return None
    return Parsed(run_id, attempt, message.kind, body) if isinstance(body, dict) else None


class Stored(NamedTuple):
    """What `store` did."""

    malformed: int
    """Messages of which something could not be used."""
    lossy: set[int]
    """Runs of which a loss was reported."""


def store(connection: Connection, messages: Iterable[Parsed]) -> Stored:
    """Store what messages say about usage, events, arguments, tags and losses; other kinds are left alone.

    Rows of ``runs`` are changed in the order of their ids. Raises what psycopg raises.
    """
    found = sorted(messages, key=lambda message: message.run_id)
    samples = [_usage(message) for message in found if message.kind == "usage"]
    events = [_event(message) for message in found if message.kind == "event"]
    known = [sample for sample in samples if sample is not None]
    happened = [event for event in events if event is not None]
    lost = [loss for message in found if message.kind == "fin" for loss in _losses(message)]
    with connection.cursor() as cursor:
        if known:
            cursor.executemany(statement("insert_usage"), known)
        if happened:
            cursor.executemany(statement("insert_event"), _that_fit(connection, happened))
        for (run_id, kind), said in _merged(found).items():
            cursor.execute(statement(_MERGES[kind]), {"run_id": run_id, "value": values.to_json(said)})
        if lost:
            cursor.executemany(statement("update_stream_lost"), lost)
    malformed = len(samples) - len(known) + len(events) - len(happened)
    return Stored(malformed, {int(loss["run_id"]) for loss in lost})


def _that_fit(connection: Connection, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events for which their runs' timelines have room; those there are counted once."""
    room = {event["run_id"]: _MAX_EVENTS for event in events}
    found = connection.execute(statement("count_events"), {"runs": sorted(room)}).fetchall()
    for run_id, count in found:
        room[int(str(run_id))] -= int(str(count))
    fitting = []
    for event in events:
        room[event["run_id"]] -= 1
        if room[event["run_id"]] >= 0:
            fitting.append(event)
    return fitting


def _merged(found: Iterable[Parsed]) -> dict[tuple[int, str], dict[str, Any]]:
    """Return arguments and tags by run and kind, the later before the earlier: a row is changed once."""
    merged: dict[tuple[int, str], dict[str, Any]] = {}
    for message in found:
        if message.kind in _MERGES and message.body:
            merged.setdefault((message.run_id, message.kind), {}).update(message.body)
    return merged


def _usage(message: Parsed) -> dict[str, Any] | None:
    body = message.body
    time, node = _time(body), body.get("node")
    if time is None or not isinstance(node, str):
        return None
    gpu = body.get("gpu")
    return {
        "run_id": message.run_id,
        "attempt": message.attempt,
        "node": values.to_text(node)[:_MAX_NODE],
        "time": time,
        "cpu_s": _number(body.get("cpu_s")),
        "processes": _integer(body.get("processes"), _INT32),
        "gpu": None if gpu is None or len(text := values.to_json(gpu)) > _MAX_GPU else text,
        **{
            name: _integer(body.get(name), _INT64)
            for name in ("memory_bytes", "memory_peak_bytes", "read_bytes", "write_bytes")
        },
    }


def _event(message: Parsed) -> dict[str, Any] | None:
    """Return what happened on the node: a signal by its name, anything else in the node's words."""
    body = message.body
    time, name, reach = _time(body), body.get("name"), body.get("reach")
    if time is None or not isinstance(name, str) or not name:
        return None
    number = _integer(body.get("signal"), _INT32)
    return {
        "run_id": message.run_id,
        "attempt": message.attempt,
        "time": time,
        "reason": _REACHES.get(reach) if isinstance(reach, str) else None,
        "raw": values.to_text(name)[:_MAX_EVENT] if number is None else _signal_name(number),
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _losses(message: Parsed) -> list[dict[str, Any]]:
    lost = message.body.get("lost")
    if not isinstance(lost, dict):
        return []
    counted = {
        journal: count
        for journal, given in sorted(lost.items())[:_MAX_JOURNALS]
        if _JOURNAL.fullmatch(journal) and (count := _integer(given, _MAX_LOST))
    }
    return [
        {"run_id": message.run_id, "journal": journal, "attempt": message.attempt, "lost": count}
        for journal, count in counted.items()
    ]


def _time(body: Mapping[str, Any]) -> float | None:
    """Return when it was, in seconds since the epoch; None where the node says no time that can be stored."""
    time = _number(body.get("time"))
    return time if time is not None and 0 <= time <= _LAST_TIME else None


def _number(value: object) -> float | None:
    """Return a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _integer(value: object, limit: int) -> int | None:
    """Return a count below the limit; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < limit else None
