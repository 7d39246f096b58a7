"""The client: one connection to the database, and what can be found through it."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from hpctrack import settings as configuration
from hpctrack.api.experiment import Experiment
from hpctrack.api.run import Run, Runs
from hpctrack.model import RunStatus
from hpctrack.run import conditions, runids, states, words
from hpctrack.store.metrics import columns
from hpctrack.store.read import filters, lists, lookup, misspelt, queries
from hpctrack.store.session import Session
from hpctrack.store.write import experiments, registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection

_T = TypeVar("_T")
_One = TypeVar("_One", str, "str | RunStatus")


class Client:
    """Reads and writes what hpctrack tracks.

    Where the data is comes from the configuration, as on the command line (``hpctrack.conf``,
    ``HPCTRACK_DSN_*``); with nothing configured it is the user's own PostgreSQL, started if need be.

    ``config_path`` names a configuration file instead of the usual ones. ``options`` are settings that win
    over it, such as ``dsn_host="db"``, ``schema="test"``.

    It connects on first use, and again when the connection is lost. May be used by several threads (they wait
    for one another) and behind a fork.

    Raises `errors.SettingsError` for a configuration that can't be used; every method raises
    `errors.StoreUnavailable`, `errors.StoreDenied`, `errors.SchemaError` as things are.
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

    def experiments(self) -> list[Experiment]:
        """Return all experiments, the one with the newest run last."""
        return [Experiment(self, one.name, info=one) for one in self.ask(experiments.list_all)]

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
        *,
        state: str | RunStatus | Iterable[str | RunStatus] | None = None,
        experiment: str | None = None,
        user: str | None = None,
        tag: str | Iterable[str] = (),
        where: str | None = None,
        limit: int | None = None,
    ) -> Runs:
        """Return the runs that match everything given, the newest last; of more than ``limit`` the newest.

        ``state``: one of Slurm's job states, or several: ``"FAILED"``, ``["PENDING", "RUNNING"]``.
        ``tag``: a tag, with a value or with any (``"set=cifar"``, ``"baseline"``), or several: all of them.
        ``where``: a condition as for ``hpctrack status``: ``"args.lr < 0.01 and metrics.val_loss < 0.3"``.
        Raises `errors.FilterError` for one that can't be understood. Of names that no run has there is a
        warning, with the nearest one.
        """
        which = filters.RunFilter(
            statuses=_states(state),
            users=None if user is None else (user,),
            experiment=experiment,
            tags=tuple(map(words.tag, _several(tag))),
            where=None if where is None else conditions.parse(where),
        )
        found = self.ask(lambda connection: lists.list_runs(connection, which, limit))
        for line in self.ask(lambda connection: list(misspelt.lines(connection, _names(which), found))):
            warnings.warn(line, UserWarning, stacklevel=2)
        return Runs(Run(self, row) for row in reversed(found))

    def ask(self, question: Callable[[Connection], _T]) -> _T:
        """Return what a function reads through the connection.

        A connection that turns out to be lost is made anew, once.
        """
        return self._session.ask(question)

    def change(self, what: Callable[[Connection], _T]) -> _T:
        """Return what a function did through the connection.

        The connection is looked at first, and made anew if it is lost; what fails after that is not tried
        again, since nobody can know whether it was done.
        """
        return self._session.change(what)

    @functools.cached_property
    def adder(self) -> columns.Adder | None:
        """What makes columns for new metrics, where it is configured, as in the personal mode."""
        wanted = self.settings.auto_columns
        return columns.Adder() if (self.settings.personal if wanted is None else wanted) else None

    def helper(self) -> Connection:
        """Return a second connection, for a question that is large. Only inside of `ask`."""
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


def _states(given: str | RunStatus | Iterable[str | RunStatus] | None) -> tuple[RunStatus, ...] | None:
    if given is None:
        return None
    return tuple(one if isinstance(one, RunStatus) else states.parse(one) for one in _several(given))


def _names(which: filters.RunFilter) -> misspelt.Names:
    fields = [] if which.where is None else list(conditions.fields(which.where))
    fields += [conditions.Field("tags", name) for name, _ in which.tags]
    return misspelt.Names(which.experiment, fields, which.users or ())


def _several(given: _One | Iterable[_One]) -> list[_One]:
    return [given] if isinstance(given, str | RunStatus) else list(given)
