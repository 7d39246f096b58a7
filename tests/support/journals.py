"""Journals for tests of what becomes of their pieces in PostgreSQL."""

from __future__ import annotations

import json
import struct

from psycopg import sql

from hpctrack import model
from hpctrack.store import values
from hpctrack.stream.collector import arrays
from hpctrack.stream.wire import bodies, journal

BASE = ("run_id", "step", "progress", "time", "attempt", "extra", "numbered")
A, B = "a" * 16, "b" * 16


class Journal:
    """A journal in the making; its pieces continue one another."""

    def __init__(self, run_id: int, name: str = A, attempt: int = 0, owner: str = "") -> None:
        self.run_id, self.name, self.attempt, self.end, self.owner = run_id, name, attempt, 0, owner

    def rows(self, *rows: dict, series: str | None = None) -> model.Piece:
        """Return the next piece: rows with their values, and ``step``, ``progress``, ``time`` among them."""
        lines = []
        for row in rows:
            cells = dict(row)
            reserved = [cells.pop(name, None) for name in ("step", "progress", "time")]
            lines.append(journal.Row.of(0, *reserved, cells, series=series))
        return self.lines(*lines)

    def message(self, kind: str, body) -> model.Piece:
        return self.lines(journal.Message(0, kind, body if isinstance(body, str) else json.dumps(body)))

    def lines(self, *lines: journal.Line) -> model.Piece:
        body, count = bodies.pack(lines, 1 << 20)
        assert count == len(lines)
        start, self.end = self.end, self.end + 100
        contents = arrays.decode(body)
        return model.Piece(
            self.run_id, self.name, self.attempt, start, self.end, contents, body, owner=self.owner
        )


def metric_columns(connection) -> list[str]:
    rows = connection.execute(
        "SELECT attname FROM pg_attribute"
        " WHERE attrelid = 'metrics'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    return [name for (name,) in rows if name not in BASE]


def stored(connection, run_id) -> dict:
    """Return what is logged of a run: by step and progress, values by name, wherever they live."""
    names = metric_columns(connection)
    listed = sql.SQL(", ").join(map(sql.Identifier, [*BASE, *names]))
    query = sql.SQL("SELECT {} FROM metrics WHERE run_id = {}").format(listed, run_id)
    rows = {}
    for _, step, progress, _, _, extra, _, *cells in connection.execute(query):
        in_columns = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}
        elsewhere = {name: values.decode(value) for name, value in (extra or {}).items()}
        assert not in_columns.keys() & elsewhere.keys(), "a value lives in one place"
        assert extra != {}
        rows[step, progress] = in_columns | elsewhere
    return rows


def one(connection, query, *parameters):
    return connection.execute(query, parameters).fetchone()


def bits(value):
    return (type(value), struct.pack("<d", value) if isinstance(value, float) else value)
