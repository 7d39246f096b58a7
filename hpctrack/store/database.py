"""Connections: the doorway to PostgreSQL. psycopg's errors become hpctrack's own here, and nowhere else."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.abc import Loader
from psycopg.types.datetime import (
    IntervalBinaryLoader,
    IntervalLoader,
    TimestamptzBinaryLoader,
    TimestamptzLoader,
)
from psycopg.types.json import set_json_loads

from hpctrack import errors
from hpctrack.store import lock_holders

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from psycopg.abc import Buffer

    from hpctrack.settings import Settings


def _lenient(loader: type[Loader]) -> type[Loader]:
    """Return a loader that reads times which Python can't hold as None (PostgreSQL's reach to 294276)."""

    class Lenient(loader):  # type: ignore[valid-type, misc]
        def load(self, data: Buffer) -> Any:
            try:
                return super().load(data)
            except psycopg.DataError:
                return None

    return Lenient


_LOADERS = {
    "timestamptz": (_lenient(TimestamptzLoader), _lenient(TimestamptzBinaryLoader)),
    "interval": (_lenient(IntervalLoader), _lenient(IntervalBinaryLoader)),
}


def loads(text: str | bytes) -> Any:
    """Read JSON that any user may have written: PostgreSQL takes some that Python does not.

    Integers too long for ``int()`` and values nested too deeply stay text, an object as the one value of
    another object. So they spoil no list of runs.
    """
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        whole = text if isinstance(text, str) else text.decode()
        return {"": whole} if whole.startswith("{") else whole


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


Connection = psycopg.Connection[tuple[Any, ...]]

#: A database, a role or PGOPTIONS may set how numbers and times are written; what we read must not change.
#: Compiling takes longer than any of our statements (manual, "When to JIT?").
_SESSION = """SELECT set_config('search_path', quote_ident(%s), false), set_config('jit', 'off', false),
    set_config('extra_float_digits', '1', false), set_config('intervalstyle', 'postgres', false),
    set_config('datestyle', 'ISO, MDY', false), set_config('bytea_output', 'hex', false),
    set_config('timezone', 'UTC', false)"""
_IDLE = "SELECT set_config('idle_in_transaction_session_timeout', %s, false)"
_PATIENCE = "SELECT set_config('lock_timeout', %s, false)"

COMMAND, COLLECTOR = "hpctrack", "hpctrack collector"
"""What sessions are called (``application_name``)."""

PATIENCE = "10s"
"""How long a session waits for a lock (``lock_timeout``) before it says which sessions hold it."""
CONNECT_TIMEOUT = "5"
"""Seconds (libpq's ``connect_timeout``) where the configuration does not say otherwise."""


def conninfo(settings: Settings) -> dict[str, str]:
    """Return libpq parameters of the configured server, or of the embedded one, started if need be."""
    parameters = _embedded(settings) if settings.dsn is None else settings.dsn
    return {"connect_timeout": CONNECT_TIMEOUT, **parameters}


def _embedded(settings: Settings) -> dict[str, str]:
    from hpctrack.store import embedded  # late: sites have none

    return embedded.ensure(settings)


class _Connection(psycopg.Connection[Any]):
    """A connection that can name the sessions that held a lock for which it waited in vain."""

    _parameters: Mapping[str, str] = MappingProxyType({})
    _schema = ""

    @classmethod
    def open(cls, parameters: Mapping[str, str], schema: str, application: str) -> _Connection:
        """Connect, in autocommit mode."""
        given = {"client_encoding": "UTF8", "fallback_application_name": application, **parameters}
        connection = cls.connect(**given, autocommit=True)  # type: ignore[arg-type]
        connection._parameters, connection._schema = given, schema
        return connection

    def wait(self, *arguments: Any, **options: Any) -> Any:
        """Wait for PostgreSQL, as every statement does."""
        try:
            return super().wait(*arguments, **options)
        except psycopg.errors.LockNotAvailable as error:
            error.holders = self._holders  # type: ignore[attr-defined]
            raise

    def _holders(self) -> str:
        """Name the sessions that hold locks; over another connection, as this one is in mid-transaction."""
        try:
            with contextlib.closing(self.open(self._parameters, self._schema, COMMAND)) as own:
                own.execute(_SESSION, (self._schema,))
                return lock_holders.name(own)
        except psycopg.Error:
            return ""


def connect(
    settings: Settings,
    *,
    autocommit: bool = False,
    check: bool = True,
    idle: str | None = None,
    patience: str = PATIENCE,
    application: str = COMMAND,
) -> Connection:
    """Connect, with the configured schema alone on the search path.

    ``check`` refuses a database whose schema is missing, older, newer or dirty. In the personal mode a
    missing schema is set up. ``idle`` bounds for how long the session may stand still in mid-transaction
    until PostgreSQL ends it (``idle_in_transaction_session_timeout``); ``patience`` bounds its waits for
    what other sessions hold (``lock_timeout``). ``application`` is what the session is called. Raises
    `errors.StoreUnavailable`, `errors.StoreDenied`, `errors.SchemaError`.
    """
    try:
        connection = _open(settings, application)
    except errors.StoreUnavailable:
        if not settings.personal:
            raise
        connection = _open(settings, application)  # it ended just now: another is started
    _adapt(connection)
    try:
        with translated():
            connection.execute(_SESSION, (settings.schema,))
            if idle is not None:
                connection.execute(_IDLE, (idle,))
            connection.execute(_PATIENCE, (patience,))
            if check:
                _check(connection, settings)
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def _adapt(connection: Connection) -> None:
    """Register loaders for values that any user may have written."""
    for type_, loaders in _LOADERS.items():
        for loader in loaders:
            connection.adapters.register_loader(type_, loader)
    set_json_loads(loads, connection)


def _check(connection: Connection, settings: Settings) -> None:
    from hpctrack.store.schema import migrate  # late: completion of words connects without

    migrate.check(connection, settings)


def is_alive(connection: Connection) -> bool:
    """Whether a connection, outside any transaction of the caller's, still answers."""
    try:
        connection.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


def _open(settings: Settings, application: str) -> Connection:
    parameters = conninfo(settings)
    with translated():
        return _Connection.open(parameters, settings.schema, application)


#: Classes of SQLSTATE that say that PostgreSQL can't be reached, or can't work now: connection, resources,
#: operator, system. A row that is too long for an index is an OperationalError for psycopg, too.
_UNAVAILABLE = ("08", "53", "57", "58")
#: libpq gives no SQLSTATE when a connection fails, only the server's words.
_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba.conf entry|permission denied"
    r"|role .* does not exist|is not permitted to log in"
)


