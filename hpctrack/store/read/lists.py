"""Lists of runs: which, in which order, page by page; job arrays folded into one line each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple
from uuid import UUID

from psycopg import sql

from hpctrack.run import runids
from hpctrack.run.states import RunStatus
from hpctrack.store import rows
from hpctrack.store.read import filters
from hpctrack.store.read.filters import RunFilter, Sort
from hpctrack.store.read.queries import RunRow
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime, timedelta

    from hpctrack.store.database import Connection

WINDOW = 10_000
"""At most so many runs are counted by state beside a page that they fill."""
_REACH = 20_000
"""Among the newest so many, a page is looked for first."""
NEWEST_FIRST = Sort()


@dataclass(frozen=True)
class ArrayRow:
    """The tasks of one job array that match, as one line."""

    is_array: ClassVar[Literal[True]] = True

    latest: RunRow
    """The one with the greatest id; what the tasks have in common is read from it."""
    ids: tuple[int, ...]
    """Rising; other runs may have ids between these."""
    tasks: tuple[int, ...]
    counts: dict[RunStatus, int]
    time_started: datetime | None
    """When the first of them started."""
    time_ended: datetime | None
    """When the last of them ended; None while one may still change."""
    time_stopped: datetime | None
    """When the last of those that have started stopped, whether for good or not; None while one runs."""
    rows: int
    lost: int
    waiting: int

    @property
    def id(self) -> int:
        """The greatest id of its runs."""
        return self.latest.id

    @property
    def ref(self) -> str:
        """How people write the ids of its runs: ``r3-5,9``."""
        return runids.runs_text(self.ids)

    @property
    def job(self) -> str:
        """Slurm's id of the tasks together, as squeue writes it: ``14_[0-9,12]``."""
        return f"{self.latest.array_job_id}_[{runids.ranges(self.tasks)}]"

    def elapsed(self, now: datetime) -> timedelta | None:
        """Return how long from the first start to the last end; while none runs, it stands still."""
        return None if self.time_started is None else (self.time_stopped or now) - self.time_started


class Page(NamedTuple):
    """A part of a list."""

    lines: list[RunRow | ArrayRow]
    more: bool
    """Whether lines come behind these."""
    counts: dict[RunStatus, int]
    """Runs that match, by state, also those on other pages."""
    counted: bool
    """Whether all are counted; else some of the newest."""

    @property
    def total(self) -> int:
        """Runs that were counted."""
        return sum(self.counts.values())


def list_runs(
    connection: Connection,
    which: RunFilter,
    limit: int | None = 50,
    after: int | None = None,
    sort: Sort = NEWEST_FIRST,
) -> list[RunRow]:
    """Return runs that match, in order: at most ``limit``, or all of them.

    ``after`` is the id with which the page before ended.
    """
    if sort.has_index and limit is not None:
        query, parameters = _query(which, sort, limit, after, leading=True)
        first = rows.records(connection, query, RunRow, **parameters)
        if len(first) == limit:
            return first
    query, parameters = _query(which, sort, limit, after)
    return rows.records(connection, query, RunRow, **parameters)


def iterate_runs(connection: Connection, which: RunFilter, sort: Sort = NEWEST_FIRST) -> Iterator[RunRow]:
    """Yield all runs that match, in order, without ever holding all of them."""
    query, parameters = _query(which, sort, limit=None, after=None)
    return rows.iterate(connection, query, RunRow, **parameters)


def _query(
    which: RunFilter, sort: Sort, limit: int | None, after: int | None, *, leading: bool = False
) -> tuple[sql.Composed, dict[str, Any]]:
    parameters = filters.Parameters()
    order = filters.order(sort, after=after, parameters=parameters)
    condition = filters.condition(which, parameters)
    query = composable("list_runs").format(
        key=order.key,
        joins=filters.leading(which, sort, order, parameters, WINDOW).joins
        if leading
        else parameters.joins(),
        condition=condition,
        behind=order.behind,
        order=order.by,
        limit=parameters.add(limit),
    )
    return query, parameters.values


def count_runs(connection: Connection, which: RunFilter) -> dict[RunStatus, int]:
    """Return how many runs match, by status, the most frequent first."""
    parameters = filters.Parameters()
    condition = filters.condition(which, parameters)
    query = composable("count_runs").format(condition=condition, joins=parameters.joins())
    counts = rows.tuples(connection, query, **parameters.values)
    return {RunStatus(name): count for name, count in counts}


def fetch_page(
    connection: Connection,
    which: RunFilter,
    limit: int = 50,
    after: int | None = None,
    sort: Sort = NEWEST_FIRST,
    *,
    fold: bool = False,
) -> Page:
    """Return a page of a list, of at most ``limit`` lines; with ``fold`` arrays are one line each.

    Arrays are folded in the runs' own order only.
    """
    fold = fold and sort.by_id
    shown = _arrays_at(connection, which, after) if fold and after is not None else []
    look = Look(which, sort, after, fold, tuple(shown), limit + 1)
    seen = _look_through(connection, look)
    counted = seen if after is None else _look_through(connection, look._replace(after=None, known=()))
    lines = _lines(connection, which, seen.ids[:limit], seen.arrays)
    return Page(lines, len(seen.ids) > limit, _counts(counted.counts), counted.complete)


