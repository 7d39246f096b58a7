"""Whether PostgreSQL is there, with the schema, and a clock that agrees with this host's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.cli.doctor.check import ASK_FOR_RIGHTS, Check, Failed, State

if TYPE_CHECKING:
    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

#: Seconds by which clocks may differ before it is worth a note, and before times are of no use.
_SKEW_NOTE, _SKEW_BROKEN = 2.0, 60.0


def connect(configuration: Settings) -> Connection:
    """Connect. Raises `Failed`."""
    from hpctrack.store import database

    try:
        return database.connect(configuration, autocommit=True, check=False)
    except errors.StoreDenied as error:
        do = "check user and password: ~/.pgpass, HPCTRACK_DSN_USER, HPCTRACK_DSN_PASSWORD"
        raise Failed(Check("PostgreSQL", "broken", str(error), do)) from error
    except errors.HpctrackError as error:
        do = "check that the server runs and is reached from here: HPCTRACK_DSN_HOST, HPCTRACK_DSN_PORT"
        if configuration.personal:
            do = "see the log in " + str(Path(configuration.data_dir) / "postgres" / "server.log")
        raise Failed(Check("PostgreSQL", "broken", str(error), do)) from error


def server(configuration: Settings, connection: Connection) -> Check:
    """Tell which server it is, and as whom we are connected."""
    version = connection.info.server_version
    number = f"{version // 10000}.{version % 10000}"
    where = "embedded" if configuration.personal else f"{connection.info.host}:{connection.info.port}"
    return Check("PostgreSQL", "ok", f"{number}, {where}, as {connection.info.user}")


def schema(configuration: Settings, connection: Connection) -> Check:
    """Tell which schema it is. Raises `Failed` for one that can't be used."""
    from hpctrack.store import database
    from hpctrack.store.schema import migrate

    try:
        with database.translated():
            migrate.check(connection, configuration)
    except errors.StoreDenied as error:
        raise Failed(Check("schema", "broken", str(error), ASK_FOR_RIGHTS)) from error
    except errors.HpctrackError as error:
        raise Failed(Check("schema", "broken", str(error), "hpctrack setup")) from error
    return Check("schema", "ok", migrate.where(connection, configuration))


def clock(connection: Connection) -> Check:
    """Compare PostgreSQL's clock with this host's, half a round trip taken off."""
    from hpctrack.store.read import queries

    asked = time.time()
    there = queries.now(connection).timestamp()
    return judge_clock(there - (asked + time.time()) / 2)


def judge_clock(skew: float, name: str = "clock", whose: str = "this host's") -> Check:
    """Return what is to be said of a clock that PostgreSQL's is so many seconds ahead of."""
    if abs(skew) < _SKEW_NOTE:
        return Check(name, "ok", f"PostgreSQL's and {whose} differ by {abs(skew):.2f} s")
    says = f"PostgreSQL's is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} {whose}"
    state: State = "note" if abs(skew) < _SKEW_BROKEN else "broken"
    return Check(name, state, says, "set both with NTP (chrony)")
