"""Statistics of the metrics of runs: their least, greatest, first and last values."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

from hpctrack.store import rows
from hpctrack.store.read.queries import MetricSummary

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from hpctrack.store.database import Connection
    from hpctrack.store.read.queries import RunRow

_AT_ONCE = 1000


def add(connection: Connection, runs: Iterable[RunRow], names: Collection[str]) -> Iterator[RunRow]:
    """Yield runs with the statistics of these metrics."""
    rest = iter(runs)
    while batch := list(itertools.islice(rest, _AT_ONCE)):
        yield from _added(connection, batch, names)


def _added(connection: Connection, runs: Collection[RunRow], names: Collection[str]) -> Iterator[RunRow]:
    ids = [run.id for run in runs]
    of_runs: dict[int, dict[str, MetricSummary]] = {}
    for cells in rows.tuples(connection, "fetch_summaries", runs=ids, names=list(names)):
        summary = MetricSummary(*cells)
        of_runs.setdefault(summary.run_id, {})[summary.name] = summary
    for run in runs:
        yield dataclasses.replace(run, summaries=of_runs.get(run.id, {}))
