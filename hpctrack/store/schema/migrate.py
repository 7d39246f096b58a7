"""The schema: checked by every connection, and migrated; the user's own SQL files, each applied once.

Every file runs in one transaction together with its row in the ledger (``applied_migrations``), which is
locked: two setups at once are safe, and a file that fails leaves nothing. psycopg's errors pass through.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import sql

from hpctrack import __version__, errors, resources
from hpctrack.store.schema import sqlfile
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection


class SqlFile(NamedTuple):
    """A file to apply; ``name`` is its row in the ledger."""

    name: str
    text: str
    checksum: str
    built_in: bool


class Step(NamedTuple):
    """What was found or done about one file."""

    name: str
    built_in: bool
    applied: bool
    """False: it had been applied before."""


class _Entry(NamedTuple):
    """A row of the ledger."""

    name: str
    checksum: str | None
    built_in: bool


class _State(NamedTuple):
    """What there is of a schema."""

    present: bool
    usable: bool
    """Whether this role may look into it."""
    ledger: bool
    ours: bool
    """Whether the ledger is hpctrack's."""


def check(connection: Connection, settings: Settings) -> None:
    """Refuse a database whose schema is missing, older, newer or dirty; one query.

    In the personal mode a missing schema is set up. Raises `errors.SchemaError`, or `errors.StoreDenied`
    where this role may not look into the schema.
    """
    try:
        ledger = connection.execute(statement("fetch_built_in")).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        explain(connection, settings)
        if not settings.personal:
            raise errors.SchemaError(
                f"{where(connection, settings)} has no hpctrack schema: run hpctrack setup"
            ) from None
        apply_all(connection, settings, built_in())
        return
    pending = compare(built_in(), dict(ledger))
    if pending:
        raise errors.SchemaError(
            f"{where(connection, settings)} is older than this hpctrack ({pending[0].name} is missing): "
            "run hpctrack setup"
        )


def where(connection: Connection, settings: Settings) -> str:
    """Name server, database and schema for messages."""
    if settings.personal:
        return f"schema {settings.schema} of the embedded PostgreSQL in {settings.data_dir}"
    info = connection.info
    host = "" if info.host.startswith("/") else f" on {info.host}:{info.port}"
    return f"schema {settings.schema} of database {info.dbname}{host}"


