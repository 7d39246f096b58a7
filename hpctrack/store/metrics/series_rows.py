"""Series: rows that a run logged apart from its metrics, each series with steps of its own.

Readers see its rows as they see rows of metrics: with step, progress, time and attempt, and with all values
in ``extra``. So whoever reads metrics reads series, too, from `source`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from hpctrack import errors
from hpctrack.run import words
from hpctrack.store import rows
from hpctrack.store.statements import composable
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.store.database import Connection


class Series(NamedTuple):
    """A series of some runs."""

    name: str
    rows: int
    """Rows that came in; there may be fewer, where some came twice."""


def fetch(connection: Connection, runs: Sequence[int]) -> list[Series]:
    """Return the series that any of these runs has, in alphabetical order."""
    return rows.records(connection, "fetch_series_of_runs", Series, ids=list(runs))


def check(connection: Connection, runs: Sequence[int], name: str | None) -> None:
    """Raise `errors.UsageError` if none of these runs has a series of this name; None is none."""
    if name is None or not runs:
        return
    known = [series.name for series in fetch(connection, runs)]
    if name not in known:
        raise errors.UsageError(f"no series {name!r} in {words.any_of(runs)}: {nearest.hint(name, known)}")


def source(series: str | None) -> sql.Composable:
    """Return the table of rows of metrics, or of a series as if they were such."""
    return sql.Identifier("metrics") if series is None else composable("rows_of_series").format(series=series)
