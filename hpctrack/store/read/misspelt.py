"""Names in questions that nothing has: said beside an answer that is empty for them, with the nearest one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hpctrack.run import fields
from hpctrack.store.read import known_names
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from hpctrack.run.fields import FieldRef
    from hpctrack.store.database import Connection
    from hpctrack.store.read.queries import RunRow

_WORDS = {
    "metrics": "has a metric",
    "args": "has an argument",
    "tags": "has a tag",
    "user": "is of user",
    "partition": "is in partition",
}


class Names(NamedTuple):
    """What was asked for by name."""

    experiment: str | None = None
    fields: Sequence[FieldRef] = ()
    users: Sequence[str] = ()
    partitions: Sequence[str] = ()


def lines(connection: Connection, names: Names, runs: Sequence[RunRow]) -> Iterator[str]:
    """Yield what is to be said of names that no run has; ``runs`` are some that were the answer.

    Raises `errors.StoreError`.
    """
    if not runs:
        yield from of_experiment(connection, names.experiment)
    wanted = [ref for ref in dict.fromkeys(names.fields) if ref.scope in fields.SCOPES]
    asked: list[tuple[str, str]] = [ref for ref in wanted if not _is_there(ref, runs)]
    users, partitions = ({getattr(run, name) for run in runs} for name in ("user_name", "partition"))
    asked += [("user", name) for name in names.users if name not in users]
    asked += [("partition", name) for name in names.partitions if name not in partitions]
    known = known_names.of_runs(connection) if asked else {}
    for scope, name in asked:
        found = known.get(scope, [])
        if known and not _is_known(name, found, is_nested=scope == "args"):
            newest = f"of the newest {known_names.NEWEST:,} runs none"
            yield f"{newest} {_WORDS[scope]} {name!r}: {nearest.hint(name, found)}"


def of_experiment(connection: Connection, name: str | None) -> Iterator[str]:
    """Yield that there is no such experiment, if it is so."""
    known = [] if name is None else known_names.experiments(connection)
    if name is not None and name not in known:
        yield f"no experiment {name!r}: {nearest.hint(name, known)}"


def _is_there(ref: FieldRef, runs: Iterable[RunRow]) -> bool:
    objects = (getattr(run, fields.SCOPES[ref.scope]) for run in runs)
    return any(fields.element(value, ref.name) is not None for value in objects)


def _is_known(name: str, known: Collection[str], *, is_nested: bool) -> bool:
    """Whether there is such a name; what stands below one that holds no names may be an element of a list."""
    if name in known:
        return True
    parent = name.rpartition(".")[0] if is_nested else ""
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    return bool(parent) and not any(one.startswith(f"{parent}.") for one in known)
