"""Registration: submission records become rows in PostgreSQL, at once or later."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from hpctrack import errors
from hpctrack.run import array_spec
from hpctrack.store import database, refusals, rows
from hpctrack.store.session import Session
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import TASK_NONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

#: Records whose experiments others hold, each of which costs a wait, before the rest waits for another time.
_MOST_BUSY = 3
#: In a name of `Settings.place`.
_PORT = re.compile(r":[0-9,]+/")
_log = logging.getLogger(__name__)


def register(connection: Connection, record: records.Record) -> dict[int, int]:
    """Store a submission, its secret and its runs; return the run's id of each task.

    To do so again changes nothing. A session that holds the experiment is waited for briefly
    (`errors.StoreBusy`). Raises `errors.StoreError`, and ValueError for an array specification that Slurm
    would refuse.
    """
    tasks = [TASK_NONE] if record.tasks is None else array_spec.expand(record.tasks)
    return _register(connection, record, tasks)


@contextlib.contextmanager
def trial(connection: Connection, record: records.Record) -> Iterator[None]:
    """Let collectors answer under a submission's key for a while. It has no run, which would take an id.

    Raises `errors.StoreError`.
    """
    _register(connection, record, [])
    try:
        yield
    finally:
        rows.execute(connection, "prune_submissions", submissions=[record.uuid])


def _register(connection: Connection, record: records.Record, tasks: list[int]) -> dict[int, int]:
    with rows.transaction(connection):
        rows.execute(connection, "wait_briefly")
        runs = rows.tuples(
            connection,
            "register_submission",
            submission=Jsonb(record.submission),
            secret=bytes.fromhex(record.secret),
            run=Jsonb(record.run),
            tasks=tasks,
        )
    return dict(runs)


def register_pending(
    settings: Settings, connection: Connection | None = None, *, everything: bool = False
) -> int:
    """Register what earlier submissions left in the spool; return how many of them there were.

    Costs the listing of a folder where nothing waits. What belongs to another database stays, unless
    ``everything`` is asked for. A record that is none, or that PostgreSQL refuses for its content, is set
    apart, and keeps none of the others. Raises `errors.StoreUnavailable`,
    `errors.StoreDenied` and `errors.SchemaError`.
    """
    waiting = list(_unregistered(settings))
    if not waiting and (connection is None or settings.place in records.known_places(settings.spool)):
        return 0
    if connection is None:
        with contextlib.closing(database.connect(settings, autocommit=True)) as own:
            return register_pending(settings, own, everything=everything)
    here = Here(settings, connection)
    here.note()
    return _register_all(connection, (path for path in waiting if everything or here.takes(path)))


def session(settings: Settings, *, again: bool = False) -> Session:
    """Return a session for reading: each new connection registers what waits, as far as it can.

    So a user who asks for a job right after sbatch finds it. ``again`` as in `Session`.
    """

    def register_own(connection: Connection) -> None:
        with contextlib.suppress(errors.HpctrackError, OSError):
            register_pending(settings, connection)

    return Session(settings, opened=register_own, again=again)


class Here:
    """The database that we are connected to, and what belongs to it.

    It is known by the name under which it was configured when something was submitted; under another name
    (an administrator may move a server) if it has said before, by that name, that it is the same one. A port
    of the same host where nobody has ever answered was a mistake in the configuration.
    """

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._known: dict[str, str] | None = None

    def note(self) -> None:
        """Remember which database the configured name means. Raises `errors.StoreError`."""
        try:
            records.note_place(self._settings.spool, self._settings.place, self._identity())
        except OSError as error:
            _log.debug("%s: %s", self._settings.spool, error)

    def is_place(self, place: str) -> bool:
        """Whether a record's place is this database. Raises `errors.StoreError`."""
        if place in ("", self._settings.place):
            return True
        if self._known is None:
            self._known = records.known_places(self._settings.spool)
        if place in self._known:
            return self._known[place] == self._identity()
        return _PORT.sub("/", place) == _PORT.sub("/", self._settings.place)

    def takes(self, path: str) -> bool:
        """Whether a record belongs here, or can't be read: then registering it says why."""
        try:
            return self.is_place(records.read(path).place)
        except (OSError, ValueError):
            return True

    def _identity(self) -> str:
        schema = self._settings.schema
        return str(rows.scalar(self._connection, "fetch_database_identity", schema=schema) or "")


def elsewhere(settings: Settings, connection: Connection) -> dict[str, int]:
    """Return how many submissions wait for other databases, by what those are called.

    Raises `errors.StoreError`.
    """
    here = Here(settings, connection)
    waiting: Counter[str] = Counter()
    for path in _unregistered(settings):
        with contextlib.suppress(OSError, ValueError):
            place = records.read(path).place
            if not here.is_place(place):
                waiting[place] += 1
    return waiting


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
            _leave(path, error)
        except Exception as error:  # noqa: BLE001 (whatever is wrong with one record, the others are not)
            _leave(path, error)
        else:
            count += 1
    return count


def _leave(path: str, error: Exception) -> None:
    """Leave a record for another time, or set it apart if it would be refused again."""
    is_servers = isinstance(error, errors.StoreError) and not refusals.blames_data(error)
    if is_servers or isinstance(error, OSError):
        _log.warning("%s can't be registered: %s", path, error)
    else:
        _set_apart(path, error)


def _set_apart(path: str, error: Exception) -> None:
    """Try a record no more, since it would be refused again. The log and ``hpctrack doctor`` say so."""
    reason = str(error) or type(error).__name__
    try:
        apart = records.set_refused(path, reason)
    except OSError as trouble:
        _log.warning("%s can't be registered: %s (nor can it be set apart: %s)", path, reason, trouble)
    else:
        _log.warning("%s can't be registered, and is not tried again before hpctrack sync: %s", path, reason)
        _log.debug("the reason stands in %s", apart)
