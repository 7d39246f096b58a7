"""The verbs by which SQL is run.

Each takes a connection, a statement, and its parameters by their names. The statement is the name of one in
``sql/queries``, or was put together from such. psycopg's errors come out as `errors.StoreError`. Cells reach
a record by the names of their columns, so a statement may list them in any order.

Inside `transaction` several statements are one step. Modules that move rows by the thousand talk to psycopg
themselves: `ingest`, `write.reconciled`, and COPY in `metrics`. So does `schema.migrate`, which stands below.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from hpctrack.run.states import RunStatus
from hpctrack.store import database, values
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg import Cursor, sql

    from hpctrack.store.database import Connection

_T = TypeVar("_T")
#: The name of a statement, or a statement.
Query: TypeAlias = "str | sql.Composed"
#: Rows that a query hands over at a time while its result is read.
_AT_ONCE = 1000


@contextlib.contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Make what happens inside one step: all of it is done, or nothing. Raises `errors.StoreError`."""
    with database.translated(), connection.transaction():
        yield


def execute(connection: Connection, query: Query, /, **parameters: Any) -> int:
    """Run a statement, and return how many rows it changed or returned."""
    with database.translated():
        return connection.execute(*_command(query, parameters)).rowcount


def scalar(connection: Connection, query: Query, /, **parameters: Any) -> Any:
    """Return the first cell of the first row; None if there is no row."""
    row = first(connection, query, **parameters)
    return None if row is None else row[0]


def column(connection: Connection, query: Query, /, **parameters: Any) -> list[Any]:
    """Return the first cell of every row."""
    return [row[0] for row in tuples(connection, query, **parameters)]


def first(connection: Connection, query: Query, /, **parameters: Any) -> tuple[Any, ...] | None:
    """Return the cells of the first row; None if there is no row."""
    with database.translated():
        return connection.execute(*_command(query, parameters)).fetchone()


def tuples(connection: Connection, query: Query, /, **parameters: Any) -> list[tuple[Any, ...]]:
    """Return the cells of every row. For pairs, and where nobody knows the columns beforehand."""
    with database.translated():
        return connection.execute(*_command(query, parameters)).fetchall()


def one(connection: Connection, query: Query, record: Callable[..., _T], /, **parameters: Any) -> _T | None:
    """Return the first row as a record; None if there is no row."""
    return next(iter(records(connection, query, record, **parameters)), None)


def records(
    connection: Connection, query: Query, record: Callable[..., _T], /, **parameters: Any
) -> list[_T]:
    """Return every row as a record, whose keyword arguments its columns are."""
    with database.translated(), connection.cursor(row_factory=_by_name(record)) as cursor:
        return cursor.execute(*_command(query, parameters)).fetchall()


def iterate(
    connection: Connection, query: Query, record: Callable[..., _T], /, **parameters: Any
) -> Iterator[_T]:
    """Yield every row as a record; PostgreSQL keeps the rows that were not asked for yet."""
    with (
        transaction(connection),
        connection.cursor("rows", row_factory=_by_name(record)) as cursor,
    ):
        cursor.itersize = _AT_ONCE
        yield from cursor.execute(*_command(query, parameters))


def _command(query: Query, parameters: dict[str, Any]) -> tuple[bytes | sql.Composed, dict[str, Any] | None]:
    """Return what psycopg executes. Without parameters a percent sign stands for itself."""
    return statement(query) if isinstance(query, str) else query, parameters or None


#: Columns that mean more than PostgreSQL's type says.
_READ: dict[str, Callable[[Any], Any]] = {
    "status": lambda name: None if name is None else RunStatus(name),
    "last": lambda last: {name: values.decode(value) for name, value in (last or {}).items()},
}


def _by_name(record: Callable[..., _T]) -> Callable[[Cursor[Any]], Callable[[Sequence[Any]], _T]]:
    """Return a row factory (psycopg's manual, "Row factories") that makes records."""

    def of_cursor(cursor: Cursor[Any]) -> Callable[[Sequence[Any]], _T]:
        names = [column.name for column in cursor.description or ()]
        meanings = [(name, _READ[name]) for name in names if name in _READ]

        def of_cells(cells: Sequence[Any]) -> _T:
            named = dict(zip(names, cells, strict=True))
            for name, meaning in meanings:
                named[name] = meaning(named[name])
            return record(**named)

        return of_cells

    return of_cursor
