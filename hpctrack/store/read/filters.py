"""Which runs to list, and in which order, as SQL.

The expressions are ours, and columns are those of `fields.FIELDS`; whatever a user wrote is a parameter.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql

from hpctrack import errors
from hpctrack.run import conditions, fields
from hpctrack.run.fields import FieldRef
from hpctrack.run.states import RunStatus
from hpctrack.store.statements import composable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NONE: Mapping[str, sql.Composable] = MappingProxyType({})
#: As the index of what lists look at has it.
LISTED = sql.SQL("NOT archived")
#: Fields that are no column of run_overview, but worked out from some.
_WORKED_OUT: Mapping[str, str] = MappingProxyType(
    {"elapsed()": "(coalesce(time_ended, time_stopped, now()) - time_started - suspended)"}
)
#: Tags are texts on the command line: those that look like numbers are compared as such.
_NUMERIC = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,2})?$"
#: Statistics that may be nan, which PostgreSQL takes for greater than all numbers.
_MAYBE_NAN = ("first", "last")
_RANGE = re.compile(r"\[(!?)(\]?[^\]]*)\]")


@dataclass(frozen=True)
class RunFilter:
    """Which runs to list; None means any."""

    ids: tuple[int, ...] | None = None
    statuses: tuple[RunStatus, ...] | None = None
    not_statuses: tuple[RunStatus, ...] | None = None
    users: tuple[str, ...] | None = None
    experiment: str | None = None
    tags: tuple[tuple[str, str | None], ...] = ()
    """All of them; None: with whatever value."""
    name: str | None = None
    """Glob of the job's name."""
    partitions: tuple[str, ...] | None = None
    since: datetime | None = None
    """Created then or later."""
    until: datetime | None = None
    """Created earlier."""
    where: conditions.Expression | None = None
    archived: bool = True
    """Whether archived runs are among them."""


class Sort(NamedTuple):
    """The order of a list; runs without a value come last."""

    field: FieldRef = FieldRef("run", "run")
    descending: bool = True

    @classmethod
    def parse(cls, text: str) -> Sort:
        """Read a field to sort by; ``-`` before it turns the order round. Raises `errors.UsageError`."""
        return cls(fields.parse(text.strip().lstrip("+-")), descending=text.strip().startswith("-"))

    @property
    def by_id(self) -> bool:
        """Whether it is the runs' own order."""
        return self.field == FieldRef("run", "run")

    @property
    def has_index(self) -> bool:
        """Whether an index has the runs in this order, those without a value left out."""
        return (self.field.scope, self.descending) in (("min", False), ("max", True))


class Parameters:
    """Collects the parameters of a statement, each of which has a placeholder, and what it joins."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self._metrics: dict[str, tuple[sql.Placeholder, sql.Identifier]] = {}

    def add(self, value: Any) -> sql.Placeholder:
        """Return the placeholder of a value."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return sql.Placeholder(name)

    def summary(self, metric: str) -> sql.Identifier:
        """Return the alias of the statistics of a metric, which the statement joins (`joins`)."""
        if metric not in self._metrics:
            alias = sql.Identifier(f"summary_{len(self._metrics)}")
            self._metrics[metric] = self.add(metric), alias
        return self._metrics[metric][1]

    def summary_parts(self, metric: str) -> dict[str, sql.Composable]:
        """Return what statements about the statistics of a metric are made of."""
        name, alias = self._metrics[metric]
        settled, live = (
            composable(of_runs).format(metric=name, alias=alias)
            for of_runs in ("settled_summaries", "live_summaries")
        )
        return {"settled": settled, "live": live, "alias": alias}

    def joins(self, leading: Mapping[str, sql.Composable] = _NONE) -> sql.Composable:
        """Return what the conditions made so far look at beside run_overview.

        ``leading``: by metric what is joined in place of its statistics in all runs.
        """
        joined = composable("joined_summaries")
        return sql.SQL(" ").join(
            leading.get(metric) or joined.format(**self.summary_parts(metric)) for metric in self._metrics
        )


def condition(which: RunFilter, parameters: Parameters) -> sql.Composable:
    """Return the condition on rows of run_overview."""
    parts: list[sql.Composable] = [
        sql.SQL(text).format(parameters.add(value))
        for text, value in _comparisons(which)
        if value is not None
    ]
    parts += [_tag(name, value, parameters) for name, value in which.tags]
    if not which.archived:
        parts.append(LISTED)
    if which.where is not None:
        parts.append(expression(which.where, parameters))
    return _joined(" AND ", parts) if parts else sql.SQL("true")