@functools.cache
def built_in() -> tuple[SqlFile, ...]:
    """Read hpctrack's own migrations, in their order."""
    paths = sorted((resources.folder("sql") / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return tuple(_read(path, built_in=True) for path in paths)


def read_files(paths: Iterable[str | Path]) -> list[SqlFile]:
    """Read the user's files. Raises `errors.BadInput` for what can't be read, or for a name given twice."""
    files: dict[str, SqlFile] = {}
    for path in map(Path, paths):
        file = _read(path, built_in=False)
        known = files.setdefault(file.name, file)
        if known != file:
            raise errors.BadInput(
                f"{path}: another file of the name {file.name} was given: rename one of them"
            )
    return list(files.values())


def _read(path: Path, *, built_in: bool) -> SqlFile:
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise errors.BadInput(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise errors.BadInput(f"{path}:{line}: not UTF-8 text") from error
    return SqlFile(path.name, text, hashlib.sha256(content).hexdigest(), built_in)


def compare(files: Sequence[SqlFile], applied: Mapping[str, str]) -> list[SqlFile]:
    """Return which of hpctrack's migrations are missing from a ledger (name to checksum).

    Raises `errors.SchemaError` for a ledger that is newer than this hpctrack, `errors.MigrationChanged` for a
    dirty one.
    """
    unknown = sorted(set(applied) - {file.name for file in files})
    if unknown:
        raise errors.SchemaError(
            f"this hpctrack ({__version__}) is older than the database ({unknown[-1]}): upgrade hpctrack"
        )
    for file in files:
        if applied.get(file.name, file.checksum) != file.checksum:
            raise errors.MigrationChanged(
                f"the database was set up with another {file.name} than this hpctrack's: use the release "
                "that made it, or another schema (hpctrack setup -s NAME)"
            )
    return [file for file in files if file.name not in applied]


def explain(connection: Connection, settings: Settings) -> None:
    """Raise what is plainly in the way: a schema that is not ours to look into, or not hpctrack's."""
    state = _state(connection, settings)
    if state.present and not state.usable:
        raise errors.StoreDenied(
            f"this role may not use {where(connection, settings)}: ask whoever set it up for the right"
        )
    if state.ledger and not state.ours:
        raise errors.SchemaError(
            f"{where(connection, settings)} holds tables that hpctrack did not make: choose another schema "
            "(hpctrack setup -s NAME)"
        )


def apply_all(connection: Connection, settings: Settings, files: Iterable[SqlFile]) -> list[Step]:
    """Apply files in order, each once; say of each whether it was applied now."""
    return [Step(file.name, file.built_in, _apply(connection, settings, file)) for file in files]


def _apply(connection: Connection, settings: Settings, file: SqlFile) -> bool:
    """Apply one file and enter it in the ledger; False if it is there already."""
    schema = {"schema": settings.schema}
    with connection.transaction():
        _, ledger = _look(connection, settings)
        if ledger and _is_applied(connection, file):
            return False
        present, ledger = lock(connection, settings)
        if not present:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(settings.schema)))
            connection.execute(statement("set_search_path"), schema)
        if ledger and _is_applied(connection, file):
            return False
        _execute(connection, file)
        connection.execute(statement("set_search_path"), schema)
        connection.execute(
            statement("insert_applied"),
            {"name": file.name, "checksum": file.checksum, "built_in": file.built_in},
        )
    return True


def lock(connection: Connection, settings: Settings) -> tuple[bool, bool]:
    """Keep other setups out until the caller's transaction ends; whether there are schema and ledger.

    Only a role that may write into the ledger can lock it. An advisory lock is anybody's who can connect, so
    it is used only while there is no ledger.
    """
    present, ledger = _look(connection, settings)
    if not ledger:
        connection.execute(statement("lock_setup"), {"schema": settings.schema})
        present, ledger = _look(connection, settings)
    if ledger:
        connection.execute(statement("lock_ledger"))
    return present, ledger


def _look(connection: Connection, settings: Settings) -> tuple[bool, bool]:
    """Return whether there are schema and ledger; the schema is alone on the search path from then on."""
    state = _state(connection, settings)
    connection.execute(statement("set_search_path"), {"schema": settings.schema})
    return state.present, state.ledger


def _state(connection: Connection, settings: Settings) -> _State:
    [row] = connection.execute(statement("fetch_schema_state"), {"schema": settings.schema}).fetchall()
    return _State._make(row)


def _is_applied(connection: Connection, file: SqlFile) -> bool:
    entries = list(map(_Entry._make, connection.execute(statement("fetch_applied"))))
    if file.built_in:
        return file not in compare(built_in(), _own(entries))
    entry = {entry.name: entry for entry in entries}.get(file.name)
    if entry is not None:
        _refuse_another(file, entry)
    return entry is not None


def _own(entries: Iterable[_Entry]) -> dict[str, str]:
    """Return name and checksum of hpctrack's own migrations."""
    return {entry.name: entry.checksum or "" for entry in entries if entry.built_in}


def _refuse_another(file: SqlFile, entry: _Entry) -> None:
    """Refuse a file of the user's that is not the one that was applied by this name."""
    if entry.built_in:
        raise errors.BadInput(f"{file.name} is the name of one of hpctrack's own migrations: rename the file")
    # A client of SQLTrack may have entered it: then there is no checksum to compare with.
    if entry.checksum not in (None, file.checksum):
        raise errors.MigrationChanged(
            f"{file.name} changed after it was applied: put the change into a new file, and give both"
        )


def _execute(connection: Connection, file: SqlFile) -> None:
    """Run the statements of a file inside the caller's transaction; its own BEGIN and END are left out."""
    for part in sqlfile.split(file.text):
        if part.begins_or_commits:
            continue
        if part.rolls_back:
            raise errors.BadInput(
                f"{file.name}:{part.line}: a setup file can't roll back: it is one transaction as a whole"
            )
        try:
            connection.execute(part.text.encode())
        except psycopg.errors.LockNotAvailable:
            raise  # other sessions hold a table: who they are is said where it is translated
        except psycopg.Error as error:
            raise _located(file, part, error) from error


def _located(file: SqlFile, part: sqlfile.Statement, error: psycopg.Error) -> errors.HpctrackError:
    """Say in one line where a file failed and why."""
    position = error.diag.statement_position
    line = part.line + (part.text.count("\n", 0, int(position) - 1) if position else 0)
    message = " ".join((error.diag.message_primary or str(error)).split())
    text = f"{file.name}:{line}: {message}"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return errors.StoreDenied(text)
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return errors.StoreUnavailable(text)
    return errors.BadInput(text)
