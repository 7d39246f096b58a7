"""What a shell may complete: runs, their metrics and tags, experiments; asked quickly or not at all."""

from __future__ import annotations

import contextlib
import re
from itertools import starmap
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.run import fields, runids
from hpctrack.run import words as reading
from hpctrack.run.words import counted
from hpctrack.store import database, rows
from hpctrack.store.metrics import metric_names, series_rows
from hpctrack.store.read import known_names, lookup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hpctrack.run.states import RunStatus
    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

#: libpq knows no shorter wait than two seconds.
_CONNECT_TIMEOUT = "2"
_NEWEST = 1000
#: More than a screenful helps nobody.
_OFFERED = 100
#: What names in conditions and columns are not without quotes.
_QUOTED = re.compile(r"""[\s()<>=!,'"%]""")


class Word(NamedTuple):
    """A word to complete, and what it stands for."""

    text: str
    help: str


class _Run(NamedTuple):
    id: int
    slurm_job_id: int | None
    array_job_id: int | None
    array_task_id: int | None
    job_name: str | None
    status: RunStatus

    def names(self, beginning: str) -> Iterator[str]:
        """Yield what a word with this beginning may continue as."""
        yield f"r{self.id}"
        if not beginning:
            return
        if self.array_task_id is not None and "_" not in beginning:
            yield str(self.array_job_id)
        else:
            yield runids.job_text(self.slurm_job_id, self.array_job_id, self.array_task_id) or ""
        yield self.job_name or ""


@contextlib.contextmanager
def source(settings: Settings) -> Iterator[Source]:
    """Connect to a PostgreSQL that runs already. Raises what `database.connect` raises."""
    dsn = settings.dsn if settings.dsn is not None else _running(settings)
    settings = settings._replace(dsn={**dsn, "connect_timeout": _CONNECT_TIMEOUT})
    with contextlib.closing(database.connect(settings, autocommit=True, check=False)) as connection:
        rows.execute(connection, "limit_statements")
        yield Source(connection)


def _running(settings: Settings) -> dict[str, str]:
    from hpctrack.store import embedded  # late: sites have none

    parameters = embedded.running(settings)
    if parameters is None:
        raise errors.StoreUnavailable
    return parameters


class Source:
    """Answers from one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def runs(self, beginning: str) -> list[Word]:
        """Return how the caller's newest runs may be called, the newest first.

        Numbers continue as job ids (``14``, behind an underscore tasks of arrays), words as runs' own ids and
        jobs' names; nothing continues as runs' own ids.
        """
        users = lookup.my_names(self._connection)
        words: dict[str, str] = {}
        for run in rows.records(self._connection, "complete_runs", _Run, users=users, limit=_NEWEST):
            for text in run.names(beginning):
                if text.startswith(beginning):
                    words.setdefault(text, f"{run.job_name or 'run'} {run.status.value}")
        return [Word(*pair) for pair in words.items()][:_OFFERED]

    def experiments(self, beginning: str) -> list[Word]:
        """Return the names of experiments, the newest first."""
        pairs = rows.tuples(self._connection, "complete_experiments", beginning=beginning, limit=_OFFERED)
        return [Word(name, f"by {user}") for name, user in pairs]

    def audiences(self, beginning: str) -> list[Word]:
        """Return the server's logins, and the caller's accounts as ``account:NAME``."""
        pairs = rows.tuples(self._connection, "complete_audiences", beginning=beginning, limit=_OFFERED)
        return list(starmap(Word, pairs))

    def metrics(self, texts: Iterable[str], beginning: str, series: str | None = None) -> list[Word]:
        """Return the metrics, or those of a series, of the runs that stand among some words."""
        names = metric_names.fetch(self._connection, self._named(texts), series)
        return [Word(name, "metric") for name in names if name.startswith(beginning)][:_OFFERED]

    def series(self, texts: Iterable[str], beginning: str) -> list[Word]:
        """Return the series of the runs that stand among some words."""
        found = series_rows.fetch(self._connection, self._named(texts))
        return [Word(name, counted(rows, "row")) for name, rows in found if name.startswith(beginning)][
            :_OFFERED
        ]

    def tags(self, texts: Iterable[str], beginning: str) -> list[Word]:
        """Return the names of the tags of the runs that stand among some words."""
        names = rows.column(
            self._connection, "complete_tags", ids=self._named(texts), beginning=beginning, limit=_OFFERED
        )
        return [Word(name, "tag") for name in names]

    def scoped(self, beginning: str) -> list[Word]:
        """Return what ``args.l`` or ``min.val_`` may continue as: names that the newest runs have.

        Those that would need quotes are left out.
        """
        scope = beginning.partition(".")[0]
        kind = fields.FieldRef(scope, "").of_names
        words = (f"{scope}.{name}" for name in known_names.of_runs(self._connection).get(kind, []))
        offered = [word for word in words if word.startswith(beginning) and not _QUOTED.search(word)]
        return [Word(word, fields.STATISTICS.get(scope, kind)) for word in offered[:_OFFERED]]

    def _named(self, texts: Iterable[str]) -> list[int]:
        ids: dict[int, None] = {}
        for text in texts:
            with contextlib.suppress(errors.HpctrackError):  # no run, or none that is known
                ids.update(dict.fromkeys(lookup.find_each(self._connection, reading.runs(text))))
        return list(ids)