def _comparisons(which: RunFilter) -> tuple[tuple[str, object], ...]:
    """Return conditions with a place for a value, each with its value: None where it is not asked for."""
    return (
        ("id = ANY ({}::bigint[])", _list(which.ids)),
        ("status = ANY ({}::runstatus[])", _words(which.statuses)),
        ("status <> ALL ({}::runstatus[])", _words(which.not_statuses)),
        ("user_name = ANY ({}::text[])", _list(which.users)),
        ("experiment_id = (SELECT e.id FROM experiments e WHERE e.name = {}::text)", which.experiment),
        ("job_name ~ {}::text", None if which.name is None else glob(which.name)),
        ("partition = ANY ({}::text[])", _list(which.partitions)),
        ("time_created >= {}::timestamptz", which.since),
        ("time_created < {}::timestamptz", which.until),
    )


class Order(NamedTuple):
    """How to order."""

    key: sql.Composable
    """What to order by, of a row of run_overview."""
    by: sql.Composable
    """The order of rows that have it as ``key``."""
    behind: sql.Composable
    """The condition of what comes behind some run."""
    not_before: sql.Composable
    """A simpler condition, which some others meet, too; those without a value do not."""


def order(sort: Sort, *, after: int | None, parameters: Parameters) -> Order:
    """Return how to order, and the condition of the page behind the run ``after``."""
    key = _sort_key(sort.field, parameters)
    direction = sql.SQL("DESC" if sort.descending else "ASC")
    by = sql.SQL("key {}").format(direction)
    if not sort.by_id:
        by = sql.SQL("key {} NULLS LAST, id DESC").format(direction)
    if after is None:
        return Order(key, by, sql.SQL("true"), sql.SQL("true"))
    last = parameters.add(after)
    beyond = sql.SQL("<" if sort.descending else ">")
    if sort.by_id:
        return Order(key, by, sql.SQL("id {} {}").format(beyond, last), sql.SQL("true"))
    at = sql.SQL("(SELECT {} FROM run_overview {} WHERE id = {})").format(key, parameters.joins(), last)
    behind = sql.SQL(
        "({key} {beyond} {at} OR {key} IS NULL AND {at} IS NOT NULL"
        " OR {key} IS NOT DISTINCT FROM {at} AND id < {last})"
    )
    not_before = sql.SQL("{} {}= {}").format(key, beyond, at)
    return Order(key, by, behind.format(key=key, beyond=beyond, at=at, last=last), not_before)


class Leading(NamedTuple):
    """The first runs in an order that has an index (`Sort.has_index`)."""

    joins: sql.Composable
    """What run_overview is joined with: some statistics are those of these runs only."""
    filled: sql.Composable
    """Whether there may be more of them."""
    complete: sql.Composable
    """Whether all runs that match are among them, since they have to have a value."""


def leading(which: RunFilter, sort: Sort, order: Order, parameters: Parameters, most: int) -> Leading:
    """Return at most so many runs with which the order begins, whatever else is asked of them.

    Comparisons of the field that orders them are kept, if all runs must meet them.
    """
    metric = sort.field.name
    bounds = [*_bounds(which.where, sort.field, parameters)]
    bounded = _joined(" AND ", [*bounds, order.not_before])
    parts = parameters.summary_parts(metric)
    most_placed = parameters.add(most)
    first = composable("leading_summaries").format(
        condition=sql.SQL("{} IS NOT NULL AND {}").format(order.key, bounded),
        order=sql.SQL("{} {}").format(order.key, sql.SQL("DESC NULLS LAST" if sort.descending else "ASC")),
        most=most_placed,
        **parts,
    )
    joined = composable("joined_leading").format(leading=first, alias=parts["alias"])
    filled = composable("leading_filled").format(leading=first, most=most_placed)
    complete = sql.SQL("NOT {}").format(filled) if bounds else sql.SQL("false")
    return Leading(parameters.joins({metric: joined}), filled, complete)


def _bounds(
    tree: conditions.Expression | None, field: FieldRef, parameters: Parameters
) -> Iterator[sql.Composable]:
    """Yield comparisons of a field that a condition demands of all runs."""
    for item in tree.items if isinstance(tree, conditions.And) else (tree,):
        if isinstance(item, conditions.Compare) and item.field == field:
            yield _compare(item, parameters)


