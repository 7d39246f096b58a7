"""Runs: what they were, what became of them, and what they measured."""

from __future__ import annotations

import math
import operator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, SupportsIndex, overload

from hpctrack import errors
from hpctrack.api import export, frames, html, summary, tracking
from hpctrack.api.records import Records
from hpctrack.script import calls
from hpctrack.store.metrics import extreme_values, metric_names, metric_tables, packed_columns, series
from hpctrack.store.read import queries
from hpctrack.store.write import changes, tracked
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import timedelta

    import pandas as pd
    import pyarrow as pa

    from hpctrack.api.client import Client
    from hpctrack.model import Attempt, Transition
    from hpctrack.run.states import RunStatus
    from hpctrack.store.database import Connection

#: Metrics whose course a notebook shows, and stretches of each.
_COURSES, _POINTS = 50, 60
#: Rows of a run from which on two connections read it.
_LARGE = 200_000


class Run:
    """One run, as it was when it was read; `refresh` reads it again.

    Everything that stands in its row is in `info`; the properties are what one asks for most.
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
        """Everything in the run's row. Raises `errors.RunNotFound` for a run that was deleted meanwhile."""
        if not isinstance(self._row, queries.Run):
            self.refresh()
        assert isinstance(self._row, queries.Run)  # noqa: S101 (refresh has just read it)
        return self._row

    @property
    def status(self) -> RunStatus:
        """How it stands or ended, as Slurm says."""
        return self._row.status

    @property
    def experiment(self) -> str:
        """Name of its experiment."""
        return self._row.experiment

    @property
    def name(self) -> str | None:
        """Slurm's job name; of a command its program."""
        return self._row.job_name

    @property
    def job(self) -> str | None:
        """Slurm's id of the job (``14``, ``14_3``); None outside Slurm."""
        return self._row.job

    @property
    def user(self) -> str:
        """Whose run it is."""
        return self._row.user_name

    @property
    def args(self) -> Any:
        """Arguments of the script and what ``set_args()`` added; None where its owner keeps them."""
        return self._row.args

    @property
    def tags(self) -> dict[str, Any]:
        """Tags, with their values: true where they have none."""
        return self._row.tags or {}

    @property
    def comment(self) -> str | None:
        """Whatever people note about it."""
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
        """When it was over; None while it may still change."""
        return self._row.time_ended

    def elapsed(self) -> timedelta | None:
        """Return how long it has been running, or ran, by PostgreSQL's clock; None before it started."""
        return self._row.elapsed(self.client.ask(queries.session).now)

    def refresh(self) -> Run:
        """Read it again, and return it. Raises `errors.RunNotFound`."""
        self._row = self.client.ask(lambda connection: queries.get_run(connection, self.id))
        return self

    def track(self) -> tracking.Tracked:
        """Return a context manager that tracks what runs inside it: ``with run.track(): ...``.

        The run is RUNNING inside; behind it COMPLETED, or FAILED after an exception (also SystemExit other
        than 0), or CANCELLED after Ctrl-C or SIGTERM; both go on as they would without it. A run that was
        tracked before begins another attempt.

        Entering raises `errors.UsageError` for a run that Slurm tracks, `errors.StoreDenied` for somebody
        else's. That the end could not be noted is a warning, never an exception.
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

        Takes what `hpctrack.log` takes. Without a step the row gets the one after the run's last; a row of
        the same step and progress is added to. It is committed when this returns. In a job of ``hpctrack
        sbatch`` use `hpctrack.log`, which never waits.

        Raises `errors.UsageError` for a step that is no integer or a progress that is no number,
        `errors.StoreDenied` for somebody else's run.
        """
        measured = calls.flat_values(calls.joined(values or {}, metrics))
        if step is not None and (not isinstance(step, SupportsIndex) or abs(operator.index(step)) >= 1 << 63):
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
        """Set arguments of the run, in place of those that it has; secrets are masked.

        ``"auto"`` reads this program's command line as ``hpctrack run`` would; a mapping, or an object with
        attributes (``parser.parse_args()``), is stored as it is. Raises `errors.StoreDenied`.
        """
        self._set_args(args, more, merge=False)

    def add_args(self, args: Mapping[str, Any] | object = None, **more: Any) -> None:
        """Add arguments to those that the run has, as `set_args` sets them."""
        self._set_args({} if args is None else args, more, merge=True)

    def _set_args(self, args: Any, more: Mapping[str, Any], *, merge: bool) -> None:
        given = tracking.stored_args(args, more)
        self._change(lambda connection: tracked.set_args(connection, self.id, given, merge=merge))

    def set_comment(self, text: str | None) -> None:
        """Set what people note about it; None removes that. Raises `errors.StoreDenied`."""
        self._change(lambda connection: changes.note(connection, [self.id], text))

    def add_tags(self, *names: str, **values: Any) -> None:
        """Add tags: ``add_tags("baseline", dataset="cifar")``. Raises `errors.StoreDenied`."""
        tags = {**dict.fromkeys(names, True), **values}
        self._change(lambda connection: changes.tag(connection, [self.id], tags))

    def remove_tags(self, *names: str) -> None:
        """Remove tags; one that is not there is no error. Raises `errors.StoreDenied`."""
        self._change(lambda connection: changes.untag(connection, [self.id], names))

    def add_link(self, kind: str, other: Run) -> None:
        """Link it to another run: ``run.add_link("continues", earlier)``. Raises `errors.StoreDenied`."""
        self.client.change(lambda connection: changes.link(connection, self.id, kind, other.id))

    def remove_link(self, kind: str, other: Run) -> bool:
        """Remove a link; False if there is none. Raises `errors.StoreDenied`."""
        return self.client.change(lambda connection: changes.unlink(connection, self.id, kind, other.id))

    def links(self) -> Records[queries.Relative]:
        """Return its links to other runs, in both directions."""
        return Records(self.client.ask(lambda connection: queries.relatives(connection, self.id)))

    def _change(self, what: Callable[[Connection], None]) -> None:
        self.client.change(what)
        self.refresh()

    def metric_names(self) -> list[str]:
        """Return the names of its metrics, in alphabetical order."""
        return self.client.ask(lambda connection: metric_names.fetch(connection, [self.id]))

    @overload
    def metrics(
        self, names: str | Sequence[str] | None = None, *, format: Literal["pandas"] = "pandas"
    ) -> pd.DataFrame: ...

    @overload
    def metrics(self, names: str | Sequence[str] | None = None, *, format: Literal["arrow"]) -> pa.Table: ...

    def metrics(
        self, names: str | Sequence[str] | None = None, *, format: frames.Format = "pandas"
    ) -> pd.DataFrame | pa.Table:
        """Return its metrics: a row per step and progress, in their order.

        Columns: ``step``, ``progress``, ``time`` (of the node, UTC), then the metrics; with ``names`` those,
        in the order given, and only rows with a value of one of them. What was not logged in a row is nan
        (null in Arrow, which tells it from a logged nan).

        Raises `errors.BadInput` for a metric that neither this run nor any column of the table has,
        `errors.MissingExtra` without pandas or pyarrow.
        """
        return _metrics(self.client, [self], names, format, packed_columns.AXES)

    @overload
    def usage(self, *, format: Literal["pandas"] = "pandas") -> pd.DataFrame: ...

    @overload
    def usage(self, *, format: Literal["arrow"]) -> pa.Table: ...

    def usage(self, *, format: frames.Format = "pandas") -> pd.DataFrame | pa.Table:
        """Return samples of what it used: a row per node and time.

        ``cpu_s``, ``read_bytes`` and ``write_bytes`` count up from the beginning of the attempt.
        """

        def read(connection: Connection) -> Any:
            return frames.build(
                metric_tables.read_usage(connection, self.id), metric_tables.USAGE, [], format
            )

        return self.client.ask(read)

    def transitions(self) -> Records[Transition]:
        """Return its timeline, in the order in which it was learnt."""
        return Records(self.client.ask(lambda connection: queries.transitions(connection, self.id)))

    def attempts(self) -> Records[Attempt]:
        """Return its executions, the first one first."""
        return Records(self.client.ask(lambda connection: queries.attempts(connection, self.id)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id and other.client is self.client

    def __hash__(self) -> int:
        return hash(self.id)

    def _repr_html_(self) -> str:
        """What a notebook shows; without the courses of metrics where PostgreSQL is away."""
        try:
            courses = self.client.ask(self._courses)
        except errors.HpctrackError:
            courses = []
        return html.run(self._row, courses, _now())

    def _courses(self, connection: Connection) -> list[series.Series]:
        names = metric_names.fetch(connection, [self.id])
        return series.fetch(connection, self.id, names[:_COURSES], buckets=_POINTS)

    def __repr__(self) -> str:
        parts = [self.status.value, self.experiment, self.name, self.job and f"job {self.job}"]
        return f"<Run r{self.id}: {', '.join(part for part in parts if part)}>"


class Runs(list[Run]):
    """A list of runs of one client."""

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html.runs([run._row for run in self], _now())

    def export(self, path: str | Path) -> int:
        """Write their metrics into a file: ``.parquet``, ``.csv`` or ``.jsonl``; return the number of rows.

        Rows stream through, however many they are, and the file is there whole or not at all. See
        `export.write` for its columns and what is raised.
        """
        target, ids = Path(path), [run.id for run in self]
        export.check(target)
        if not self:
            raise errors.BadInput("no runs to export")
        return self[0].client.ask(lambda connection: export.write(connection, ids, target))

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
        self, names: str | Sequence[str] | None = None, *, format: Literal["pandas"] = "pandas"
    ) -> pd.DataFrame: ...

    @overload
    def metrics(self, names: str | Sequence[str] | None = None, *, format: Literal["arrow"]) -> pa.Table: ...

    def metrics(
        self, names: str | Sequence[str] | None = None, *, format: frames.Format = "pandas"
    ) -> pd.DataFrame | pa.Table:
        """Return the metrics of all these runs, run by run, as `Run.metrics` does.

        The first column, ``run``, is the run's id.
        """
        return _metrics(self[0].client if self else None, self, names, format, ("run", *packed_columns.AXES))


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _metrics(
    client: Client | None,
    runs: Sequence[Run],
    names: str | Sequence[str] | None,
    how: frames.Format,
    axes: Sequence[str],
) -> Any:
    wanted = [names] if isinstance(names, str) else names
    ids = [run.id for run in runs]

    def read(connection: Connection) -> Any:
        chosen = _chosen(connection, ids, wanted)
        parts: Iterable[metric_tables.Part] | None = None
        if how == "pandas" and axes == packed_columns.AXES:
            large = runs[0]._row.rows >= _LARGE
            helper = runs[0].client.helper if large else None
            parts = packed_columns.read(connection, ids[0], chosen, every_row=wanted is None, helper=helper)
        if parts is None:
            parts = metric_tables.read(connection, ids, chosen, axes=axes, every_row=wanted is None)
        return frames.build(parts, axes, chosen, how)

    return frames.build([], axes, wanted or [], how) if client is None else client.ask(read)


def _chosen(connection: Connection, ids: Sequence[int], wanted: Sequence[str] | None) -> list[str]:
    known = metric_names.fetch(connection, ids)
    if wanted is None:
        return known
    unknown = set(wanted).difference(known)
    unknown -= set(metric_names.column_types(connection)) if unknown else set()
    if unknown and known:
        whose = f"r{ids[0]}" if len(ids) == 1 else f"any of these {len(ids)} runs"
        raise errors.BadInput(f"no metric {min(unknown)!r} in {whose}: {nearest.hint(min(unknown), known)}")
    return list(dict.fromkeys(wanted))
