"""Names in questions that nothing has: said beside an answer that is empty for them, with the nearest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.cli.terminal import say
from hpctrack.run import conditions
from hpctrack.store.read import misspelt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hpctrack.cli.question import Question
    from hpctrack.cli.terminal.columns import Chosen
    from hpctrack.store.database import Connection
    from hpctrack.store.read.queries import RunRow


def note(
    connection: Connection,
    question: Question,
    runs: Sequence[RunRow],
    chosen: Sequence[Chosen] | None = None,
) -> None:
    """Say which names of a question no run has; ``runs`` are some that it was answered with."""
    fields = list(_fields(question, chosen))
    names = misspelt.Names(question.experiment, fields, question.users, question.partitions)
    for line in misspelt.lines(connection, names, runs):
        say.note(line)


def note_experiment(connection: Connection, name: str | None) -> None:
    """Say that there is no such experiment, if it is so."""
    for line in misspelt.of_experiment(connection, name):
        say.note(line)


def _fields(question: Question, chosen: Iterable[Chosen] | None) -> Iterator[conditions.Field]:
    yield from [] if question.where is None else conditions.fields(question.where)
    yield from [] if question.sort is None else [question.sort.field]
    yield from (conditions.field(one.header) for one in chosen or () if "." in one.header)
    yield from (conditions.Field("tags", name) for name, _ in question.tags)