def expression(
    tree: conditions.Expression, parameters: Parameters, *, negated: bool = False
) -> sql.Composable:
    """Return a condition that `conditions.parse` read, or its opposite.

    The opposite of a comparison is a comparison: a value that is not there matches neither.
    """
    if isinstance(tree, conditions.Not):
        return expression(tree.item, parameters, negated=not negated)
    if isinstance(tree, conditions.And | conditions.Or):
        parts = [expression(item, parameters, negated=negated) for item in tree.items]
        return _joined(" AND " if isinstance(tree, conditions.And) is not negated else " OR ", parts)
    if isinstance(tree, conditions.In):
        return _one_of(tree, parameters, negated=negated)
    if isinstance(tree, conditions.Compare):
        return _compare(tree, parameters, negated=negated)
    value = _value(tree.field, parameters)
    if isinstance(tree, conditions.IsNull):
        return sql.SQL("{} IS NOT NULL" if negated else "{} IS NULL").format(value)
    if tree.field.is_statistic:
        return sql.SQL("{} IS NULL" if negated else "{} IS NOT NULL").format(value)
    there = sql.SQL("coalesce({} <> 'false', false)").format(value)
    return sql.SQL("NOT {}").format(there) if negated else there


def _one_of(tree: conditions.In, parameters: Parameters, *, negated: bool) -> sql.Composable:
    operator: conditions.Operator = "!=" if negated else "="
    items = (conditions.Compare(tree.field, operator, value) for value in tree.values)
    return _joined(" AND " if negated else " OR ", [_compare(item, parameters) for item in items])


def glob(pattern: str) -> str:
    """Return the regular expression of PostgreSQL's for a shell's pattern. Raises `errors.UsageError`."""
    parts = ["^"]
    position = 0
    while position < len(pattern):
        char, position = pattern[position], position + 1
        choice = _RANGE.match(pattern, position - 1)
        if choice is not None and choice[2]:
            position = choice.end()
            inside = choice[2].replace("\\", "\\\\").replace("[", "\\[")
            parts.append(_checked(f"[{'^' if choice[1] else ''}{inside}]", choice[0]))
        else:
            parts.append({"*": ".*", "?": "."}.get(char) or re.sub(r"(\W)", r"\\\1", char))
    return "".join([*parts, "$"])


def _checked(choice: str, written: str) -> str:
    try:
        re.compile(choice)
    except re.error as error:
        raise errors.UsageError(f"{written!r} is no choice of characters: {error.msg}") from None
    return choice


def _compare(tree: conditions.Compare, parameters: Parameters, *, negated: bool = False) -> sql.Composable:
    value = _element(tree.field, parameters)
    operator = sql.SQL(_OPPOSITES[tree.operator] if negated else tree.operator.upper())
    if tree.field.kind == "value":
        return _compare_value(tree, operator, value, parameters)
    if tree.field.kind != "json":
        type_ = sql.SQL("bigint" if type(tree.value) is int else _TYPES[tree.field.kind])
        wanted = parameters.add(_plain(tree.value))
        return sql.SQL("{} {} {}::{}").format(value, operator, wanted, type_)
    comparison = _compare_element(tree, operator, value, parameters)
    # PostgreSQL has no statistics of what is inside JSON, and takes every comparison for one that hardly any
    # run meets; of a CASE it thinks that half of them do, and reads each table once. Where there must be
    # latest values, it need not join runs without any before it looks at them.
    there = sql.SQL("last IS NOT NULL AND " if tree.field.scope == "metrics" else "")
    return sql.SQL("({}CASE WHEN {} THEN true ELSE false END)").format(there, comparison)


def _compare_value(
    tree: conditions.Compare, operator: sql.SQL, value: sql.Composable, parameters: Parameters
) -> sql.Composable:
    """Return the comparison of one of a metric's statistics, bare where an index has it."""
    wanted: float = tree.value  # type: ignore[assignment]
    if tree.field.scope in _MAYBE_NAN and not math.isnan(wanted):
        value = sql.SQL("nullif({}, 'NaN')").format(value)
    return sql.SQL("{} {} {}::double precision").format(value, operator, parameters.add(float(wanted)))


def _compare_element(
    tree: conditions.Compare, operator: sql.SQL, value: sql.Composable, parameters: Parameters
) -> sql.Composable:
    """Return the comparison of an element of an object, by the type of what it is compared with."""
    wanted = tree.value
    if isinstance(wanted, bool):
        return sql.SQL("{0} {1} {2}::jsonb AND {0} <> 'null'").format(
            value, operator, parameters.add(str(wanted).lower())
        )
    if isinstance(wanted, str):
        return sql.SQL("({} #>> '{{}}') {} {}::text").format(value, operator, parameters.add(wanted))
    return _compare_number(tree.field, operator, value, wanted, parameters)  # type: ignore[arg-type]


