"""Statistics of runs: kept up while rows come, reckoned anew where need be, and settled once a run is over.

While a run lives they stand in ``run_latest.stats``, which is a few seconds old; once it is over they move to
``run_metrics``, which has indexes. Where values were replaced or superseded, another client wrote the rows,
or a collector ended before it told what rows brought, they are reckoned anew from the rows.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpctrack.script.journal_lines import Json
from hpctrack.store import rows, values
from hpctrack.store.ingest import pending
from hpctrack.store.metrics import columnar, metric_names, metric_tables, statistics, superseded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpctrack import model
    from hpctrack.store.database import Connection
    from hpctrack.store.ingest.pending import Brought, Key
    from hpctrack.store.metrics.statistics import Statistics

#: Runs in one transaction: collectors that store their rows wait for it.
_AT_ONCE = 100
_MOST = 500
_AXES = ("step", "progress")


class Stale(NamedTuple):
    """A run whose statistics are to be reckoned anew."""

    run_id: int
    over: bool
    rows: int


def add(connection: Connection, brought: Mapping[Key, Brought]) -> None:
    """Join what rows brought to the statistics of their runs.

    What came before statistics were reckoned anew is in them, and is left out. Raises `errors.StoreError`.
    """
    keys = iter(sorted(brought))
    while some := list(itertools.islice(keys, _AT_ONCE)):
        with rows.transaction(connection):
            _add(connection, {key: brought[key] for key in some})


def _add(connection: Connection, brought: Mapping[Key, Brought]) -> None:
    runs = [key.run_id for key in brought]
    written = []
    for run_id, scans, stored in rows.tuples(connection, "lock_stats", runs=runs):
        more = brought.get(pending.Key(run_id, scans))
        if more is None:
            continue
        stats = {name: statistics.Statistics.from_json(cells) for name, cells in stored.items()}
        pending.join(stats, more.statistics.items())
        written.append(
            values.to_object({"run_id": str(run_id), "rows": str(more.rows), "stats": _to_json(stats)})
        )
    if written:
        rows.execute(connection, "update_stats", runs=values.to_array(written))


def _to_json(stats: Mapping[str, Statistics]) -> str:
    return values.to_object({name: of_metric.to_json() for name, of_metric in stats.items()})


def find_stale(connection: Connection) -> list[Stale]:
    """Return runs whose statistics are to be reckoned anew, those that are over first."""
    return rows.records(connection, "find_stale", Stale, most=_MOST)


def renew(connection: Connection, run_id: int) -> bool:
    """Reckon the statistics of a run anew from its rows, of which none can come meanwhile.

    If it resumed, its latest values are those of the rows that stand from then on, too.
    Returns whether that was still to be done. Raises `errors.StoreError`.
    """
    with rows.transaction(connection):
        if not rows.scalar(connection, "lock_stale", run=run_id):
            return False
        stats: dict[str, Statistics] = {}
        last: dict[str, str] = {}
        for part in _parts(connection, run_id):
            pending.join(stats, _of_part(part))
            last.update(_last_of_part(part))
        rows.execute(connection, "drop_settled", run=run_id)
        rows.execute(connection, "replace_stats", run=run_id, stats=_to_json(stats))
        if superseded.is_resumed(connection, run_id):
            rows.execute(connection, "replace_last", run=run_id, last=values.to_object(last))
    return True


def _parts(connection: Connection, run_id: int) -> Iterator[metric_tables.Part]:
    """Yield the rows of a run that stand."""
    names = sorted(metric_names.look(connection, [run_id]))
    parts = metric_tables.read(connection, [run_id], names, axes=_AXES, every_row=False)
    return (part for part in parts if part.rows)


def _last_of_part(part: metric_tables.Part) -> Iterator[tuple[str, str]]:
    """Yield the last value of each metric as ``run_latest.last`` has it."""
    for name in {**part.metrics, **part.extra}:
        cells, extra = part.metrics.get(name), part.extra.get(name, {})
        placed = [] if cells is None else columnar.mask(cells).nonzero()[0][-1:].tolist()
        row = max([*placed, *extra], default=None)
        if row in extra:
            yield name, values.brief(_as_logged(extra[row]))
        elif cells is not None and row is not None:
            yield name, values.brief(_as_logged(cells.values[row : row + 1].tolist()[0]))


def _as_logged(value: Any) -> float | int | bool | str:
    """Return a value that was read as one that `values.brief` takes."""
    if isinstance(value, float | int | str):
        return value
    return Json(values.to_json(value)) if isinstance(value, dict | list) else str(value)


def _of_part(part: metric_tables.Part) -> Iterator[tuple[str, Statistics]]:
    step, progress = (part.axes[axis].values for axis in _AXES)
    places = statistics.Rows(np.zeros(part.rows, np.int64), step.astype(np.int64), progress)
    for name in {**part.metrics, **part.extra}:
        numbers, present = _numbers(part, name)
        for _, _, of_metric in statistics.of_rows(places, numbers[np.newaxis], present[np.newaxis]):
            yield name, of_metric


def _numbers(part: metric_tables.Part, name: str) -> tuple[model.Array, model.Mask]:
    """Return the numbers of a metric, and where there are any."""
    numbers, present = np.zeros(part.rows), np.zeros(part.rows, dtype=bool)
    cells = part.metrics.get(name)
    if cells is not None and cells.values.dtype.kind in "fiub":
        present |= columnar.mask(cells)
        numbers[present] = cells.values[present]
    for row, value in part.extra.get(name, {}).items():
        number = pending.as_number(value)
        if number is not None:
            numbers[row], present[row] = number, True
    return numbers, present


def settle(connection: Connection) -> int:
    """Move the statistics of runs that are over to where lists look for them; returns how many there were.

    Raises `errors.StoreError`.
    """
    with rows.transaction(connection):
        runs: Sequence[int] = [run_id for (run_id,) in rows.tuples(connection, "lock_over", most=_MOST)]
        if runs:
            for name in ("insert_metric_names", "insert_run_metrics", "settle"):
                rows.execute(connection, name, runs=runs)
    return len(runs)
