"""Names in a question that no run has; of each is told which known name is nearest.

`lines` takes the names in a question (`Names`) and runs from its answer. PostgreSQL is asked only about names
that none of these runs has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hpctrack.run import fields
from hpctrack.store.read import known_names
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from hpctrack.run.fields import FieldRef
    from hpctrack.store.database import Connection
    from hpctrack.store.read.queries import RunRow


#: What a run is said not to do, by the scope of the name.
_HAS = {
    "metrics": "has a metric",
    "args": "has an argument",
    "tags": "has a tag",
    "user": "is of user",
    "partition": "is in partition",
}
#: Scopes in which a run has one name, and its attribute.
_ATTRIBUTES = {"user": "user_name", "partition": "partition"}


class Names(NamedTuple):
    """What was asked for by name."""

    experiment: str | None = None
    fields: Sequence[FieldRef] = ()
    users: Sequence[str] = ()
    partitions: Sequence[str] = ()

    def of_runs(self) -> Iterator[tuple[str, str]]:
        """Yield the scope and the name of each that a run may have."""
        named = ((ref.of_names, ref.name) for ref in self.fields if ref.scope in fields.SCOPES)
        yield from dict.fromkeys(named)
        yield from (("user", name) for name in self.users)
        yield from (("partition", name) for name in self.partitions)


def lines(connection: Connection, names: Names, runs: Sequence[RunRow]) -> Iterator[str]:
    """Yield what is to be said of names that no run has; ``runs`` are some that were the answer.

    Raises `errors.StoreError`.
    """
    if not runs:
        yield from of_experiment(connection, names.experiment)
    yield from _of_runs(connection, names, runs)


def _of_runs(connection: Connection, names: Names, runs: Sequence[RunRow]) -> Iterator[str]:
    asked = [named for named in names.of_runs() if not any(_has(run, *named) for run in runs)]
    known = known_names.of_runs(connection) if asked else {}
    if not known:
        return
    for scope, name in asked:
        near = known.get(scope, [])
        if not _is_known(name, near, is_nested=scope == "args"):
            newest = f"of the newest {known_names.NEWEST:,} runs none"
            yield f"{newest} {_HAS[scope]} {name!r}: {nearest.hint(name, near)}"


def of_experiment(connection: Connection, name: str | None) -> Iterator[str]:
    """Yield that there is no such experiment, if it is so."""
    known = [] if name is None else known_names.experiments(connection)
    if name is not None and name not in known:
        yield f"no experiment {name!r}: {nearest.hint(name, known)}"


def _has(run: RunRow, scope: str, name: str) -> bool:
    if scope in _ATTRIBUTES:
        return bool(getattr(run, _ATTRIBUTES[scope]) == name)
    return fields.element(getattr(run, fields.SCOPES[scope]), name) is not None


def _is_known(name: str, known: Collection[str], *, is_nested: bool) -> bool:
    """Whether there is such a name; what stands below one that holds no names may be an element of a list."""
    if name in known:
        return True
    parent = _known_parent(name, known) if is_nested else ""
    return bool(parent) and not any(longer.startswith(f"{parent}.") for longer in known)


def _known_parent(name: str, known: Collection[str]) -> str:
    """Return the longest name above this one that is known; empty if none is."""
    parent = name.rpartition(".")[0]
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    return parent
