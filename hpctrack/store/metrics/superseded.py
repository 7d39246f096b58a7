"""Which rows stand: those that a later attempt went back before are superseded.

A job that was requeued resumes where it last saved something, at a step that it had been at before. What the
attempt before logged from there on was given up, also where the later one ends earlier. The table keeps all
rows; readers leave those out. Rows without a step always stand: nobody can say that they were given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from hpctrack.store import rows
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hpctrack.store.database import Connection

#: From so many on, PostgreSQL looks them up in a list in place of a condition for each.
_MANY = 20


class Resumption(NamedTuple):
    """An attempt that did not begin at the beginning, as far as its rows say."""

    run_id: int
    attempt: int
    first_step: int
    """The least positive step that it brought."""


def standing(
    connection: Connection, runs: Sequence[int], series: str | None = None, *, every_attempt: bool = False
) -> sql.Composable:
    """Return the condition on rows ``m`` of metrics, or of a series, that stand.

    With ``every_attempt`` all do.
    """
    if every_attempt:
        return sql.SQL("true")
    return condition(_telling(_resumptions(connection, runs, series)))


def _resumptions(connection: Connection, runs: Sequence[int], series: str | None) -> list[Resumption]:
    if series is None:
        return rows.records(connection, "fetch_resumptions", Resumption, ids=list(runs))
    return rows.records(connection, "fetch_resumptions_in_series", Resumption, ids=list(runs), series=series)


def is_resumed(connection: Connection, run_id: int) -> bool:
    """Return whether an attempt of a run may have superseded rows."""
    return bool(rows.tuples(connection, "fetch_resumptions", ids=[run_id]))


def condition(resumptions: Sequence[Resumption]) -> sql.Composable:
    """Return the condition on rows ``m`` that none of these supersedes."""
    if not resumptions:
        return sql.SQL("true")
    if len(resumptions) >= _MANY:
        return composable("stands_by_list").format(
            *(list(column) for column in zip(*resumptions, strict=True))
        )
    superseded = [composable("is_behind").format(**resumption._asdict()) for resumption in resumptions]
    return composable("stands_by_conditions").format(superseded=sql.SQL(" OR ").join(superseded))


def _telling(resumptions: Iterable[Resumption]) -> list[Resumption]:
    """Return those that say something: no later attempt of the run went back as far, or farther."""
    return list(reversed(list(_lowest_so_far(sorted(resumptions, reverse=True)))))


def _lowest_so_far(resumptions: Iterable[Resumption]) -> Iterator[Resumption]:
    before: Resumption | None = None
    for resumption in resumptions:
        is_other_run = before is None or before.run_id != resumption.run_id
        if is_other_run or before is None or resumption.first_step < before.first_step:
            yield resumption
            before = resumption
