"""What ``hpctrack status`` is asked, and PostgreSQL's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpctrack.cli.terminal import columns, listing
from hpctrack.store.read import attempt_resources, filters, lists, lookup, queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from hpctrack.model import RunStatus
    from hpctrack.run import conditions, runids
    from hpctrack.store.database import Connection


@dataclass(frozen=True)
class Question:
    """What to list."""

    refs: tuple[runids.RunRef, ...] = ()
    statuses: tuple[RunStatus, ...] = ()
    not_statuses: tuple[RunStatus, ...] = ()
    users: tuple[str, ...] = ()
    mine: bool = False
    experiment: str | None = None
    tags: tuple[tuple[str, str | None], ...] = ()
    name: str | None = None
    partitions: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    where: conditions.Expression | None = None
    sort: filters.Sort | None = None
    """None: the newest, and of those the newest last."""
    after: runids.RunRef | None = None
    limit: int = 50
    unfold: bool = False
    """One line for each task of a job array."""

    @property
    def filtered(self) -> bool:
        """Whether anything narrows the list."""
        anything = Question(sort=self.sort, limit=self.limit, unfold=self.unfold)
        return self != anything

    @property
    def nothing(self) -> str:
        """What to say where no run matches."""
        if self.filtered:
            return "No run matches. hpctrack status without filters lists all runs."
        return (
            "No runs yet. Submit one: hpctrack sbatch train.sh, "
            "or run one here: hpctrack run -- python train.py"
        )

    def filter(self, connection: Connection) -> filters.RunFilter:
        """Return the filter for whoever is logged in. Raises `errors.RunNotFound`."""
        mine = lookup.my_names(connection) if self.mine else ()
        return filters.RunFilter(
            ids=lookup.find_all(connection, self.refs) if self.refs else None,
            statuses=self.statuses or None,
            not_statuses=self.not_statuses or None,
            users=(*self.users, *mine) or None,
            experiment=self.experiment,
            tags=self.tags,
            name=self.name,
            partitions=self.partitions or None,
            since=self.since,
            until=self.until,
            where=self.where,
        )


def ask(
    connection: Connection, question: Question, chosen: Sequence[columns.Chosen] | None = None
) -> listing.Answer:
    """Ask PostgreSQL for what ``chosen`` columns need. Raises `errors.RunNotFound` for what names no run."""
    session = queries.session(connection)
    page = lists.fetch_page(
        connection,
        question.filter(connection),
        question.limit,
        None if question.after is None else lookup.find_one(connection, question.after),
        question.sort or lists.NEWEST_FIRST,
        # Who names an array wants to see its tasks.
        fold=not question.unfold and not question.refs and question.sort is None,
    )
    if columns.need_resources(chosen):
        page = page._replace(lines=list(attempt_resources.add(connection, listing.runs(page.lines))))
    return listing.Answer(session.now, page, question.sort is None, queries.clusters(connection))