class Look(NamedTuple):
    """What one statement looks for."""

    which: RunFilter
    sort: Sort
    after: int | None
    fold: bool
    known: tuple[UUID, ...]
    """Arrays that are folded already."""
    limit: int


class _Seen(NamedTuple):
    """What one statement found; ``arrays`` are those of several matching tasks."""

    ids: list[int]
    arrays: list[UUID]
    counts: dict[str, int]
    oldest: int | None
    filled: bool
    """Whether as many runs match as the window may hold."""
    complete: bool
    """Whether all runs were looked through, or only the newest: more may match."""


def _look_through(connection: Connection, look: Look) -> _Seen:
    """Look through the newest runs, and through all where too few of them match.

    With an order by id and a limit alone PostgreSQL, which can't know how many runs match, walks through all
    of them in that order for conditions that few meet: many times slower than a plain scan.
    """
    if look.sort != NEWEST_FIRST:
        return _look_in_order(connection, look)
    first = seen = _look(connection, look, newest=True)
    ids, arrays = list(seen.ids), list(seen.arrays)
    while look.fold and seen.filled and len(ids) < look.limit:
        # Few lines of large arrays fill the window: look on behind it, past those arrays.
        behind = look._replace(after=seen.oldest, known=(*look.known, *arrays))
        seen = _look(connection, behind, newest=True)
        ids += seen.ids
        arrays += seen.arrays
    if len(ids) < look.limit and not seen.complete:
        return _look(connection, look)
    return first._replace(ids=ids, arrays=arrays)


def _look_in_order(connection: Connection, look: Look) -> _Seen:
    """Look through the runs with which the order begins if an index has it, and through all otherwise."""
    if look.sort.has_index:
        seen = _look(connection, look, leading=True)
        if seen.complete or (seen.filled and len(seen.ids) >= look.limit):
            return seen
    return _look(connection, look)


def _look(connection: Connection, look: Look, *, newest: bool = False, leading: bool = False) -> _Seen:
    query, parameters = page_query(look, newest=newest, leading=leading)
    (seen,) = rows.records(connection, query, _Seen, **parameters)
    return seen


def page_query(
    look: Look, *, newest: bool = False, leading: bool = False
) -> tuple[sql.Composed, dict[str, Any]]:
    """Return the statement that looks for a page, and its parameters.

    It looks among all runs, the ``newest``, or the ``leading`` ones: the first in an order with an index.

    Put together, the folded list of one user's newest runs (``hpctrack status``) is (shortened)::

        WITH found AS MATERIALIZED (
            SELECT id, status, CASE WHEN array_task_id IS NOT NULL THEN submission END AS array_of, id AS key
            FROM (SELECT * FROM run_overview WHERE true ORDER BY id DESC LIMIT 20000) run_overview
            WHERE user_name = ANY ('{alice}') AND true
            ORDER BY id DESC LIMIT 10000
        ), lines AS (
            SELECT max(id) AS id, array_of, count(*) AS runs FROM found
            GROUP BY array_of, CASE WHEN array_of IS NULL THEN id END ORDER BY max(id) DESC LIMIT 51)
        SELECT ARRAY (SELECT id FROM lines) AS ids, ARRAY (SELECT array_of ...) AS arrays,
               (... GROUP BY status) AS counts, (SELECT min(id) FROM found) AS oldest,
               (SELECT count(*) FROM found) = 10000 AS filled,
               (SELECT count(*) FROM found) < 10000
                   AND NOT EXISTS (SELECT FROM run_overview WHERE true ... OFFSET 20000 LIMIT 1) AS complete;

    Values go as parameters. ``true`` stands where the page has no page before it (``behind``); where archived
    runs are left out, ``NOT archived`` stands beside it and in the condition.
    """
    parameters = filters.Parameters()
    order = filters.order(look.sort, after=look.after, parameters=parameters)
    behind = order.behind
    if look.known:
        others = sql.SQL("{} AND (array_task_id IS NULL OR submission <> ALL ({}::uuid[]))")
        behind = others.format(behind, parameters.add(list(look.known)))
    runs: sql.Composable = sql.SQL("run_overview")
    window: sql.Composable = sql.SQL("")
    filled: sql.Composable = sql.SQL("false")
    complete: sql.Composable = sql.SQL("true")
    if newest:
        most = parameters.add(WINDOW)
        window = composable("page_window").format(window=most)
        filled = composable("page_filled").format(window=most)
        runs, complete = _newest(look, order.behind, most, parameters)
    condition = filters.condition(look.which, parameters)
    joins = parameters.joins()
    if leading:
        joins, filled, complete = filters.leading(look.which, look.sort, order, parameters, WINDOW)
    lines = composable("folded_lines" if look.fold else "page_lines")
    folded = sql.SQL("CASE WHEN array_task_id IS NOT NULL THEN submission END")
    query = composable("fetch_page").format(
        array=folded if look.fold else sql.SQL("NULL::uuid"),
        key=order.key,
        condition=condition,
        runs=runs,
        joins=joins,
        behind=behind,
        window=window,
        filled=filled,
        complete=complete,
        lines=lines.format(order=order.by, limit=parameters.add(look.limit)),
    )
    return query, parameters.values


