"""Names in questions that nothing has: said beside an answer that is empty for them, with the nearest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack import nearest, where
from hpctrack.cli import columns, say
from hpctrack.store import known_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hpctrack.cli.question import Question
    from hpctrack.store.database import Connection
    from hpctrack.store.queries import RunRow

_WORDS = {
    "metrics": "has a metric",
    "args": "has an argument",
    "tags": "has a tag",
    "user": "is of user",
    "partition": "is in partition",
}
_ATTRIBUTES = {"metrics": "last"}


def note(
    connection: Connection,
    question: Question,
    runs: Sequence[RunRow],
    chosen: Sequence[columns.Chosen] | None = None,
) -> None:
    """Say which names of a question no run has; ``runs`` are some that it was answered with."""
    if not runs:
        note_experiment(connection, question.experiment)
    asked = [field for field in dict.fromkeys(_fields(question, chosen)) if not _is_there(field, runs)]
    if not runs:
        asked += [where.Field("user", name) for name in question.users]
        asked += [where.Field("partition", name) for name in question.partitions]
    known = known_names.of_runs(connection) if asked else {}
    for scope, name in asked:
        names = known.get(scope, [])
        if known and name not in names and (scope != "args" or name.partition(".")[0] not in names):
            newest = f"of the newest {known_names.NEWEST:,} runs none"
            say.note(f"{newest} {_WORDS[scope]} {name!r}: {nearest.hint(name, names)}")


def note_experiment(connection: Connection, name: str | None) -> None:
    """Say that there is no such experiment, if it is so."""
    known = [] if name is None else known_names.experiments(connection)
    if name is not None and name not in known:
        say.note(f"no experiment {name!r}: {nearest.hint(name, known)}")


def _fields(question: Question, chosen: Iterable[columns.Chosen] | None) -> Iterator[where.Field]:
    found = [] if question.where is None else list(where.fields(question.where))
    found += [] if question.sort is None else [question.sort.field]
    found += [where.field(one.header) for one in chosen or () if "." in one.header]
    found += [where.Field("tags", name) for name, _ in question.tags]
    return (field for field in found if field.scope in where.SCOPES)


def _is_there(field: where.Field, runs: Iterable[RunRow]) -> bool:
    attribute = _ATTRIBUTES.get(field.scope, field.scope)
    return any(columns.element(getattr(run, attribute), field.name) is not None for run in runs)
