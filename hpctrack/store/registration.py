"""Registration: submission records become rows in PostgreSQL, at once or later."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from hpctrack import array_spec, errors
from hpctrack.store import database, refusals
from hpctrack.store.statements import statement
from hpctrack.stream import records

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

#: Records whose experiments others hold, each of which costs a wait, before the rest waits for another time.
_MOST_BUSY = 3

_log = logging.getLogger(__name__)


def register(connection: Connection, record: records.Record) -> dict[int, int]:
    """Store a submission, its secret and its runs; return the run's id of each task.

    Doing so again changes nothing. Others who hold its experiment are waited for briefly
    (`errors.StoreBusy`). Raises `errors.StoreError`, and ValueError for an array specification that Slurm
    would refuse.
    """
    from hpctrack.stream import wire  # late: hardly any read finds something to register

    tasks = [wire.TASK_NONE] if record.tasks is None else array_spec.expand(record.tasks)
    parameters = {
        "submission": Jsonb(record.submission),
        "secret": bytes.fromhex(record.secret),
        "run": Jsonb(record.run),
        "tasks": tasks,
    }
    with database.translated(), connection.transaction():
        connection.execute(statement("wait_briefly"))
        rows = connection.execute(statement("register_submission"), parameters).fetchall()
    return {int(str(task)): int(str(run_id)) for task, run_id in rows}


def register_pending(settings: Settings, connection: Connection | None = None) -> int:
    """Register what earlier submissions left in the spool; return how many of them there were.

    Costs the listing of a folder where nothing waits. A record that is none, or that PostgreSQL refuses for
    its content, is set apart, and keeps none of the others. Raises `errors.StoreUnavailable`,
    `errors.StoreDenied` and `errors.SchemaError`.
    """
    waiting = list(_unregistered(settings))
    if not waiting:
        return 0
    if connection is not None:
        return _register_all(connection, waiting)
    with contextlib.closing(database.connect(settings, autocommit=True)) as own:
        return _register_all(own, waiting)


def _unregistered(settings: Settings) -> Iterable[str]:
    try:
        return list(records.unregistered(settings.spool))
    except OSError as error:
        _log.debug("%s can't be looked through: %s", settings.spool, error)
        return ()


def _register_all(connection: Connection, waiting: Iterable[str]) -> int:
    count = busy = 0
    for path in waiting:
        try:
            register(connection, records.read(path))
            records.set_registered(path)
        except errors.StoreBusy as error:
            _log.warning("%s can't be registered now: %s", path, error)
            busy += 1
            if busy == _MOST_BUSY:
                break
        except errors.StoreError as error:
            if isinstance(error, errors.SchemaError) or not database.is_alive(connection):
                raise
            if refusals.blames_data(error):
                _set_apart(path, error)
            else:
                _log.warning("%s can't be registered: %s", path, error)
        except OSError as error:
            _log.warning("%s can't be registered: %s", path, error)
        except Exception as error:  # noqa: BLE001 (whatever is wrong with one record, the others are not)
            _set_apart(path, error)
        else:
            count += 1
    return count


def _set_apart(path: str, error: Exception) -> None:
    """Have a record tried no more, for it would be refused again: said once, and by ``hpctrack doctor``."""
    reason = str(error) or type(error).__name__
    try:
        apart = records.set_refused(path, reason)
    except OSError as trouble:
        _log.warning("%s can't be registered: %s (nor can it be set apart: %s)", path, reason, trouble)
    else:
        _log.warning("%s can't be registered, and is not tried again before hpctrack sync: %s", path, reason)
        _log.debug("the reason stands in %s", apart)
