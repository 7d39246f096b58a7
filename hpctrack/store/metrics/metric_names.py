"""Which metrics runs have, and the conditions on rows that have them.

A metric's values live in a column of ``metrics`` or in its ``extra``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from hpctrack.store import database
from hpctrack.store.statements import composable, statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.store.database import Connection


def fetch(connection: Connection, runs: Sequence[int]) -> list[str]:
    """Return the names of the metrics of runs, in alphabetical order.

    The collector notes them; those of runs whose rows another client wrote are looked for.
    """
    with database.translated():
        row = connection.execute(statement("fetch_names_of_runs"), {"ids": list(runs)}).fetchone()
    noted, foreign = row or ([], False)
    names = set(map(str, noted))  # type: ignore[call-overload]
    if foreign:
        names.update(_columns_in_use(connection, runs), extra_kinds(connection, runs))
    return sorted(names)


def column_types(connection: Connection) -> dict[str, str]:
    """Return the columns that hold metrics, with PostgreSQL's names of their types."""
    with database.translated():
        rows = connection.execute(statement("fetch_metric_types")).fetchall()
    return {str(name): str(type_) for name, type_ in rows}


def _columns_in_use(connection: Connection, runs: Sequence[int]) -> list[str]:
    """Return the columns in which any of the runs has a value."""
    names = list(column_types(connection))
    used = [sql.SQL("bool_or({} IS NOT NULL)").format(sql.Identifier("m", name)) for name in names]
    if not used:
        return []
    query = composable("fetch_columns_in_use").format(used=sql.SQL(", ").join(used), runs=list(runs))
    with database.translated():
        row = connection.execute(query).fetchone() or ()
    return [name for name, is_used in zip(names, row, strict=False) if is_used]


def extra_kinds(connection: Connection, runs: Sequence[int]) -> dict[str, set[str]]:
    """Return of each metric with values outside the columns of what kinds they are (see `columnar.kind`)."""
    with database.translated():
        rows = connection.execute(statement("fetch_extra_kinds"), {"ids": list(runs)}).fetchall()
    found: dict[str, set[str]] = {}
    for name, kind in rows:
        found.setdefault(str(name), set()).add(str(kind))
    return found


def has_extra(names: Sequence[str]) -> sql.Composed:
    """Return the condition that a row has any of these metrics outside the columns."""
    return sql.SQL("m.extra ?| {}::text[]").format(sql.Literal(list(names)))


def has_any(names: Sequence[str], placed: Sequence[str]) -> sql.Composed:
    """Return the condition that a row has any of these metrics, of which ``placed`` have columns."""
    present = [sql.SQL("{} IS NOT NULL").format(sql.Identifier("m", name)) for name in placed]
    return sql.SQL("({})").format(sql.SQL(" OR ").join([*present, has_extra(names)]))
