"""Lists of frozen records, which can become a DataFrame."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any, TypeVar

from hpctrack.api import frames, html

if TYPE_CHECKING:
    import pandas as pd

_T = TypeVar("_T")


class Records(list[_T]):
    """A list of records of one kind."""

    def frame(self) -> pd.DataFrame:
        """Return a DataFrame: a row per record, a column per field."""
        rows = [fields(record) for record in self]
        frame: pd.DataFrame = frames.require("pandas", "DataFrames").DataFrame(rows)
        return frame

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html.records([fields(record) for record in self])


def fields(record: Any) -> dict[str, Any]:
    """Return the fields of a frozen record; members of an enumeration become their values."""
    values = record._asdict() if isinstance(record, tuple) else _dataclass_fields(record)  # type: ignore[attr-defined]
    return {name: value.value if isinstance(value, enum.Enum) else value for name, value in values.items()}


def _dataclass_fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
