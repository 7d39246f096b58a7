"""Says which names in a question no run has, with the nearest name that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.cli.terminal import say
from hpctrack.run import fields
from hpctrack.store.read import unknown_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.store.database import Connection
    from hpctrack.store.read.queries import RunRow
    from hpctrack.view.columns import Column
    from hpctrack.view.question import Question


def note(
    connection: Connection,
    question: Question,
    runs: Sequence[RunRow],
    chosen: Sequence[Column] | None = None,
) -> None:
    """Say which names of a question no run has; ``runs`` are some that it was answered with."""
    shown = [fields.scoped(column.header) for column in chosen or ()]
    names = question.names(ref for ref in shown if ref is not None)
    for line in unknown_names.lines(connection, names, runs):
        say.note(line)


def note_experiment(connection: Connection, name: str | None) -> None:
    """Say that there is no such experiment, if it is so."""
    for line in unknown_names.of_experiment(connection, name):
        say.note(line)
