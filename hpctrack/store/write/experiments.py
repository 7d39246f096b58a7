"""Experiments: what is in them, and their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from hpctrack import errors, limits
from hpctrack.store import database, rows
from hpctrack.store.read import known_names
from hpctrack.store.write import changes
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from hpctrack.store.database import Connection


@dataclass(frozen=True)
class Experiment:
    """An experiment, and what its runs add up to."""

    id: int
    name: str
    user_name: str
    """Who named it first; only they may rename and delete it."""
    time_created: datetime
    comment: str | None
    tags: Any
    goals: dict[str, str]
    """Of metrics ``max`` or ``min``: what is better."""
    archived: bool
    """Whether lists leave it out."""
    counts: dict[str, int]
    """Number of runs by state; archived ones only where they were asked for."""
    archived_runs: int
    """Number of archived runs."""
    first: datetime | None
    """When its oldest run was submitted."""
    newest: datetime | None

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(self.counts.values())


class Link(NamedTuple):
    """A link between two experiments, by their names."""

    origin: str
    kind: str
    target: str


def list_all(
    connection: Connection, users: Collection[str] | None = None, *, archived: bool = False
) -> list[Experiment]:
    """Return experiments, the one with the newest run last; archived ones, and runs, if asked for.

    ``users``: only what they named or have runs in, and of runs only theirs are counted. An archived one that
    has runs which are not archived is there in any case.
    """
    names = None if users is None else list(users)
    return rows.records(connection, "list_experiments", Experiment, users=names, archived=archived)


def get(connection: Connection, name: str, *, archived: bool = False) -> Experiment:
    """Return one experiment; archived runs are counted if asked for. Raises `errors.ExperimentNotFound`."""
    experiment = rows.one(connection, "get_experiment", Experiment, name=name, archived=archived)
    if experiment is None:
        hint = nearest.hint(name, known_names.experiments(connection))
        raise errors.ExperimentNotFound(f"no experiment {name!r}: {hint} (hpctrack experiment list)")
    return experiment


def ensure(connection: Connection, name: str) -> Experiment:
    """Return the experiment of a name, made if there is none.

    Raises `errors.UsageError` for a long one, `errors.StoreDenied` for one that the caller may not see.
    """
    name = database.without_secrets(name)
    limits.text(limits.EXPERIMENT, name)
    made = rows.execute(connection, "ensure_experiment", name=name)
    try:
        return get(connection, name)
    except errors.ExperimentNotFound:
        if made:
            raise
        raise errors.StoreDenied(
            f"the name {name!r} is taken by an experiment that you may not see: choose another"
        ) from None


def links(connection: Connection, experiment: Experiment) -> list[Link]:
    """Return the links of an experiment, in both directions."""
    return rows.records(connection, "fetch_experiment_links", Link, id=experiment.id)


def count_rows(connection: Connection, experiment: Experiment) -> int:
    """Return how many rows of metrics its runs have."""
    return int(rows.scalar(connection, "count_experiment_rows", id=experiment.id))


def run_ids(connection: Connection, experiment: Experiment, *, archived: bool) -> list[int]:
    """Return the ids of an experiment's runs, archived ones among them or not."""
    return rows.column(connection, "fetch_experiment_runs", id=experiment.id, archived=archived)


def check_rights(connection: Connection, experiment: Experiment) -> None:
    """Raise `errors.StoreDenied` for somebody else's experiment."""
    if not rows.execute(connection, "check_experiment_rights", id=experiment.id):
        raise errors.StoreDenied(
            f"experiment {experiment.name!r} belongs to {experiment.user_name}: only they may change it"
        )


def rename(connection: Connection, experiment: Experiment, new: str) -> None:
    """Give an experiment another name.

    Raises `errors.UsageError` for a name that another one has or that is too long, `errors.StoreDenied` for
    somebody else's.
    """
    limits.text(limits.EXPERIMENT, new)
    check_rights(connection, experiment)
    try:
        rows.execute(connection, "rename_experiment", id=experiment.id, new=database.without_secrets(new))
    except errors.StoreError as error:
        if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            raise errors.UsageError(f"there is an experiment {new!r} already") from None
        raise


def delete(connection: Connection, experiment: Experiment) -> None:
    """Delete an experiment without runs.

    Raises `errors.StoreDenied` for somebody else's, `errors.StoreBusy` where runs have come meanwhile.
    """
    check_rights(connection, experiment)
    if not rows.execute(connection, "delete_experiment", id=experiment.id):
        raise errors.StoreBusy(f"experiment {experiment.name!r} has got new runs meanwhile: try again")


def archive(connection: Connection, experiment: Experiment, *, archived: bool = True) -> list[int]:
    """Leave an experiment and the caller's runs in it out of lists, or list them again; return their ids.

    Nobody's runs disappear from lists because somebody else wishes so. Raises `errors.StoreDenied`.
    """
    _change(connection, experiment, "archive_experiment", archived=archived)
    ids = rows.column(connection, "fetch_own_runs", id=experiment.id)
    changes.archive(connection, ids, archived=archived)
    return ids


def set_comment(connection: Connection, experiment: Experiment, text: str | None) -> None:
    """Set what people note about an experiment.

    Raises `errors.StoreDenied` for somebody else's, `errors.UsageError` for what does not fit, as the
    functions below.
    """
    text = database.without_secrets(text)
    if text is not None:
        limits.text(limits.NOTE, text)
    _change(connection, experiment, "set_experiment_comment", comment=text)


def tag(connection: Connection, experiment: Experiment, tags: Mapping[str, Any]) -> None:
    """Add tags: names to values, true for none."""
    stored = database.without_secrets(limits.value(limits.TAGS, dict(tags)))
    _change(connection, experiment, "tag_experiment", tags=Jsonb(stored))


def untag(connection: Connection, experiment: Experiment, names: Collection[str]) -> None:
    """Remove tags by name; one that is not there is no error."""
    _change(connection, experiment, "untag_experiment", names=database.without_secrets(list(names)))


def set_goals(
    connection: Connection, experiment: Experiment, goals: Mapping[str, str], remove: Collection[str] = ()
) -> None:
    """Say of metrics which values are better: ``max`` or ``min``. What is in ``remove`` is forgotten.

    Raises `errors.UsageError` also for any other word.
    """
    for metric, better in goals.items():
        if better not in ("max", "min"):
            raise errors.UsageError(f"a goal is max or min, not {better!r} ({metric})")
    merged = {name: word for name, word in experiment.goals.items() if name not in remove} | dict(goals)
    limits.value(limits.GOALS, merged)
    stored = database.without_secrets(dict(goals))
    _change(connection, experiment, "set_goals", goals=Jsonb(stored), remove=list(remove))


def link(connection: Connection, experiment: Experiment, kind: str, other: int) -> None:
    """Link two experiments; a link that is there stays."""
    limits.text(limits.LINK, kind)
    _change(connection, experiment, "link_experiments", kind=database.without_secrets(kind), to_id=other)


def unlink(connection: Connection, experiment: Experiment, kind: str, other: int) -> None:
    """Remove a link; one that is not there is no error."""
    _change(connection, experiment, "unlink_experiments", kind=database.without_secrets(kind), to_id=other)


def _change(connection: Connection, experiment: Experiment, name: str, **parameters: Any) -> None:
    check_rights(connection, experiment)
    rows.execute(connection, name, id=experiment.id, **parameters)
