"""Experiments: named groups of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from hpctrack import errors
from hpctrack.api import html, tracking
from hpctrack.store.write import experiments, tracked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import pandas as pd
    import pyarrow as pa

    from hpctrack.api import frames
    from hpctrack.api.client import Client
    from hpctrack.api.run import Run, Runs
    from hpctrack.store.database import Connection


class Experiment:
    """An experiment, as it was when it was read.

    ``Experiment(client, "digits")`` is the experiment of that name, made if there is none;
    `Client.experiment` returns one that exists. ``info``: its row, if it was read already.
    """

    def __init__(self, client: Client, name: str, *, info: experiments.Experiment | None = None) -> None:
        self.client = client
        self.info = info or client.ask(lambda connection: experiments.ensure(connection, name))

    @property
    def id(self) -> int:
        """Its id in SQL."""
        return self.info.id

    @property
    def name(self) -> str:
        """Its name."""
        return self.info.name

    @property
    def comment(self) -> str | None:
        """What people noted about it; None if nothing."""
        return self.info.comment

    @property
    def tags(self) -> dict[str, Any]:
        """Tags and their values; a tag without a value has true."""
        return self.info.tags or {}

    @property
    def goals(self) -> dict[str, str]:
        """Of metrics ``"max"`` or ``"min"``: whether more is better, or less."""
        return self.info.goals

    @property
    def archived(self) -> bool:
        """Whether lists leave it out."""
        return self.info.archived

    @property
    def time_created(self) -> datetime:
        """When it was made."""
        return self.info.time_created

    def get_run(self, run: int | str | None = None) -> Run:
        """Make a run in this experiment; or return an existing one, as `Client.run` does.

        Raises `errors.RunNotFound` for a run that is not in this experiment, `errors.StoreDenied` if this
        login may not make runs.
        """
        if run is None:
            run = self.client.change(
                lambda connection: tracked.create(connection, self.id, tracking.origin())
            )
        chosen = self.client.run(run)
        if chosen.experiment != self.name:
            raise errors.RunNotFound(
                f"r{chosen.id} is in experiment {chosen.experiment!r}, not in {self.name!r}"
            )
        return chosen

    def set_comment(self, text: str | None) -> None:
        """Set the comment; None removes it. Raises `errors.StoreDenied`."""
        self._change(lambda connection: experiments.set_comment(connection, self.info, text))

    def add_tags(self, *names: str, **values: Any) -> None:
        """Add tags: ``add_tags("baseline", dataset="cifar")``. Raises `errors.StoreDenied`."""
        tags = {**dict.fromkeys(names, True), **values}
        self._change(lambda connection: experiments.tag(connection, self.info, tags))

    def remove_tags(self, *names: str) -> None:
        """Remove tags; a missing tag is no error. Raises `errors.StoreDenied`."""
        self._change(lambda connection: experiments.untag(connection, self.info, names))

    def set_goal(self, metric: str, better: Literal["max", "min"]) -> None:
        """Say whether more of a metric is better, or less. Raises `errors.StoreDenied`."""
        goals = {metric: better}
        self._change(lambda connection: experiments.set_goals(connection, self.info, goals))

    def remove_goal(self, metric: str) -> None:
        """Forget what was said of a metric. Raises `errors.StoreDenied`."""
        self._change(lambda connection: experiments.set_goals(connection, self.info, {}, [metric]))

    def archive(self) -> None:
        """Leave it and the caller's runs in it out of lists. Raises `errors.StoreDenied`."""
        self._change(lambda connection: experiments.archive(connection, self.info))

    def unarchive(self) -> None:
        """List it and the caller's runs in it again. Raises `errors.StoreDenied`."""
        self._change(lambda connection: experiments.archive(connection, self.info, archived=False))

    def add_link(self, kind: str, other: Experiment) -> None:
        """Link it to another one: ``paper.add_link("continues", draft)``. Raises `errors.StoreDenied`."""
        self._change(lambda connection: experiments.link(connection, self.info, kind, other.id))

    def remove_link(self, kind: str, other: Experiment) -> None:
        """Remove a link; a missing link is no error. Raises `errors.StoreDenied`."""
        self._change(lambda connection: experiments.unlink(connection, self.info, kind, other.id))

    def _change(self, what: Callable[[Connection], object]) -> None:
        self.client.change(what)
        self.info = self.client.ask(lambda connection: experiments.get(connection, self.name))

    def runs(self, *refs: int | str, **filters: Any) -> Runs:
        """Return its runs, everybody's that one may see, the newest last; filters as in `Client.runs`."""
        return self.client.runs(*refs, experiment=self.name, **{"mine": False, **filters})

    def frame(self, *, extremes: bool = True) -> pd.DataFrame:
        """Return a row per run, the newest last.

        Columns: ``run`` (the id), ``status``, ``job``, ``name`` and other fields; ``args.NAME``, nested ones
        as ``args.model.layers``; ``tags.NAME``; ``last.NAME``, the latest value of each metric; and, unless
        ``extremes`` is false, ``min.NAME`` and ``max.NAME``, the extremes of its finite values.
        """
        return self.runs().frame(extremes=extremes)

    @overload
    def metrics(
        self,
        names: str | Sequence[str] | None = None,
        *,
        all_attempts: bool = False,
        format: Literal["pandas"] = "pandas",
    ) -> pd.DataFrame: ...

    @overload
    def metrics(
        self,
        names: str | Sequence[str] | None = None,
        *,
        all_attempts: bool = False,
        format: Literal["arrow"],
    ) -> pa.Table: ...

    def metrics(
        self,
        names: str | Sequence[str] | None = None,
        *,
        all_attempts: bool = False,
        format: frames.Format = "pandas",
    ) -> pd.DataFrame | pa.Table:
        """Return the metrics of all its runs, as `Runs.metrics` does."""
        return self.runs().metrics(names, all_attempts=all_attempts, format=format)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html.experiment(self.info)

    def __repr__(self) -> str:
        count = self.info.runs
        return f"<Experiment {self.name!r}: {count} {'run' if count == 1 else 'runs'}>"
