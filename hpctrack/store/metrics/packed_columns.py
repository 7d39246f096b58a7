"""Columns of numbers of one run, packed by PostgreSQL into few large values.

A message for each row, which SELECT and COPY send alike, costs both sides more than its contents. Here a
stretch of rows is one row, whose columns hold a number of each of them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from psycopg import sql

from hpctrack import errors
from hpctrack.store import rows
from hpctrack.store.metrics import column_types, copy_decode, metric_names, superseded
from hpctrack.store.metrics.columnar import Cells
from hpctrack.store.metrics.metric_tables import Part
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hpctrack.store.database import Connection

AXES = ("step", "progress", "time")
#: Rows of a stretch, and numbers: more would leave the processor's cache.
_ROWS = 1 << 16
_NUMBERS = 1 << 20
#: PostgreSQL's time goes by calls rather than by bytes: there are types whose binary form is several numbers.
_FORMS = {4: "pack_four", 2: "pack_two", 1: "pack_one"}


class _Request(NamedTuple):
    run_id: int
    names: tuple[str, ...]
    every_row: bool
    standing: sql.Composable
    """The condition on rows that are wanted, whatever they hold."""
    stop: threading.Event
    """Set when nobody wants the rest any more."""

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Numbers that are packed together."""
        return list(_groups(("progress", *self.names)))


def read(
    connection: Connection,
    run_id: int,
    names: Sequence[str],
    *,
    every_row: bool = True,
    every_attempt: bool = False,
    helper: Callable[[], Connection] | None = None,
) -> list[Part] | None:
    """Return the rows of a run as `metric_tables.read` does, with nan for what is missing; axes are `AXES`.

    ``helper`` opens another connection, which reads the second half at the same time. Returns None if a
    metric is not in a column of double precision, or has values outside it. Raises `errors.StoreError`.
    """
    types = metric_names.column_types(connection)
    if any(types.get(name) != column_types.FLOAT8 for name in names):
        return None
    standing = superseded.standing(connection, [run_id], every_attempt=every_attempt)
    request = _Request(run_id, tuple(names), every_row, standing, threading.Event())
    other = None
    if helper is not None:
        # A server that has no connection left for it is read through one.
        with contextlib.suppress(errors.StoreError):
            other = helper()
    with rows.transaction(connection):
        rows.execute(connection, "take_snapshot")
        middle = _middle(connection, run_id)
        if other is None or middle is None:
            return _rows(connection, request, sql.SQL("true"))
        return _in_halves(connection, other, request, middle)


def _middle(connection: Connection, run_id: int) -> int | None:
    """Return the step in the middle between the first and the last."""
    middle: int | None = rows.scalar(connection, "fetch_middle", id=run_id)
    return middle


def _in_halves(
    connection: Connection, other: Connection, request: _Request, middle: int
) -> list[Part] | None:
    snapshot = rows.scalar(connection, "export_snapshot")

    def second_half() -> list[Part] | None:
        with rows.transaction(other):
            rows.execute(other, "take_snapshot")
            rows.execute(other, composable("join_snapshot").format(snapshot=snapshot))
            return _rows(other, request, composable("from_step").format(step=middle))

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        later = pool.submit(second_half)
        try:
            first = _rows(connection, request, composable("before_step").format(step=middle))
            if first is None:
                request.stop.set()
            second = later.result()
        except BaseException:
            request.stop.set()
            other.cancel_safe()
            raise
    return None if first is None or second is None else first + second


def _rows(connection: Connection, request: _Request, which: sql.Composable) -> list[Part] | None:
    names, groups = request.names, request.groups
    limit = max(min(_ROWS, _NUMBERS // (len(names) + len(AXES))), 1)
    parts: list[Part] = []
    behind: sql.Composable = sql.SQL("true")
    while not request.stop.is_set():
        query = composable("fetch_packed").format(
            extra=metric_names.has_extra(names),
            packed=sql.SQL(", ").join(map(_pack, groups)),
            run=request.run_id,
            which=which,
            behind=behind,
            standing=request.standing,
            condition=sql.SQL("true") if request.every_row else metric_names.has_any(names, names),
            limit=limit,
        )
        [(count, extra, *packed)] = connection.execute(query, binary=True).fetchall()
        if extra:
            return None
        if count:
            parts.append(_unpacked(packed, groups))
            behind = _behind(parts[-1])
        if count != limit:
            return parts
    return None


def _groups(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the numbers that are packed together."""
    while names:
        size = next(size for size in _FORMS if size <= len(names))
        yield names[:size]
        names = names[size:]


def _pack(group: tuple[str, ...]) -> sql.Composed:
    numbers = [composable("number_or_nan").format(column=sql.Identifier("m", name)) for name in group]
    return composable(_FORMS[len(group)]).format(*numbers)


def _unpacked(packed: Sequence[Any], groups: Sequence[tuple[str, ...]]) -> Part:
    steps, times, *others = packed
    step, time = _field(steps, column_types.INT8), _field(times, column_types.TIMESTAMPTZ)
    numbers: dict[str, Cells] = {}
    for data, group in zip(others, groups, strict=True):
        table = np.frombuffer(data, ">f8").reshape(-1, len(group))
        numbers |= {name: Cells(table[:, index].astype(np.float64), None) for index, name in enumerate(group)}
    axes = {"step": step, "progress": numbers.pop("progress"), "time": time}
    return Part(len(step.values), axes, numbers, {})


def _field(data: Any, name: str) -> Cells:
    type_ = column_types.of(name)
    return copy_decode.finished(np.frombuffer(data, type_.dtype), type_, None)


def _behind(part: Part) -> sql.Composed:
    """Return the condition of rows behind the last one of a part."""
    step, progress = (part.axes[axis].values[-1].item() for axis in ("step", "progress"))
    return composable("behind_row").format(step=step, progress=progress)
