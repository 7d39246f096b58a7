"""Named SQL statements from ``sql/queries``.

Each module of the store that runs statements has a file there, of the same folder and name. A statement
begins with ``-- name: fetch_runs`` and a comment that says what it is for. A name that stands twice is
refused when the files are read. `tests/unit/store/test_statements.py` refuses a statement that its module
does not use.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from psycopg import sql

from hpctrack import errors, resources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@functools.cache
def load_all() -> dict[str, bytes]:
    """Read every statement, by name. Raises `errors.HpctrackError` for a name that stands twice."""
    statements: dict[str, bytes] = {}
    for path in files():
        for name, text in split(path):
            if name in statements:
                raise errors.HpctrackError(f"{path.name}: statement {name} stands twice")
            statements[name] = text.encode()
    return statements


def files() -> list[Path]:
    """Return the files of statements, whose folders and names are those of modules in ``hpctrack/store``."""
    return sorted((resources.folder("sql") / "queries").rglob("*.sql"))


def split(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the statements of a file with their names."""
    _, *parts = _NAME.split(path.read_text(encoding="utf-8"))
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        yield name, text.strip()


def statement(name: str) -> bytes:
    """Return one statement as psycopg takes it (bytes, so that nothing is interpolated)."""
    return load_all()[name]


def composable(name: str) -> sql.SQL:
    """Return one statement to be filled with identifiers and expressions by psycopg's ``format``."""
    return sql.SQL(load_all()[name].decode())
