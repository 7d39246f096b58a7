"""Connections: the doorway to PostgreSQL. What psycopg raises is translated here, once."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg

from hpctrack import errors, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.settings import Settings

Connection = psycopg.Connection[tuple[object, ...]]

CONNECT_TIMEOUT = "5"
"""Seconds (libpq's ``connect_timeout``) where the configuration does not say otherwise."""


def conninfo(settings: Settings) -> dict[str, str]:
    """Return libpq parameters of the configured server, or of the embedded one, started if need be."""
    if settings.dsn is not None:
        return {"connect_timeout": CONNECT_TIMEOUT, **settings.dsn}
    from hpctrack.store import embedded

    return {"connect_timeout": CONNECT_TIMEOUT, **embedded.ensure(settings)}


def connect(settings: Settings, *, autocommit: bool = False, check: bool = True) -> Connection:
    """Connect, with the configured schema alone on the search path.

    ``check`` refuses a database whose schema is missing, older, newer or dirty. In the personal mode a
    missing schema is set up. Raises `errors.StoreUnavailable`, `errors.StoreDenied`, `errors.SchemaError`.
    """
    parameters = conninfo(settings)
    with translated():
        connection = psycopg.connect(
            **parameters,  # type: ignore[arg-type]
            autocommit=True,
            client_encoding="UTF8",
            fallback_application_name="hpctrack",
        )
    try:
        with translated():
            connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", (settings.schema,))
            if check:
                from hpctrack.store import migrate

                migrate.check(connection, settings)
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translate what psycopg raises into hpctrack's own errors, without any password."""
    try:
        yield
    except (psycopg.errors.InvalidPassword, psycopg.errors.InvalidAuthorizationSpecification) as error:
        raise errors.StoreDenied(_message("PostgreSQL refused the login", error)) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise errors.StoreDenied(_message("PostgreSQL refused", error)) from error
    except psycopg.OperationalError as error:
        raise errors.StoreUnavailable(_message("PostgreSQL can't be reached", error)) from error
    except psycopg.Error as error:
        raise errors.StoreError(_message("PostgreSQL", error)) from error


def _message(what: str, error: psycopg.Error) -> str:
    detail = error.diag.message_primary or str(error)
    return redact.Redactor.collect({}).text(f"{what}: " + " ".join(detail.split()))
