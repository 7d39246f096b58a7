"""Runs: their fields, states, metrics and usage."""

from __future__ import annotations

import math
import operator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, SupportsIndex, overload

from hpctrack import errors
from hpctrack.api import export, frames, html, measured, summary, tracking
from hpctrack.api.records import Records
from hpctrack.run.audience import SCOPES, Audience
from hpctrack.script import calls, journal_lines
from hpctrack.store.metrics import (
    curves,
    extreme_values,
    metric_names,
    metric_tables,
    packed_columns,
    series_rows,
)
from hpctrack.store.read import queries
from hpctrack.store.write import changes, sharing, tracked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    import pandas as pd
    import pyarrow as pa

    from hpctrack.api.client import Client
    from hpctrack.model import Attempt, Transition
    from hpctrack.run.states import RunStatus
    from hpctrack.store.database import Connection

#: How many metrics a notebook shows a chart of, and in how many buckets each.
_CURVES, _POINTS = 50, 60
#: From so many rows on, two connections read a run.
_LARGE = 200_000


class Run:
    """One run, as it was when it was read; `refresh` reads it again.

    `info` is its whole row; the properties are the fields that are asked for most.
    """

    def __init__(self, client: Client, row: queries.RunRow) -> None:
        self.client = client
        self._row = row

    @property
    def id(self) -> int:
        """The run's own id, which the command line writes ``r7``."""
        return self._row.id

    @property
    def info(self) -> queries.Run:
        """The run's whole row. Raises `errors.RunNotFound` if the run was deleted meanwhile."""
        if not isinstance(self._row, queries.Run):
            self.refresh()
        assert isinstance(self._row, queries.Run)  # noqa: S101 (refresh has just read it)
        return self._row

    @property
    def status(self) -> RunStatus:
        """Its state, by Slurm's name."""
        return self._row.status

    @property
    def experiment(self) -> str:
        """Name of its experiment."""
        return self._row.experiment

    @property
    def name(self) -> str | None:
        """Slurm's job name; for a command its program's name."""
        return self._row.job_name

    @property
    def job(self) -> str | None:
        """Slurm's id of the job (``14``, ``14_3``); None outside Slurm."""
        return self._row.job

    @property
    def user(self) -> str:
        """The PostgreSQL login that owns it."""
        return self._row.user_name

    @property
    def args(self) -> Any:
        """Arguments of the script, and those of ``set_args()``; None if only the owner may see them."""
        return self._row.args

    @property
    def tags(self) -> dict[str, Any]:
        """Tags and their values; a tag without a value has true."""
        return self._row.tags or {}

    @property
    def archived(self) -> bool:
        """Whether lists leave it out."""
        return self._row.archived

    @property
    def comment(self) -> str | None:
        """What people noted about it; None if nothing."""
        return self.info.comment

    @property
    def last(self) -> dict[str, Any]:
        """Latest value of each metric."""
        return self._row.last

    @property
    def time_created(self) -> datetime:
        """When it was submitted."""
        return self._row.time_created

    @property
    def time_started(self) -> datetime | None:
        """When its latest attempt started."""
        return self._row.time_started

    @property
    def time_ended(self) -> datetime | None:
        """When it ended; None while its state may still change."""
        return self._row.time_ended

    def elapsed(self) -> timedelta | None:
        """Return how long its latest attempt has run, by PostgreSQL's clock; None before it started."""
        return self._row.elapsed(self.client.ask(queries.now))

    def refresh(self) -> Run:
        """Read it again, and return it. Raises `errors.RunNotFound`."""
        self._row = self.client.ask(lambda connection: queries.get_run(connection, self.id))
        return self

    def track(self) -> tracking.Tracked:
        """Return a context manager that tracks its block: ``with run.track(): ...``.

        Inside the block the run is RUNNING. After it the run is COMPLETED; or FAILED, if the block raised an
        exception (also SystemExit with a code other than 0); or CANCELLED, if Ctrl-C or SIGTERM ended it.
        Exceptions and signals take effect as without it. A run that was tracked before gets another attempt.

        Entering raises `errors.UsageError` for a run that Slurm tracks, `errors.StoreDenied` for another
        user's run. If the end can't be noted there is a warning, never an exception.
        """
        return tracking.Tracked(self)

    def add_metrics(
        self,
        values: Mapping[str, Any] | None = None,
        /,
        *,
        step: int | None = None,
        progress: float = 0.0,
        **metrics: Any,
    ) -> None:
        """Store a row of metrics: ``add_metrics(step=3, loss=0.2)``, or a mapping of them.

        Takes the values that `hpctrack.log` takes. Without a step the row gets the step after the run's last
        one. Values are added to an existing row of the same step and progress. The row is committed when this
        returns. In a job of ``hpctrack sbatch`` use `hpctrack.log`, which never waits.

        Raises `errors.UsageError` for a step that is no integer of 64 bits or a progress that is no number,
        `errors.StoreDenied` for another user's run.
        """
        measured = calls.flat_values(calls.joined(values or {}, metrics))
        if step is not None and (
            not isinstance(step, SupportsIndex) or operator.index(step) not in journal_lines.INT64
        ):
            raise errors.UsageError(f"step must be an integer of 64 bits, not {step!r}")
        if not isinstance(progress, SupportsFloat) or math.isnan(progress):
            raise errors.UsageError(f"progress must be a number, not {progress!r}")
        place = None if step is None else operator.index(step)
        self.client.change(
            lambda connection: tracked.add_metrics(
                connection, self.id, measured, step=place, progress=float(progress), adder=self.client.adder
            )
        )

    def set_args(self, args: Mapping[str, Any] | Literal["auto"] | object = "auto", **more: Any) -> None:
        """Replace the arguments of the run; secrets are masked.

        ``"auto"`` reads this program's command line as ``hpctrack run`` would; a mapping, or an object with
        attributes (``parser.parse_args()``), is stored as it is. Raises `errors.StoreDenied`.
        """
        self._set_args(args, more, merge=False)

    def add_args(self, args: Mapping[str, Any] | object = None, **more: Any) -> None:
        """Add arguments to the run's, in the forms that `set_args` takes. Raises `errors.StoreDenied`."""
        self._set_args({} if args is None else args, more, merge=True)

    def _set_args(self, args: Any, more: Mapping[str, Any], *, merge: bool) -> None:
        given = tracking.stored_args(args, more)
        self._change(lambda connection: tracked.set_args(connection, self.id, given, merge=merge))

    def set_comment(self, text: str | None) -> None:
        """Set the comment; None removes it. Raises `errors.StoreDenied`."""
        self._change(lambda connection: changes.note(connection, [self.id], text))

    def add_tags(self, *names: str, **values: Any) -> None:
        """Add tags: ``add_tags("baseline", dataset="cifar")``. Raises `errors.StoreDenied`."""
        tags = {**dict.fromkeys(names, True), **values}
        self._change(lambda connection: changes.tag(connection, [self.id], tags))

    def remove_tags(self, *names: str) -> None:
        """Remove tags; a missing tag is no error. Raises `errors.StoreDenied`."""
        self._change(lambda connection: changes.untag(connection, [self.id], names))

    def archive(self) -> None:
        """Leave it out of lists; its id goes on to name it. Raises `errors.StoreDenied`."""
        self._change(lambda connection: changes.archive(connection, [self.id]))

    def unarchive(self) -> None:
        """List it again. Raises `errors.StoreDenied`."""
        self._change(lambda connection: changes.archive(connection, [self.id], archived=False))

    def add_link(self, kind: str, other: Run) -> None:
        """Link it to another run: ``run.add_link("continues", earlier)``. Raises `errors.StoreDenied`."""
        self.client.change(lambda connection: changes.link(connection, self.id, kind, other.id))

    def remove_link(self, kind: str, other: Run) -> bool:
        """Remove a link; False if there is none. Raises `errors.StoreDenied`."""
        return self.client.change(lambda connection: changes.unlink(connection, self.id, kind, other.id))

    def links(self) -> Records[queries.Relative]:
        """Return its links to other runs, in both directions."""
        return Records(self.client.ask(lambda connection: queries.relatives(connection, self.id)))

    def share(self, *audiences: str, only: str | None = None) -> None:
        """Show it, with its details, to others on a site's server: ``share("bob", "account:lab")``.

        ``only``: who may see it at most beside those: ``"own"``, ``"account"``, or ``"all"`` for whoever the
        site says. Raises `errors.StoreDenied`, and `errors.UsageError` for a user unknown to the server.
        """
        if only not in (None, *SCOPES):
            raise errors.UsageError(f"only is one of {', '.join(SCOPES)}, not {only!r}")
        whom = list(map(Audience.parse, audiences))

        def change(connection: Connection) -> None:
            if only is not None:
                sharing.narrow_runs(connection, [self.id], None if only == "all" else only)
            sharing.share_runs(connection, [self.id], whom)

        self._change(change)

    def unshare(self, *audiences: str) -> int:
        """Take shares of it back, those with some or all; return how many. Raises `errors.StoreDenied`."""
        whom = list(map(Audience.parse, audiences)) or None
        return self.client.change(lambda connection: sharing.unshare_runs(connection, [self.id], whom))

    def shares(self) -> Records[sharing.Share]:
        """Return with whom it is shared, by itself or with its experiment."""
        return Records(self.client.ask(lambda connection: sharing.shares_of_runs(connection, [self.id])))

    def _change(self, what: Callable[[Connection], object]) -> None:
        self.client.change(what)
        self.refresh()

    def metric_names(self) -> list[str]:
        """Return the names of its metrics, in alphabetical order."""
        return self.client.ask(lambda connection: metric_names.fetch(connection, [self.id]))

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
        """Return its metrics: a row per step and progress, in their order.

        Columns: ``step``, ``progress``, ``time`` (the node's clock, UTC), then the metrics. With ``names``
        only these metrics, in this order, and only rows that have a value of one of them. A value that was
        not logged is nan (null in Arrow, where it differs from a logged nan). Rows that a later attempt
        superseded, because it resumed before them, are left out unless ``all_attempts`` is true.

        Raises `errors.BadInput` for a metric that neither this run nor any column of the table has,
        `errors.MissingExtra` without pandas or pyarrow.
        """
        asked = measured.Asked(names, all_attempts)
        helper = self.client.helper if self._row.rows >= _LARGE else None
        return measured.read(self.client, [self.id], asked, format, packed_columns.AXES, helper=helper)

    def series_names(self) -> list[str]:
        """Return the names of its series, in alphabetical order."""
        found = self.client.ask(lambda connection: series_rows.fetch(connection, [self.id]))
        return [series.name for series in found]

    @overload
    def series(
        self,
        series: str,
        names: str | Sequence[str] | None = None,
        *,
        all_attempts: bool = False,
        format: Literal["pandas"] = "pandas",
    ) -> pd.DataFrame: ...

    @overload
    def series(
        self,
        series: str,
        names: str | Sequence[str] | None = None,
        *,
        all_attempts: bool = False,
        format: Literal["arrow"],
    ) -> pa.Table: ...

    def series(
        self,
        series: str,
        names: str | Sequence[str] | None = None,
        *,
        all_attempts: bool = False,
        format: frames.Format = "pandas",
    ) -> pd.DataFrame | pa.Table:
        """Return the rows that were logged with ``series=``, in the form of `metrics`.

        The steps are those of the series. Raises `errors.UsageError` for a series that this run does not
        have, and what `metrics` raises.
        """
        asked = measured.Asked(names, all_attempts, series)
        return measured.read(self.client, [self.id], asked, format, packed_columns.AXES)

    @overload
    def usage(self, *, format: Literal["pandas"] = "pandas") -> pd.DataFrame: ...

    @overload
    def usage(self, *, format: Literal["arrow"]) -> pa.Table: ...

    def usage(self, *, format: frames.Format = "pandas") -> pd.DataFrame | pa.Table:
        """Return samples of the resources that it used: a row per node and time.

        ``cpu_s``, ``read_bytes`` and ``write_bytes`` are totals since the beginning of the attempt.
        """

        def read(connection: Connection) -> Any:
            return frames.build(
                metric_tables.read_usage(connection, self.id), metric_tables.USAGE, [], format
            )

        return self.client.ask(read)

    def transitions(self) -> Records[Transition]:
        """Return its timeline, in the order in which hpctrack learnt of the changes."""
        return Records(self.client.ask(lambda connection: queries.transitions(connection, self.id)))

    def attempts(self) -> Records[Attempt]:
        """Return its attempts, the oldest first."""
        return Records(self.client.ask(lambda connection: queries.attempts(connection, self.id)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id and other.client is self.client

    def __hash__(self) -> int:
        return hash(self.id)

    def _repr_html_(self) -> str:
        """What a notebook shows; without charts of metrics if PostgreSQL can't be asked."""
        try:
            drawn = self.client.ask(self._curves)
        except errors.HpctrackError:
            drawn = []
        return html.run(self._row, drawn, _now())

    def _curves(self, connection: Connection) -> list[curves.Curve]:
        names = metric_names.fetch(connection, [self.id])
        return curves.fetch(connection, self.id, names[:_CURVES], buckets=_POINTS)

    def __repr__(self) -> str:
        parts = [self.status.value, self.experiment, self.name, self.job and f"job {self.job}"]
        return f"<Run r{self.id}: {', '.join(part for part in parts if part)}>"


class Runs(list[Run]):
    """A list of runs of one client."""

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html.runs([run._row for run in self], _now())

    def export(self, path: str | Path, *, series: str | None = None, all_attempts: bool = False) -> int:
        """Write their metrics into a file: ``.parquet``, ``.csv`` or ``.jsonl``; return the number of rows.

        Rows are streamed, and the file is complete or missing. With ``series`` the rows of that series are
        written; with ``all_attempts`` also rows that a later attempt superseded. `export.write` says which
        columns the file has and what is raised; also raises `errors.BadInput` without runs.
        """
        target, ids = Path(path), [run.id for run in self]
        export.check(target)
        if not self:
            raise errors.BadInput("no runs to export")
        return self[0].client.ask(
            lambda connection: export.write(
                connection, ids, target, series=series, every_attempt=all_attempts
            )
        )

    def frame(self, *, extremes: bool = True) -> pd.DataFrame:
        """Return a row per run, as `Experiment.frame` does."""
        ids = [run.id for run in self]
        by_run = (
            self[0].client.ask(lambda connection: extreme_values.fetch(connection, ids))
            if self and extremes
            else {}
        )
        return summary.frame([run._row for run in self], by_run, _now())

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
        """Return the metrics of all these runs, run by run, as `Run.metrics` does.

        The first column, ``run``, is the run's id.
        """
        axes = ("run", *packed_columns.AXES)
        client, ids = self[0].client if self else None, [run.id for run in self]
        return measured.read(client, ids, measured.Asked(names, all_attempts), format, axes)


def _now() -> datetime:
    return datetime.now(timezone.utc)