def _newest(
    look: Look, behind: sql.Composable, most: sql.Composable, parameters: filters.Parameters
) -> tuple[sql.Composed, sql.Composed]:
    """Return the newest runs, and the condition that they are all."""
    if not look.which.archived:
        behind = sql.SQL("{} AND {}").format(behind, filters.LISTED)
    values = {"behind": behind, "reach": parameters.add(_REACH), "window": most}
    if look.which.users is None:
        return composable("newest_runs").format(**values), composable("page_complete").format(**values)
    values |= {"users": parameters.add(list(look.which.users)), "after": parameters.add(look.after)}
    return composable("newest_runs_of").format(**values), composable("page_complete_of").format(**values)


def _arrays_at(connection: Connection, which: RunFilter, after: int) -> list[UUID]:
    parameters = filters.Parameters()
    condition = filters.condition(which, parameters)
    query = composable("fetch_arrays_at").format(
        after=parameters.add(after), condition=condition, joins=parameters.joins()
    )
    return rows.column(connection, query, **parameters.values)


def _lines(
    connection: Connection, which: RunFilter, ids: list[int], arrays: Iterable[UUID]
) -> list[RunRow | ArrayRow]:
    runs = {run.id: run for run in list_runs(connection, RunFilter(ids=tuple(ids)), limit=None)}
    folded = {array.id: array for array in _arrays(connection, which, list(arrays), runs)}
    # A run that was deleted since the page was found is left out.
    return [folded.get(run_id) or runs[run_id] for run_id in ids if run_id in runs]


def _arrays(
    connection: Connection, which: RunFilter, arrays: list[UUID], runs: dict[int, RunRow]
) -> Iterator[ArrayRow]:
    """Yield the lines of arrays; ``runs`` holds the latest task of each."""
    if not arrays:
        return
    parameters = filters.Parameters()
    condition = filters.condition(which, parameters)
    query = composable("fetch_arrays").format(
        arrays=parameters.add(arrays), condition=condition, joins=parameters.joins()
    )
    parts = rows.records(connection, query, _Part, **parameters.values)
    for _, group in itertools.groupby(parts, key=lambda part: part.submission):
        own = list(group)
        ids = _joined(part.ids for part in own)
        if ids[-1] in runs:
            yield _array(runs[ids[-1]], ids, own)


class _Part(NamedTuple):
    """The tasks of an array that are in one state."""

    submission: UUID
    status: RunStatus
    tasks: list[int]
    ids: list[int]
    unended: int
    time_started: datetime | None
    time_ended: datetime | None
    running: int
    time_stopped: datetime | None
    rows: int
    lost: int
    waiting: int


def _array(latest: RunRow, ids: tuple[int, ...], parts: list[_Part]) -> ArrayRow:
    started, ended, stopped = _times(parts)
    return ArrayRow(
        latest,
        ids=ids,
        tasks=_joined(part.tasks for part in parts),
        counts={part.status: len(part.tasks) for part in parts},
        time_started=started,
        time_ended=ended,
        time_stopped=stopped,
        rows=sum(part.rows for part in parts),
        lost=sum(part.lost for part in parts),
        waiting=sum(part.waiting for part in parts),
    )


def _joined(numbers: Iterable[list[int]]) -> tuple[int, ...]:
    return tuple(sorted(itertools.chain.from_iterable(numbers)))


def _times(parts: list[_Part]) -> tuple[datetime | None, datetime | None, datetime | None]:
    """Return when an array started, ended and stopped (see `ArrayRow`)."""
    started = min(filter(None, (part.time_started for part in parts)), default=None)
    ended = max(filter(None, (part.time_ended for part in parts)), default=None)
    stopped = max(filter(None, (part.time_stopped for part in parts)), default=None)
    goes_on = sum(part.unended for part in parts)
    running = sum(part.running for part in parts)
    return started, None if goes_on else ended, None if running else stopped


def _counts(by_name: dict[str, Any]) -> dict[RunStatus, int]:
    ordered = sorted(by_name.items(), key=lambda item: (-item[1], item[0]))
    return {RunStatus(name): count for name, count in ordered}
