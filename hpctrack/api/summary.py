"""A DataFrame with a row per run: fields, arguments, tags, latest and extreme values of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpctrack.api import frames
from hpctrack.run import fields
from hpctrack.run.comparison import flat
from hpctrack.run.states import RunStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from types import ModuleType

    import pandas as pd

    from hpctrack.store.metrics.extreme_values import Extremes
    from hpctrack.store.read.queries import RunRow

_COLUMNS = {field.frame: field for field in fields.FIELDS if field.frame is not None}


def frame(
    runs: Sequence[RunRow], extremes: Mapping[int, Mapping[str, Extremes]], now: datetime
) -> pd.DataFrame:
    """Return the DataFrame; without runs it has the columns of the fields."""
    pandas = frames.require("pandas", "DataFrames")
    facts = pandas.DataFrame([_facts(run, now) for run in runs], columns=list(_COLUMNS))
    for name, field in _COLUMNS.items():
        facts[name] = _typed(pandas, facts[name], field.kind)
    rest = pandas.DataFrame([_measured(run, extremes.get(run.id, {})) for run in runs], index=facts.index)
    whole: pd.DataFrame = pandas.concat([facts, rest[_ordered(rest.columns)]], axis=1)
    return whole


def _typed(pandas: ModuleType, values: Any, kind: str) -> Any:
    """Return a column, with pandas' own type if it has one for this kind of values (see `fields.Field`)."""
    if kind == "time":
        return pandas.to_datetime(values, utc=True)
    if kind == "length":
        return pandas.to_timedelta(values)
    return values.astype("Int64") if kind == "number" else values


def _facts(run: RunRow, now: datetime) -> list[Any]:
    values = (field.read(run, now) for field in _COLUMNS.values())
    return [value.value if isinstance(value, RunStatus) else value for value in values]


def _measured(run: RunRow, extremes: Mapping[str, Extremes]) -> dict[str, Any]:
    """Return the columns whose names the script chose: arguments, tags, metrics. Lists stay whole."""
    given = flat({"args": run.args, "tags": run.tags})
    return {
        **{name: value for name, value in given.items() if value is not None},
        **_prefixed("last", run.last),
        **_prefixed("min", {name: value.minimum for name, value in extremes.items()}),
        **_prefixed("max", {name: value.maximum for name, value in extremes.items()}),
    }


def _prefixed(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{group}.{name}": value for name, value in values.items()}


def _ordered(columns: Sequence[str]) -> list[str]:
    """Return the columns by group; within a group their order stays."""
    groups = ("args", "tags", "last", "min", "max")
    return sorted(columns, key=lambda name: groups.index(name.partition(".")[0]))
