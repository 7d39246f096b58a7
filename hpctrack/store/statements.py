"""Named SQL statements from ``sql/queries/*.sql``.

A file holds statements that begin with ``-- name: fetch_runs`` and a comment that says what it is for.
`tests/unit/store/test_statements.py` rejects unused names; duplicates are refused when the files are read.
"""

from __future__ import annotations

import functools
import re

from psycopg import sql

from hpctrack import errors, resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@functools.cache
def load_all() -> dict[str, bytes]:
    """Read every statement, by name. Raises `errors.HpctrackError` for a name that stands twice."""
    statements: dict[str, bytes] = {}
    for path in sorted((resources.folder("sql") / "queries").glob("*.sql")):
        _, *parts = _NAME.split(path.read_text(encoding="utf-8"))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in statements:
                raise errors.HpctrackError(f"{path.name}: statement {name} stands twice")
            statements[name] = text.strip().encode()
    return statements


def statement(name: str) -> bytes:
    """Return one statement as psycopg takes it (bytes, so that nothing is interpolated)."""
    return load_all()[name]


def composable(name: str) -> sql.SQL:
    """Return one statement to be filled with identifiers and expressions by psycopg's ``format``."""
    return sql.SQL(load_all()[name].decode())
