"""The client: one connection to the database, and the runs and experiments found through it."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from hpctrack import settings as configuration
from hpctrack.api.experiment import Experiment
from hpctrack.api.run import Run, Runs
from hpctrack.run import conditions, runids, states, words
from hpctrack.run.states import RunStatus
from hpctrack.store.metrics import columns
from hpctrack.store.read import filters, lookup, queries, unknown_names
from hpctrack.store.session import Session
from hpctrack.store.write import experiments, registration
from hpctrack.view.question import Question, list_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from types import TracebackType

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

_T = TypeVar("_T")
_One = TypeVar("_One", str, "str | RunStatus")
_Several: TypeAlias = "_One | Iterable[_One]"


class Client:
    """Reads and writes runs and experiments.

    The configuration names the database, as on the command line (``hpctrack.conf``, ``HPCTRACK_DSN_*``). With
    nothing configured it is the user's own PostgreSQL, started if need be.

    ``config_path`` names a configuration file to read instead of the usual ones. ``options`` are settings
    that override it, such as ``dsn_host="db"``, ``schema="test"``.

    A client connects on first use, and again when the connection is lost. Several threads may use it (they
    wait for one another), and child processes after a fork.

    Raises `errors.SettingsError` for a configuration that can't be used. Every method can raise
    `errors.StoreUnavailable`, `errors.StoreDenied` and `errors.SchemaError`.
    """

    def __init__(
        self, config_path: str | None = None, *, settings: Settings | None = None, **options: Any
    ) -> None:
        self.settings = settings or configuration.load(options, config_path=config_path)
        self._session = registration.session(self.settings, again=True)
        self._helper = Session(self.settings)

    def experiment(self, name: str) -> Experiment:
        """Return an experiment that exists. Raises `errors.ExperimentNotFound`."""
        info = self.ask(lambda connection: experiments.get(connection, name))
        return Experiment(self, name, info=info)

    def experiments(self, *, archived: bool = False) -> list[Experiment]:
        """Return all experiments, the one with the newest run last; ``archived``: archived ones, too."""
        found = self.ask(lambda connection: experiments.list_all(connection, archived=archived))
        return [Experiment(self, info.name, info=info) for info in found]

    def run(self, ref: int | str) -> Run:
        """Return one run.

        A number is the run's own id; a text is read as on the command line: ``"r7"``, a Slurm job id
        (``"14"``, ``"14_3"``), or the beginning of a job's name. Raises `errors.RunNotFound`,
        `errors.AmbiguousRun`.
        """

        def find(connection: Connection) -> queries.Run:
            run_id = ref if isinstance(ref, int) else lookup.find_one(connection, runids.parse(ref))
            return queries.get_run(connection, run_id)

        return Run(self, self.ask(find))

    def runs(
        self,
        *refs: int | str,
        state: _Several[str | RunStatus] | None = None,
        not_state: _Several[str | RunStatus] | None = None,
        experiment: str | None = None,
        user: _Several[str] | None = None,
        mine: bool | None = None,
        tag: _Several[str] | None = None,
        name: str | None = None,
        partition: _Several[str] | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        where: str | None = None,
        archived: bool = False,
        sort: str | None = None,
        after: int | str | None = None,
        limit: int | None = None,
    ) -> Runs:
        """Return the runs that match all filters, the newest last; at most ``limit``, the newest ones.

        The filters are those of ``hpctrack status``:

        * ``refs``: these runs, as `run` takes them, also several in one text: ``"14_[0-3]"``, ``"r7-9"``.
        * ``state``, ``not_state``: one of Slurm's job states, or several: ``["PENDING", "RUNNING"]``.
        * ``user``: one or several; ``mine``: only the caller's, or not. As on the command line, on a site's
          server runs are the caller's unless refs, users or ``mine=False`` say otherwise.
        * ``tag``: ``"set=cifar"``, or ``"baseline"`` with any value; of several tags a run needs all.
        * ``name``: a pattern of the job's name, ``"train*"``; ``partition``: one or several.
        * ``since``, ``until``: submitted at that time or later, and before it: a time, or a text (``"2d"``).
        * ``where``: a condition such as ``"args.lr < 0.01 and min.val_loss < 0.3"``.
        * ``archived``: archived runs, too; ``refs`` name them anyway, and ``where`` may ask for them.
        * ``sort``: the field to order by, ``"min.val_loss"``; ``"-elapsed"`` reverses the order.
        * ``after``: the next page: the first run of the page before it, or with ``sort`` its last.

        An empty list of states, users or partitions matches no run; without ``refs`` all runs are searched.

        Raises `errors.FilterError` and `errors.UsageError` for a filter that can't be understood,
        `errors.RunNotFound` for a ref that names no run. Warns of a name that no run has, with the nearest.
        """
        statuses, users, partitions = _states(state), _several(user), _several(partition)
        wanted = ((state, statuses), (user, users), (partition, partitions))
        if any(given is not None and not read for given, read in wanted):
            return Runs([])
        question = Question(
            refs=tuple(ref for given in refs for ref in _refs(given)),
            statuses=statuses,
            not_statuses=_states(not_state),
            users=users,
            mine=bool(mine),
            experiment=experiment,
            tags=tuple(map(words.tag, _several(tag))),
            name=name,
            partitions=partitions,
            since=_time(since),
            until=_time(until),
            where=_read(conditions.parse, where),
            archived=archived,
            sort=_read(filters.Sort.parse, sort),
            after=None if after is None else _ref(after),
        )
        if mine is None:
            question = question.usual(personal=self.settings.personal)
        rows = self.ask(lambda connection: list_runs(connection, question, limit))
        for line in self.ask(
            lambda connection: list(unknown_names.lines(connection, question.names(), rows))
        ):
            warnings.warn(line, UserWarning, stacklevel=2)
        return Runs(Run(self, row) for row in (rows if sort else reversed(rows)))

    def ask(self, question: Callable[[Connection], _T]) -> _T:
        """Call a function that reads through the connection; return its result.

        If the connection turns out to be lost, connects and calls it once more.
        """
        return self._session.ask(question)

    def change(self, what: Callable[[Connection], _T]) -> _T:
        """Call a function that writes through the connection; return its result.

        Checks the connection first, and connects again if it is lost. A call that fails is not repeated,
        since its change may have been committed.
        """
        return self._session.change(what)

    @functools.cached_property
    def adder(self) -> columns.Adder | None:
        """Adds columns for new metrics; None unless that is configured, as it is in the personal mode."""
        return columns.Adder() if self.settings.adds_columns else None

    def helper(self) -> Connection:
        """Return a second connection, for reading much data. Only for a function called by `ask`."""
        return self._helper.connection()

    def close(self) -> None:
        """Close the connection. The client can be used again."""
        self._session.close()
        self._helper.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        dsn = self.settings.dsn
        where = "your own PostgreSQL"
        if dsn is not None:
            where = f"{dsn.get('dbname', 'the default database')} on {dsn.get('host', 'this host')}"
        return f"<Client: {where}, schema {self.settings.schema}>"


def _read(read: Callable[[str], _T], given: str | None) -> _T | None:
    return None if given is None else read(given)


def _refs(given: int | str) -> tuple[runids.RunRef, ...]:
    return words.runs(f"r{given}" if isinstance(given, int) else given)


def _ref(given: int | str) -> runids.RunRef:
    return runids.parse(f"r{given}" if isinstance(given, int) else given)


def _time(given: str | datetime | None) -> datetime | None:
    if given is None:
        return None
    return words.time(given) if isinstance(given, str) else given.astimezone()


def _states(given: _Several[str | RunStatus] | None) -> tuple[RunStatus, ...]:
    return tuple(state if isinstance(state, RunStatus) else states.parse(state) for state in _several(given))


def _several(given: _One | Iterable[_One] | None) -> tuple[_One, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str | RunStatus) else tuple(given)
