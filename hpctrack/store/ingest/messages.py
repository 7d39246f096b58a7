"""Messages of nodes, stored: usage, events, arguments, tags, goals, losses.

`store` takes checked records (`hpctrack.stream.wire.messages`), inside the caller's transaction. What they
say about status is the reconciler's: of a ``fin`` only the losses are stored here.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql

from hpctrack.run import words
from hpctrack.store import values
from hpctrack.store.statements import composable, statement
from hpctrack.stream.wire.messages import FIGURES, Args, Event, Figure, Fin, Goal, Tags, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hpctrack.store.database import Connection
    from hpctrack.stream.wire.messages import RunMessage

_MAX_JSON = 64 << 10  # characters of a figure that is JSON
#: Statements that change a run's arguments and tags.
_MERGES: dict[type[Args | Tags], str] = {Args: "merge_args", Tags: "merge_tags"}
#: Events of a run that are kept.
_MAX_EVENTS = 1000
#: Characters of what a timeline says of goals that were not taken.
_MAX_REFUSAL = 400
#: Whom a signal was meant for (`hpctrack.stream.node.signals.Reach`).
_REACHES = {
    "container": "sent to every process of the job",
    "group": "sent to the script's process group",
    "process": "sent to the batch script alone",
}


def store(connection: Connection, given: Iterable[RunMessage]) -> set[int]:
    """Store messages; return the runs of which a loss was reported.

    Rows of ``runs`` are changed in the order of their ids. Raises what psycopg raises.
    """
    messages = sorted(given, key=lambda message: message.run_id)
    _execute(connection, _insert_usage(FIGURES), _samples(messages))
    _execute(connection, statement("insert_event"), _that_fit(connection, list(_events(messages))))
    for (run_id, merge), merged in _merged(messages).items():
        connection.execute(statement(merge), {"run_id": run_id, "value": values.to_json(merged)})
    for said in _goals(messages):
        _merge_goals(connection, said)
    lost = list(_losses(messages))
    _execute(connection, statement("update_stream_lost"), lost)
    return {loss["run_id"] for loss in lost}


def _execute(connection: Connection, query: bytes | sql.Composed, rows: Iterable[dict[str, Any]]) -> None:
    rows = list(rows)
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(query, rows)


@functools.cache
def _insert_usage(figures: tuple[Figure, ...]) -> sql.Composed:
    cast = sql.SQL(", {}::{}")
    return composable("insert_usage").format(
        columns=sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(figure.name)) for figure in figures),
        values=sql.SQL("").join(
            cast.format(sql.Placeholder(figure.name), sql.Identifier(figure.type)) for figure in figures
        ),
    )


def _samples(messages: Iterable[RunMessage]) -> Iterator[dict[str, Any]]:
    for run_id, attempt, message in messages:
        if isinstance(message, Usage):
            yield {
                "run_id": run_id,
                "attempt": attempt,
                "node": message.node,
                "time": message.time,
                **{figure.name: _stored(figure, message.figures.get(figure.name)) for figure in FIGURES},
            }


def _stored(figure: Figure, value: Any) -> Any:
    """Return a figure as PostgreSQL takes it; JSON that is too long is left out."""
    if figure.type != "jsonb" or value is None:
        return value
    text = values.to_json(value)
    return text if len(text) <= _MAX_JSON else None


def _events(messages: Iterable[RunMessage]) -> Iterator[dict[str, Any]]:
    """Yield what happened on nodes: a signal by its name, anything else in the node's words."""
    for run_id, attempt, message in messages:
        if isinstance(message, Event):
            yield {
                "run_id": run_id,
                "attempt": attempt,
                "time": message.time,
                "reason": _REACHES.get(message.reach or ""),
                "raw": message.name if message.signal is None else words.exit_text(None, message.signal),
            }


def _that_fit(connection: Connection, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events for which their runs' timelines have room; those there are counted once."""
    if not events:
        return []
    room = {event["run_id"]: _MAX_EVENTS for event in events}
    counts = connection.execute(statement("count_events"), {"runs": sorted(room)}).fetchall()
    for run_id, count in counts:
        room[int(str(run_id))] -= int(str(count))
    fitting = []
    for event in events:
        room[event["run_id"]] -= 1
        if room[event["run_id"]] >= 0:
            fitting.append(event)
    return fitting


def _merged(messages: Iterable[RunMessage]) -> dict[tuple[int, str], dict[str, Any]]:
    """Return arguments and tags by run and statement, the later over the earlier: a row is changed once."""
    merged: dict[tuple[int, str], dict[str, Any]] = {}
    for run_id, _, message in messages:
        if isinstance(message, (Args, Tags)) and message.values:
            merged.setdefault((run_id, _MERGES[type(message)]), {}).update(message.values)
    return merged


class _Goals(NamedTuple):
    """What a run says of its experiment's metrics."""

    run_id: int
    attempt: int
    values: Mapping[str, str]


def _goals(messages: Iterable[RunMessage]) -> Iterable[_Goals]:
    """Return what is said of goals, in one for each run."""
    said: dict[int, _Goals] = {}
    for run_id, attempt, message in messages:
        if isinstance(message, Goal):
            before = said[run_id].values if run_id in said else {}
            said[run_id] = _Goals(run_id, attempt, {**before, **message.values})
    return said.values()


def _merge_goals(connection: Connection, said: _Goals) -> None:
    """Merge goals into those of the run's experiment if the run's owner may; its timeline says if not.

    Raises psycopg's LockNotAvailable while somebody holds the experiment.
    """
    value = values.to_json(said.values)
    [(experiment, name, owner, is_taken, is_known)] = connection.execute(
        statement("find_goals"), {"run_id": said.run_id, "value": value}
    ).fetchall()
    if not is_taken:
        why = f"experiment {name!r} belongs to {owner}"
        if name == "default":
            why = "name an experiment of your own (-E)"
        raw = f"goals not taken: {', '.join(said.values)}: {why}"[:_MAX_REFUSAL]
        refusal = {"run_id": said.run_id, "attempt": said.attempt, "raw": raw}
        connection.execute(statement("note_refusal"), refusal)
    elif not is_known:
        connection.execute(statement("lock_experiment"), {"id": experiment})
        connection.execute(statement("merge_goals"), {"id": experiment, "value": value})


def _losses(messages: Iterable[RunMessage]) -> Iterator[dict[str, Any]]:
    for run_id, attempt, message in messages:
        if isinstance(message, Fin):
            for journal, count in (message.lost or {}).items():
                yield {"run_id": run_id, "journal": journal, "attempt": attempt, "lost": count}
