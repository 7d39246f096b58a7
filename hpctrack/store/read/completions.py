"""What a shell may complete: runs, their metrics and tags, experiments; asked quickly or not at all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.run import runids
from hpctrack.run import words as reading
from hpctrack.store import database
from hpctrack.store.metrics import metric_names
from hpctrack.store.read import lookup
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

#: libpq knows no shorter wait than two seconds.
_CONNECT_TIMEOUT = "2"
_NEWEST = 1000
#: More than a screenful helps nobody.
_OFFERED = 100


class Word(NamedTuple):
    """A word to complete, and what it stands for."""

    text: str
    help: str


@contextlib.contextmanager
def source(settings: Settings) -> Iterator[Source]:
    """Connect to a PostgreSQL that runs already. Raises what `database.connect` raises."""
    dsn = settings.dsn if settings.dsn is not None else _embedded(settings)
    settings = settings._replace(dsn={**dsn, "connect_timeout": _CONNECT_TIMEOUT})
    with contextlib.closing(database.connect(settings, autocommit=True, check=False)) as connection:
        connection.execute(statement("limit_statements"))
        yield Source(connection)


def _embedded(settings: Settings) -> dict[str, str]:
    from hpctrack.store import embedded

    dsn = embedded.running(settings)
    if dsn is None:
        raise errors.StoreUnavailable
    return dsn


class Source:
    """Answers from one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def runs(self, beginning: str) -> list[Word]:
        """Return how the caller's newest runs may be called, the newest first.

        Numbers continue as job ids (``14``, behind an underscore tasks of arrays), words as runs' own ids and
        jobs' names; nothing continues as runs' own ids.
        """
        parameters = {"users": lookup.my_names(self._connection), "limit": _NEWEST}
        rows = self._connection.execute(statement("complete_runs"), parameters).fetchall()
        words: dict[str, str] = {}
        for run, job_id, array, task, name, status in rows:
            label = name or "run"
            job = runids.job_text(job_id, array, task)  # type: ignore[arg-type]
            if task is not None and "_" not in beginning:
                job = str(array)
            choices = (f"r{run}", job, name) if beginning else (f"r{run}",)
            for text in choices:
                if text and str(text).startswith(beginning):
                    words.setdefault(str(text), f"{label} {status}")
        return [Word(*pair) for pair in words.items()][:_OFFERED]

    def experiments(self, beginning: str) -> list[Word]:
        """Return the names of experiments, the newest first."""
        rows = self._connection.execute(
            statement("complete_experiments"), {"beginning": beginning, "limit": _OFFERED}
        ).fetchall()
        return [Word(str(name), f"by {user}") for name, user in rows]

    def metrics(self, texts: Iterable[str], beginning: str) -> list[Word]:
        """Return the metrics of the runs that stand among some words."""
        names = metric_names.fetch(self._connection, self._named(texts))
        return [Word(name, "metric") for name in names if name.startswith(beginning)][:_OFFERED]

    def tags(self, texts: Iterable[str], beginning: str) -> list[Word]:
        """Return the names of the tags of the runs that stand among some words."""
        parameters = {"ids": self._named(texts), "beginning": beginning, "limit": _OFFERED}
        rows = self._connection.execute(statement("complete_tags"), parameters).fetchall()
        return [Word(str(name), "tag") for (name,) in rows]

    def _named(self, texts: Iterable[str]) -> list[int]:
        found: dict[int, None] = {}
        for text in texts:
            with contextlib.suppress(errors.HpctrackError):  # no run, or none that is known
                found.update(dict.fromkeys(lookup.find_each(self._connection, reading.runs(text))))
        return list(found)