def without_secrets(value: Any) -> Any:
    """Return a text or JSON value that is to be stored, with the secrets masked that this process knows.

    For what people write by hand (tags, notes, names, links). Submissions and what nodes send were masked
    where they come from.
    """
    from hpctrack.text import redact  # late: its expressions take long to compile

    return redact.of_process(os.environ, sys.argv).value(value)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translate what psycopg raises into hpctrack's own errors, without any password."""
    try:
        yield
    except (psycopg.errors.InvalidPassword, psycopg.errors.InvalidAuthorizationSpecification) as error:
        raise errors.StoreDenied(_message("PostgreSQL refused the login", error)) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise errors.StoreDenied(_message("PostgreSQL refused", error)) from error
    except psycopg.errors.LockNotAvailable as error:
        named = error.holders() if hasattr(error, "holders") else ""
        raise errors.StoreBusy(
            "another session holds what this needs, in a transaction that it has not ended: "
            + (f"{named}; or try again later" if named else "try again later")
        ) from error
    except psycopg.OperationalError as error:
        raise _operational(error) from error
    except psycopg.Error as error:
        raise errors.StoreError(_message("PostgreSQL", error)) from error


def _operational(error: psycopg.OperationalError) -> errors.StoreError:
    if error.sqlstate is not None and not error.sqlstate.startswith(_UNAVAILABLE):
        return errors.StoreError(_message("PostgreSQL", error))
    if error.sqlstate is None and _REFUSED.search(str(error)):
        return errors.StoreDenied(_message("PostgreSQL refused the login", error))
    return errors.StoreUnavailable(_message("PostgreSQL can't be reached", error))


def _message(what: str, error: psycopg.Error) -> str:
    from hpctrack.text import redact  # late: its expressions take long to compile

    detail = error.diag.message_primary or str(error)
    return redact.Redactor.collect({}).text(f"{what}: " + " ".join(detail.split()))