_OPPOSITES: Mapping[conditions.Operator, str] = MappingProxyType(
    {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<", "like": "NOT LIKE"}
)


def _compare_number(
    field: FieldRef, operator: sql.SQL, value: sql.Composable, wanted: float, parameters: Parameters
) -> sql.Composable:
    """Return the comparison of an element with a number; nan is neither greater nor less than any.

    JSON's own numbers are compared as such, since that is many times faster than metric_number(); in JSON's
    order texts come before numbers, and objects, which stand for special numbers of metrics, behind them.
    """
    upwards = operator.as_string(None) in (">", ">=", "!=")
    number = _number(field, value)
    if upwards and not math.isnan(wanted):  # PostgreSQL takes nan for greater than all numbers
        number = sql.SQL("nullif({}, 'NaN')").format(number)
    as_number = sql.SQL("{} {} {}::double precision").format(number, operator, parameters.add(wanted))
    if not math.isfinite(wanted) or field.scope == "tags":
        return as_number
    as_json = sql.SQL("{} {} {}::jsonb").format(value, operator, parameters.add(repr(wanted)))
    is_number = sql.SQL("jsonb_typeof({}) = 'number'").format(value)
    if field.scope == "args":
        form = "{as_json} AND {is_number}"
    elif upwards:
        form = "{as_json} AND ({is_number} OR {as_number})"
    else:
        form = "{as_json} AND {is_number} OR {value} >= '{{}}' AND {as_number}"
    return sql.SQL(form).format(as_json=as_json, is_number=is_number, as_number=as_number, value=value)


_TYPES: Mapping[fields.FieldKind, str] = MappingProxyType(
    {
        "text": "text",
        "state": "runstatus",
        "id": "double precision",
        "number": "double precision",
        "count": "double precision",
        "time": "timestamptz",
        "length": "interval",
        "size": "double precision",
        "flag": "boolean",
        "share": "double precision",
        "value": "double precision",
    }
)


def _value(field: FieldRef, parameters: Parameters) -> sql.Composable:
    """Return a field: a column, or an element of an object; null in JSON is no value."""
    element = _element(field, parameters)
    return element if field.kind != "json" else sql.SQL("nullif({}, 'null')").format(element)


def _element(field: FieldRef, parameters: Parameters) -> sql.Composable:
    if field.scope == "run":
        return _column(fields.BY_NAME[field.name])
    if field.is_statistic:
        return sql.SQL("{}.{}").format(parameters.summary(field.name), sql.Identifier(f"{field.scope}_value"))
    whole = sql.SQL(fields.SCOPES[field.scope])
    name = parameters.add(field.name)
    if field.scope == "args" and "." in field.name:
        # Hydra's model.depth=3 is one name; what set_args() said may be nested.
        path = parameters.add(field.name.split("."))
        return sql.SQL("coalesce({0} -> {1}::text, {0} #> {2}::text[])").format(whole, name, path)
    return sql.SQL("({} -> {}::text)").format(whole, name)


def _column(field: fields.Field) -> sql.Composable:
    column = str(field.column)
    return sql.SQL(_WORKED_OUT.get(column, column))


def _number(field: FieldRef, value: sql.Composable) -> sql.Composable:
    if field.scope != "tags":
        return sql.SQL("metric_number({})").format(value)
    text = sql.SQL("({} #>> '{{}}')").format(value)
    number = "CASE WHEN {0} ~* {1} AND length({0}) < 400 THEN as_double({0}::numeric) END"
    return sql.SQL(number).format(text, sql.Literal(_NUMERIC))


def _sort_key(field: FieldRef, parameters: Parameters) -> sql.Composable:
    if field.scope == "metrics":
        return sql.SQL("nullif(metric_number({}), 'NaN')").format(_element(field, parameters))
    if field.scope in _MAYBE_NAN:
        return sql.SQL("nullif({}, 'NaN')").format(_element(field, parameters))
    return _value(field, parameters)


def _tag(name: str, value: str | None, parameters: Parameters) -> sql.Composable:
    if value is None:
        return sql.SQL("tags ? {}::text").format(parameters.add(name))
    field = FieldRef("tags", name)
    return _compare(conditions.Compare(field, "=", value), parameters)


def _plain(value: conditions.Value) -> Any:
    return value.value if isinstance(value, RunStatus) else value


def _joined(word: str, parts: list[sql.Composable]) -> sql.Composable:
    return sql.SQL("({})").format(sql.SQL(word).join(parts))


def _list(values: tuple[Any, ...] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _words(statuses: tuple[RunStatus, ...] | None) -> list[str] | None:
    return None if statuses is None else [status.value for status in statuses]
