"""Setting up a database: hpctrack's schema, then the user's own SQL files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.store import database
from hpctrack.store.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.schema.migrate import Step


class Report(NamedTuple):
    """What `apply` did, and where."""

    where: str
    """Server, database and schema; no password."""
    steps: tuple[Step, ...]


def apply(settings: Settings, paths: Iterable[str | Path] = ()) -> Report:
    """Create or migrate the schema, then apply the user's files in order, each once.

    Raises `errors.BadInput` for a file that can't be read or that PostgreSQL rejects (with file and line),
    `errors.MigrationChanged` for one that was applied with other contents, and what
    `database.connect` raises.
    """
    files = [*migrate.built_in(), *migrate.read_files(paths)]
    with database.connect(settings, check=False, autocommit=True) as connection, database.translated():
        _refuse_encoding(connection, settings)
        migrate.explain(connection, settings)
        return Report(
            migrate.where(connection, settings), tuple(migrate.apply_all(connection, settings, files))
        )


def _refuse_encoding(connection: Connection, settings: Settings) -> None:
    """Refuse a database that could not hold every name: createdb makes such on servers in the C locale."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise errors.SchemaError(
            f"database {connection.info.dbname} is in {encoding}, and hpctrack needs UTF8: make it with "
            "createdb --encoding=UTF8 --locale=C --template=template0"
        )
