"""Which runs are asked for, and PostgreSQL's answer, page by page.

Make a `Question`, `ask` it, show the `Answer`. The next page is the same question ``after`` its last line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from hpctrack.run import conditions
from hpctrack.run.fields import FieldRef
from hpctrack.store.read import attempt_resources, filters, lists, lookup, metric_summaries, queries
from hpctrack.store.read.unknown_names import Names
from hpctrack.view import remarks
from hpctrack.view.columns import Besides

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from hpctrack.run.runids import RunRef
    from hpctrack.run.states import RunStatus
    from hpctrack.store.database import Connection
    from hpctrack.store.read.queries import Cluster, RunRow

    Line: TypeAlias = RunRow | lists.ArrayRow


@dataclass(frozen=True)
class Question:
    """Which runs, in which order."""

    refs: tuple[RunRef, ...] = ()
    statuses: tuple[RunStatus, ...] = ()
    not_statuses: tuple[RunStatus, ...] = ()
    users: tuple[str, ...] = ()
    mine: bool = False
    """Only the caller's own, beside those of ``users``."""
    usual_scope: bool = False
    """Those that lists on a site's server are of where nobody says: the caller's, unless they act for all."""
    experiment: str | None = None
    tags: tuple[tuple[str, str | None], ...] = ()
    name: str | None = None
    partitions: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    where: conditions.Expression | None = None
    archived: bool = False
    """Archived runs, too. They are there anyway where runs are named, or a condition asks for the field."""
    sort: filters.Sort | None = None
    """None: the newest, and of those the newest last."""
    after: RunRef | None = None
    limit: int = 50
    unfold: bool = False
    """One line for each task of a job array."""

    @property
    def filtered(self) -> bool:
        """Whether anything narrows the list."""
        anything = Question(
            sort=self.sort, limit=self.limit, unfold=self.unfold, usual_scope=self.usual_scope
        )
        return self != anything

    @property
    def nothing(self) -> str:
        """What to say where no run matches."""
        if self.filtered:
            return "No run matches. hpctrack status without filters lists all runs."
        return (
            "No runs yet. Submit one: hpctrack sbatch train.sh, "
            "or run one here: hpctrack run -- python train.py (archived ones: --archived"
            + ("; everybody's: --allusers)" if self.usual_scope else ")")
        )

    @property
    def _takes_archived(self) -> bool:
        asked = () if self.where is None else conditions.fields_of(self.where)
        return self.archived or bool(self.refs) or FieldRef("run", "archived") in asked

    @property
    def order(self) -> filters.Sort:
        """How pages are sorted."""
        return self.sort or lists.NEWEST_FIRST

    def usual(self, *, personal: bool) -> Question:
        """Return the question with what is meant where nobody says: on a site's server one's own runs."""
        says = bool(self.refs or self.users or self.mine)
        return replace(self, usual_scope=not personal and not says)

    def names(self, shown: Iterable[FieldRef] = ()) -> Names:
        """Return what it asks for by name, the fields that are shown among it."""
        refs = [] if self.where is None else list(conditions.fields_of(self.where))
        refs += [] if self.sort is None else [self.sort.field]
        refs += [*shown, *(FieldRef("tags", name) for name, _ in self.tags)]
        return Names(self.experiment, refs, self.users, self.partitions)

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics whose statistics it looks at."""
        return frozenset(ref.name for ref in self.names().fields if ref.is_statistic)

    def filter(self, connection: Connection) -> filters.RunFilter:
        """Return the filter for the user who is logged in. Raises `errors.RunNotFound`."""
        return filters.RunFilter(
            ids=lookup.find_all(connection, self.refs) if self.refs else None,
            statuses=self.statuses or None,
            not_statuses=self.not_statuses or None,
            users=self._users(connection),
            experiment=self.experiment,
            tags=self.tags,
            name=self.name,
            partitions=self.partitions or None,
            since=self.since,
            until=self.until,
            where=self.where,
            archived=self._takes_archived,
        )

    def _users(self, connection: Connection) -> tuple[str, ...] | None:
        if self.usual_scope:
            names = lookup.usual_names(connection)
            return None if names is None else tuple(names)
        mine = lookup.my_names(connection) if self.mine else ()
        return (*self.users, *mine) or None

    def last(self, connection: Connection) -> int | None:
        """Return the id of the run behind which the page begins. Raises `errors.RunNotFound`."""
        return None if self.after is None else lookup.find_one(connection, self.after)


_NOTHING = Besides()


@dataclass(frozen=True)
class Answer:
    """What PostgreSQL says."""

    now: datetime
    page: lists.Page
    newest_first: bool
    """Whether the page is in the runs' own order; people read it the other way round, the newest last."""
    clusters: list[Cluster]

    @property
    def lines(self) -> list[Line]:
        """The lines in the order in which they are shown."""
        return self.page.lines[::-1] if self.newest_first else self.page.lines

    @property
    def runs(self) -> list[RunRow]:
        """The runs among the lines: all of them where nothing is folded."""
        return [line for line in self.lines if not line.is_array]

    @property
    def heads(self) -> list[RunRow]:
        """A run for each line: of an array the latest of its tasks."""
        return [line.latest if line.is_array else line for line in self.lines]

    @property
    def folded(self) -> bool:
        """Whether any line stands for an array."""
        return any(line.is_array for line in self.page.lines)

    @property
    def next_page(self) -> str | None:
        """What ``--after`` takes to go on behind this page; None where nothing comes."""
        return f"r{self.page.lines[-1].id}" if self.page.more and self.page.lines else None

    @property
    def warnings(self) -> list[str]:
        """Lines about clusters whose Slurm does not answer."""
        lines = (remarks.on_cluster(cluster, self.now) for cluster in self.clusters)
        return [line for line in lines if line is not None]

    @property
    def summary(self) -> str:
        """The line that counts the runs by state."""
        page = self.page
        counts = ", ".join(f"{count} {status.value}" for status, count in page.counts.items())
        word = "run" if page.total == 1 else "runs"
        total = (
            f"{page.total} {word}" if page.counted else f"{page.total} runs or more, the {self._end} of them"
        )
        return f"{total}: {counts}{self._rest()}"

    @property
    def _end(self) -> str:
        return "newest" if self.newest_first else "first"

    def _rest(self) -> str:
        if self.next_page is None:
            return ""
        further = "older ones" if self.newest_first else "the next"
        return f" (the {self._end} {self._shown()} shown; {further}: --after {self.next_page})"

    def _shown(self) -> str:
        count = len(self.page.lines)
        if count == 1:
            return "line is" if self.folded else "is"
        return f"{count} lines are" if self.folded else f"{count} are"


def list_runs(connection: Connection, question: Question, limit: int | None) -> list[RunRow]:
    """Return the runs themselves, the newest first unless they are sorted; without a limit all of them."""
    which = question.filter(connection)
    return lists.list_runs(connection, which, limit, question.last(connection), question.order)


def ask(connection: Connection, question: Question, besides: Besides = _NOTHING) -> Answer:
    """Ask PostgreSQL. Raises `errors.RunNotFound` for what names no run."""
    now = queries.now(connection)
    page = lists.fetch_page(
        connection,
        question.filter(connection),
        question.limit,
        question.last(connection),
        question.order,
        # Who names an array wants to see its tasks.
        fold=not question.unfold and not question.refs and question.sort is None,
    )
    if besides != _NOTHING:
        runs = [line for line in page.lines if not line.is_array]
        page = page._replace(lines=list(add(connection, runs, besides)))
    return Answer(now, page, question.sort is None, queries.clusters(connection))


def add(connection: Connection, runs: Iterable[RunRow], besides: Besides) -> Iterable[RunRow]:
    """Return runs with what is shown beside their own rows."""
    if besides.resources:
        runs = attempt_resources.add(connection, runs)
    return metric_summaries.add(connection, runs, besides.metrics) if besides.metrics else runs
