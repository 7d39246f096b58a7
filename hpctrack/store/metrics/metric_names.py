"""Which metrics runs have, and the conditions on rows that have them.

A metric's values live in a column of ``metrics`` or in its ``extra``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg import sql

from hpctrack.store import rows
from hpctrack.store.metrics import series_rows
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.store.database import Connection


class _Names(NamedTuple):
    noted: list[str]
    unnoted: bool
    """Whether any of the runs has rows that another client wrote."""


def fetch(
    connection: Connection, runs: Sequence[int], series: str | None = None, *, every_attempt: bool = False
) -> list[str]:
    """Return the names of the metrics of runs, or of a series of theirs, in alphabetical order.

    The collector notes those of runs; of runs whose rows another client wrote they are looked for. So are the
    names in series, and, with ``every_attempt``, names that only superseded rows have.
    """
    if series is not None:
        return sorted(extra_kinds(connection, runs, series))
    (names,) = rows.records(connection, "fetch_names_of_runs", _Names, ids=list(runs))
    if not (names.unnoted or every_attempt):
        return sorted(names.noted)
    return sorted({*names.noted, *look(connection, runs)})


def look(connection: Connection, runs: Sequence[int]) -> set[str]:
    """Return the names of the metrics that any row of runs has, whoever wrote it."""
    return {*_columns_in_use(connection, runs), *extra_kinds(connection, runs)}


def column_types(connection: Connection, series: str | None = None) -> dict[str, str]:
    """Return the columns that hold metrics, with PostgreSQL's names of their types; a series has none."""
    if series is not None:
        return {}
    return dict(rows.tuples(connection, "fetch_metric_types"))


def _columns_in_use(connection: Connection, runs: Sequence[int]) -> list[str]:
    """Return the columns in which any of the runs has a value."""
    names = list(column_types(connection))
    used = [sql.SQL("bool_or({} IS NOT NULL)").format(sql.Identifier("m", name)) for name in names]
    if not used:
        return []
    query = composable("fetch_columns_in_use").format(used=sql.SQL(", ").join(used), runs=list(runs))
    (cells,) = rows.tuples(connection, query)
    return [name for name, is_used in zip(names, cells, strict=True) if is_used]


def extra_kinds(
    connection: Connection, runs: Sequence[int], series: str | None = None
) -> dict[str, set[str]]:
    """Return by metric the kinds (see `columnar.kind`) of its values outside the columns, or in a series."""
    kinds: dict[str, set[str]] = {}
    query = composable("fetch_extra_kinds").format(runs=list(runs), source=series_rows.source(series))
    for name, kind in rows.tuples(connection, query):
        kinds.setdefault(name, set()).add(kind)
    return kinds


def has_extra(names: Sequence[str]) -> sql.Composed:
    """Return the condition that a row has any of these metrics outside the columns."""
    return sql.SQL("m.extra ?| {}::text[]").format(sql.Literal(list(names)))


def has_any(names: Sequence[str], placed: Sequence[str]) -> sql.Composed:
    """Return the condition that a row has any of these metrics, of which ``placed`` have columns."""
    present = [sql.SQL("{} IS NOT NULL").format(sql.Identifier("m", name)) for name in placed]
    return sql.SQL("({})").format(sql.SQL(" OR ").join([*present, has_extra(names)]))
