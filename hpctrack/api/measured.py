"""Metrics and series of runs as DataFrames and tables of Arrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import errors
from hpctrack.api import frames
from hpctrack.run import words
from hpctrack.store.metrics import metric_names, metric_tables, packed_columns, series_rows
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hpctrack.api.client import Client
    from hpctrack.store.database import Connection


class Asked(NamedTuple):
    """Which metrics, of which rows."""

    names: str | Sequence[str] | None
    all_attempts: bool
    series: str | None = None

    def listed(self) -> list[str] | None:
        """Return the names; None: all."""
        names = [self.names] if isinstance(self.names, str) else self.names
        return None if names is None else list(names)


def read(
    client: Client | None,
    runs: Sequence[int],
    asked: Asked,
    how: frames.Format,
    axes: Sequence[str],
    *,
    helper: Callable[[], Connection] | None = None,
) -> Any:
    """Return a table of the metrics of runs: columns for the axes, then for the metrics.

    ``helper`` opens another connection, to read much at once. No client: no runs. Raises what `Run.metrics`
    raises.
    """
    wanted = asked.listed()
    which = {"every_row": wanted is None, "every_attempt": asked.all_attempts}

    def ask(connection: Connection) -> Any:
        names = _names(connection, runs, asked)
        parts: Iterable[metric_tables.Part] | None = None
        if how == "pandas" and axes == packed_columns.AXES and asked.series is None:
            parts = packed_columns.read(connection, runs[0], names, helper=helper, **which)
        if parts is None:
            parts = metric_tables.read(connection, runs, names, series=asked.series, axes=axes, **which)
        return frames.build(parts, axes, names, how)

    return frames.build([], axes, wanted or [], how) if client is None else client.ask(ask)


def _names(connection: Connection, runs: Sequence[int], asked: Asked) -> list[str]:
    series_rows.check(connection, runs, asked.series)
    known = metric_names.fetch(connection, runs, asked.series, every_attempt=asked.all_attempts)
    wanted = asked.listed()
    if wanted is None:
        return known
    unknown = set(wanted).difference(known)
    unknown -= set(metric_names.column_types(connection, asked.series)) if unknown else set()
    if unknown and known:
        raise errors.BadInput(
            f"no metric {min(unknown)!r} in {words.any_of(runs)}: {nearest.hint(min(unknown), known)}"
        )
    return list(dict.fromkeys(wanted))
