"""The columns of lists of runs, chosen by name as in ``--format``, and runs as CSV. Pure."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hpctrack import errors
from hpctrack.run import fields
from hpctrack.text import visible
from hpctrack.view import jsonable, notation, remarks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from hpctrack.run.fields import Field, FieldKind, Reader
    from hpctrack.store.read.lists import ArrayRow
    from hpctrack.store.read.queries import RunRow

DEFAULT = "run,job,user,experiment,name,state,elapsed,limit,nodes,step"
"""What CSV and parsable output have without ``--format``."""
_SPEC = re.compile(
    rf"""((?:{"|".join(fields.SCOPES)})\.(?:"[^"]+"|'[^']+')|[^,%]+)(?:%([0-9]{{1,4}}))?(?:,|\Z)"""
)
_WIDTH = 14


class Column(NamedTuple):
    """A column of a list."""

    header: str
    kind: FieldKind
    read: Reader
    """Returns the value in a run's record."""
    array: Literal["own", "common"] | None = None
    """See `Field.array`."""
    of_resources: bool = False
    """Whether it needs the run's resources, which have to be asked for."""
    metric: str | None = None
    """The metric whose statistics it needs, which have to be asked for, too."""
    width: int | None = None
    """Longer cells are cut."""

    @property
    def is_numeric(self) -> bool:
        """Whether it stands at the right."""
        return self.kind in notation.NUMERIC

    def value(self, line: RunRow | ArrayRow, now: datetime) -> Any:
        """Return what a line holds; of an array None for what its tasks do not have in common."""
        if not line.is_array:
            return self.read(line, now)
        if self.array == "common":
            return self.read(line.latest, now)
        return self.read(line, now) if self.array == "own" else None

    def text(self, line: RunRow | ArrayRow, now: datetime) -> str:
        """Return how people read that."""
        return notation.text(self.kind, self.value(line, now))


class Besides(NamedTuple):
    """What is shown of runs beside their own rows, and has to be asked for."""

    resources: bool = False
    """Of each run's latest attempt; arrays have none."""
    metrics: frozenset[str] = frozenset()
    """Of which statistics are shown."""


def _remarks(line: RunRow | ArrayRow, _now: datetime) -> str | None:
    said = remarks.of_array(line) if line.is_array else remarks.of_run(line)
    return ", ".join(said) or None


_REMARKS = Column("remarks", "text", _remarks, "own")
_REMARKS_HELP = "what is worth saying beside the state"


def parse(text: str) -> tuple[Column, ...]:
    """Read ``run,name%20,args.lr``; a number behind % bounds the width. Raises `errors.UsageError`."""
    columns = []
    position = 0
    while position < len(text):
        match = _SPEC.match(text, position)
        if match is None:
            raise errors.UsageError(f"{text!r} is no list of columns: write run,name%20,args.lr")
        width = None if match[2] is None else max(int(match[2]), 1)
        columns.append(_choose(match[1].strip())._replace(width=width))
        position = match.end()
    if not columns:
        raise errors.UsageError("--format needs names of columns: --format help lists them")
    return tuple(columns)


def _choose(name: str) -> Column:
    lowered = name.lower()
    if lowered == _REMARKS.header:
        return _REMARKS
    if lowered in fields.LISTED:
        return _of_field(fields.LISTED[lowered])
    ref = fields.scoped(name)
    if ref is None:
        raise errors.UsageError(f"{name!r} is no column: {fields.hint(name, names())}")
    return Column(name, ref.kind, ref.read, metric=ref.name if ref.is_statistic else None)


def _of_field(field: Field) -> Column:
    return Column(field.name, field.kind, field.read, field.array, field.of_resources)


def names() -> list[str]:
    """Return the names of the columns that are the same for all runs."""
    return [*fields.LISTED, _REMARKS.header]


def explain() -> str:
    """Return the list of columns for ``--format help``."""
    told = {field.name: field.help for field in fields.LISTED.values()}
    told |= {_REMARKS.header: _REMARKS_HELP}
    told |= {"args.NAME": "one argument", "tags.NAME": "one tag"}
    told |= {"metrics.NAME": "latest value of one metric"}
    told |= {f"{scope}.NAME": what for scope, what in fields.STATISTICS.items()}
    lines = [f"{name:<{_WIDTH}}{what}" for name, what in told.items()]
    return "\n".join([*lines, "", "A number behind % bounds the width: name%20"])


def besides(columns: Sequence[Column] | None) -> Besides:
    """Return what the columns show beside the runs' own rows."""
    shown = columns or ()
    metrics = frozenset(column.metric for column in shown if column.metric is not None)
    return Besides(any(column.of_resources for column in shown), metrics)


def csv_lines(columns: Sequence[Column], runs: Iterable[RunRow], now: datetime) -> Iterator[str]:
    """Yield runs as RFC 4180 has them: times in ISO 8601 in UTC, lengths in seconds, unknown is empty."""
    yield _csv([column.header for column in columns])
    for run in runs:
        yield _csv([_machine(column.read(run, now)) for column in columns])


def _csv(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(visible.cell, cells))
    return text.getvalue()


def _machine(value: object) -> object:
    plain = jsonable.plain(value)
    if isinstance(plain, dict | list):
        return json.dumps(plain, ensure_ascii=False)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return plain
