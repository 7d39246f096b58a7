"""Columns as DataFrames of pandas or tables of Arrow. Both packages are imported on first use."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any, Literal

from hpctrack import errors
from hpctrack.store.metrics import columnar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType

    import pandas as pd
    import pyarrow as pa

    from hpctrack.store.metrics.columnar import Cells
    from hpctrack.store.metrics.metric_tables import Part

Format = Literal["pandas", "arrow"]


def require(package: str, what: str) -> ModuleType:
    """Import an optional package. Raises `errors.MissingExtra`, which says how to install it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise errors.MissingExtra(
            f"{what} need {package}, which is not installed here: pip install 'hpctrack[analysis]'"
        ) from error


def build(parts: Iterable[Part], axes: Iterable[str], names: Iterable[str], how: Format) -> Any:
    """Return the rows of all parts as one table: a column for each axis, then one for each metric."""
    if how not in ("pandas", "arrow"):
        raise errors.UsageError(f"{how!r} is no format of tables: 'pandas' or 'arrow'")
    require("pandas" if how == "pandas" else "pyarrow", "tables")
    known = list(parts)
    cells: dict[str, Cells] = {}
    for axis in axes:
        cells[axis] = columnar.joined([(part.rows, part.axes[axis], {}) for part in known])
    for name in names:
        metric = [(part.rows, part.metrics.get(name), part.extra.get(name, {})) for part in known]
        cells[free_name(name, cells)] = columnar.joined(metric)
    return to_pandas(cells) if how == "pandas" else to_arrow(cells)


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return the name of a metric's column; a metric ``time``, beside the axis, becomes ``time_``."""
    while name in taken:
        name += "_"
    return name


def to_pandas(cells: Mapping[str, Cells]) -> pd.DataFrame:
    """Return a DataFrame. Missing numbers are nan; integers with gaps are ``Int64``, booleans ``boolean``."""
    pandas = require("pandas", "DataFrames")
    series = {name: _series(pandas, values) for name, values in cells.items()}
    frame: pd.DataFrame = pandas.DataFrame(series, copy=False)
    return frame


def _series(pandas: ModuleType, cells: Cells) -> Any:
    kind = columnar.kind_of(cells.values.dtype)
    if kind == "time":
        return pandas.Series(cells.values).dt.tz_localize("UTC")
    if cells.present is not None and kind == "int":
        return pandas.arrays.IntegerArray(cells.values, ~cells.present)
    if cells.present is not None and kind == "bool":
        return pandas.arrays.BooleanArray(cells.values, ~cells.present)
    return cells.values


def to_arrow(cells: Mapping[str, Cells]) -> pa.Table:
    """Return a table of Arrow. Missing values are null; a column of values of several kinds is text."""
    pyarrow = require("pyarrow", "tables of Arrow")
    table: pa.Table = pyarrow.table({name: arrow_array(values) for name, values in cells.items()})
    return table


def arrow_array(cells: Cells) -> Any:
    """Return an array of Arrow."""
    pyarrow = require("pyarrow", "tables of Arrow")
    gaps = None if cells.present is None else ~cells.present
    kind = columnar.kind_of(cells.values.dtype)
    if kind == "time":
        return pyarrow.array(cells.values, pyarrow.timestamp("us", "UTC"), mask=gaps)
    if kind == "text":
        return pyarrow.array(
            [None if value is None else text(value) for value in cells.values], pyarrow.string()
        )
    return pyarrow.array(cells.values, mask=gaps)


def arrow_type(kind: str) -> Any:
    """Return Arrow's type for a kind of values (see `columnar`)."""
    pyarrow = require("pyarrow", "tables of Arrow")
    types = {"bool": pyarrow.bool_(), "int": pyarrow.int64(), "float": pyarrow.float64()}
    return pyarrow.timestamp("us", "UTC") if kind == "time" else types.get(kind, pyarrow.string())


def text(value: object) -> str:
    """Return a value as text: a string as it is, anything else as JSON."""
    return (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    )
