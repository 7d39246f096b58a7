"""A row per run: facts, arguments, tags, latest and extreme values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpctrack.api import frames
from hpctrack.run.comparison import flat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from hpctrack.store.metrics.extreme_values import Extremes
    from hpctrack.store.read.queries import RunRow

#: Facts about a run: columns of the frame and fields of `queries.RunRow`.
_FACTS = {
    "run": "id",
    "job": "job",
    "name": "job_name",
    "experiment": "experiment",
    "user": "user_name",
    "time_created": "time_created",
    "time_started": "time_started",
    "time_ended": "time_ended",
    "restarts": "attempt",
    "exit_code": "exit_code",
    "exit_signal": "exit_signal",
    "reason": "reason",
    "nodes": "node_list",
    "partition": "partition",
    "step": "last_step",
    "rows": "rows",
}
_TIMES = ("time_created", "time_started", "time_ended")
_INTEGERS = ("exit_code", "exit_signal", "step")


def frame(runs: Sequence[RunRow], extremes: Mapping[int, Mapping[str, Extremes]]) -> pd.DataFrame:
    """Return the DataFrame; columns are there even without runs."""
    pandas = frames.require("pandas", "DataFrames")
    facts = pandas.DataFrame([_facts(run) for run in runs], columns=["run", "status", *list(_FACTS)[1:]])
    for name in _TIMES:
        facts[name] = pandas.to_datetime(facts[name], utc=True)
    for name in _INTEGERS:
        facts[name] = facts[name].astype("Int64")
    rest = pandas.DataFrame([_measured(run, extremes.get(run.id, {})) for run in runs], index=facts.index)
    found: pd.DataFrame = pandas.concat([facts, rest[_ordered(rest.columns)]], axis=1)
    return found


def _facts(run: RunRow) -> dict[str, Any]:
    return {"status": run.status.value, **{name: getattr(run, field) for name, field in _FACTS.items()}}


def _measured(run: RunRow, extremes: Mapping[str, Extremes]) -> dict[str, Any]:
    """Return what differs from script to script; lists stay whole."""
    words = {"args": run.args, "tags": run.tags}
    return {
        **{name: value for name, value in flat(words).items() if value is not None},
        **{f"last.{name}": value for name, value in run.last.items()},
        **{f"min.{name}": value.minimum for name, value in extremes.items()},
        **{f"max.{name}": value.maximum for name, value in extremes.items()},
    }


def _ordered(columns: Sequence[str]) -> list[str]:
    """Return columns by what they are about, and there in the order in which they came."""
    groups = ("args", "tags", "last", "min", "max")
    return sorted(columns, key=lambda name: groups.index(name.partition(".")[0]))
