"""Experiments: named groups of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from hpctrack.store import experiments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pandas as pd
    import pyarrow as pa

    from hpctrack.api import frames
    from hpctrack.api.client import Client
    from hpctrack.api.run import Runs


class Experiment:
    """An experiment, as it was when it was read.

    ``Experiment(client, "digits")`` is the experiment of that name, made if there is none;
    `Client.experiment` returns one that exists. ``info``: what is known of it already.
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
        """Whatever people note about it."""
        return self.info.comment

    @property
    def tags(self) -> dict[str, Any]:
        """Tags, with their values: true where they have none."""
        return self.info.tags or {}

    @property
    def time_created(self) -> datetime:
        """When it was first named."""
        return self.info.time_created

    def runs(self, **filters: Any) -> Runs:
        """Return its runs, the newest last; filters as in `Client.runs`."""
        return self.client.runs(experiment=self.name, **filters)

    def frame(self, *, extremes: bool = True) -> pd.DataFrame:
        """Return a row per run, the newest last.

        Columns: ``run`` (the id), ``status``, ``job``, ``name`` and other facts; ``args.NAME``, nested ones
        as ``args.model.layers``; ``tags.NAME``; ``last.NAME``, the latest value of each metric; and, unless
        ``extremes`` is false, ``min.NAME`` and ``max.NAME`` over its finite values: which of them is the best
        one only the metric knows.
        """
        return self.runs().frame(extremes=extremes)

    @overload
    def metrics(
        self, names: str | Sequence[str] | None = None, *, format: Literal["pandas"] = "pandas"
    ) -> pd.DataFrame: ...

    @overload
    def metrics(self, names: str | Sequence[str] | None = None, *, format: Literal["arrow"]) -> pa.Table: ...

    def metrics(
        self, names: str | Sequence[str] | None = None, *, format: frames.Format = "pandas"
    ) -> pd.DataFrame | pa.Table:
        """Return the metrics of all its runs, as `Runs.metrics` does."""
        return self.runs().metrics(names, format=format)

    def __repr__(self) -> str:
        count = self.info.runs
        return f"<Experiment {self.name!r}: {count} {'run' if count == 1 else 'runs'}>"
