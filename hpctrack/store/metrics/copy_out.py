"""Run COPY ... TO STDOUT, and hand its rows on in chunks while PostgreSQL goes on with the next ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import psycopg

from hpctrack.store import database
from hpctrack.store.metrics import copy_binary
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import sql

    from hpctrack.store.database import Connection

#: Rows of a chunk: some MB, so that what they become stays in the processor's cache.
ROWS = 1 << 16
#: Bytes from which on a chunk is handed on, too: texts can be long.
_BYTES = 1 << 25


class Chunk(NamedTuple):
    """Rows as they came, one behind the other."""

    data: bytearray
    sizes: list[int]
    """Bytes of each row."""


def chunks(connection: Connection, query: sql.Composable) -> Iterator[Chunk]:
    """Yield the rows of a query in COPY BINARY.

    Closing the generator cancels the query; the connection can be used again after that.
    Raises `errors.StoreError`.
    """
    command = composable("copy_query").format(query=query)
    with database.translated(), connection.cursor() as cursor, cursor.copy(command) as copy:
        header = len(copy_binary.HEADER)
        first = bytes(copy.read())
        data, sizes = bytearray(first[header:]), [len(first) - header]
        # psycopg's own loop takes longer for a row than PostgreSQL does: it waits, this takes what is there.
        take = connection.pgconn.get_copy_data
        while sizes[-1] != len(copy_binary.TRAILER):
            if len(sizes) >= ROWS or len(data) >= _BYTES:
                yield Chunk(data, sizes)
                data, sizes = bytearray(), []
            row: bytes | memoryview = copy.read()  # type: ignore[assignment]
            size = len(row)
            while size > 0:
                data += row
                sizes.append(size)
                if size == len(copy_binary.TRAILER) or len(sizes) >= ROWS or len(data) >= _BYTES:
                    break
                size, row = take(1)
            if size < 0:
                raise _failure(connection)
        if len(sizes) > 1:
            yield Chunk(data[: -len(copy_binary.TRAILER)], sizes[:-1])
        copy.read()  # the command's end


def _failure(connection: Connection) -> psycopg.Error:
    """Return why the rows ended before their end."""
    result = connection.pgconn.get_result()
    if result is None:
        return psycopg.OperationalError("the rows broke off")
    return psycopg.errors.error_from_result(result)
