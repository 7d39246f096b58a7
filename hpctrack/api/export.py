"""Metrics of runs as files: Parquet, CSV, JSON Lines. Rows are streamed: memory does not grow with them.

A file is complete or missing: it is written under another name in the same folder, and then renamed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from hpctrack import errors
from hpctrack.api import frames
from hpctrack.store import database
from hpctrack.store.metrics import columnar, metric_names, metric_tables, series_rows
from hpctrack.store.metrics.columnar import Cells
from hpctrack.store.statements import statement
from hpctrack.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hpctrack.store.database import Connection
    from hpctrack.store.metrics.metric_tables import Part


class Writer(Protocol):
    """Writes rows of one format."""

    def write(self, cells: dict[str, Cells]) -> None:
        """Write some rows; ``cells`` has the columns that the writer was made with, in their order."""

    def close(self) -> None:
        """Write the end of the file."""


class _Column(NamedTuple):
    name: str
    metric: str | None
    """None: an axis."""
    kind: str
    """See `columnar`."""


def check(path: Path) -> None:
    """Raise `errors.UsageError` for a file name of another format, `errors.MissingExtra` without pyarrow."""
    if path.suffix.lower() not in _WRITERS:
        raise errors.UsageError(f"{path.name}: write to a file that ends with {', '.join(_WRITERS)}")
    if path.suffix.lower() == ".parquet":
        frames.require("pyarrow", "Parquet files")


def write(
    connection: Connection,
    runs: Sequence[int],
    path: Path,
    progress: Callable[[int], None] = lambda _rows: None,
    *,
    series: str | None = None,
    every_attempt: bool = False,
) -> int:
    """Write the metrics of runs into a file; return the number of rows. ``progress`` gets each part's number.

    Columns: ``run``, ``step``, ``progress``, ``time`` (UTC), ``restarts`` (0: the first attempt), then every
    metric that any of the runs has. ``series``: the rows of this series, ``every_attempt``: also rows that a
    later attempt superseded. An existing file is replaced. Raises `errors.BadInput` for a file that can't be
    written, `errors.UsageError` for a series that none of the runs has, `errors.StoreError`, and what
    `check` raises.
    """
    check(path)
    series_rows.check(connection, runs, series)
    with _whole_file(path) as file, database.translated(), connection.transaction():
        connection.execute(statement("take_snapshot"))
        columns = _columns(connection, runs, series, every_attempt=every_attempt)
        writer = _WRITERS[path.suffix.lower()](file, columns)
        rows = 0
        names = [column.metric for column in columns if column.metric is not None]
        for part in metric_tables.read(connection, runs, names, series, every_attempt=every_attempt):
            writer.write(_typed(part, columns))
            rows += part.rows
            progress(part.rows)
        writer.close()
    return rows


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file in the folder of a path, and rename it to the path; after an exception, remove it."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with hidden.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(path)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise errors.BadInput(f"{path} can't be written: {error.strerror or error}") from error


def _columns(
    connection: Connection, runs: Sequence[int], series: str | None, *, every_attempt: bool
) -> list[_Column]:
    axes = {axis: metric_tables.kind_of_type(type_) for axis, (_, type_) in metric_tables.AXES.items()}
    columns = [_Column(axis, None, kind) for axis, kind in axes.items()]
    types = metric_names.column_types(connection, series)
    extra = metric_names.extra_kinds(connection, runs, series)
    taken = {column.name for column in columns}
    for metric in metric_names.fetch(connection, runs, series, every_attempt=every_attempt):
        kinds = extra.get(metric, set()) - {"null"}
        if metric in types:
            kinds.add(metric_tables.kind_of_type(types[metric]))
        name = frames.free_name(metric, taken)
        taken.add(name)
        columns.append(_Column(name, metric, columnar.common(kinds)))
    return columns


def _typed(part: Part, columns: Sequence[_Column]) -> dict[str, Cells]:
    typed = {}
    for column in columns:
        if column.metric is None:
            typed[column.name] = part.axes[column.name]
        else:
            cells, extra = part.metrics.get(column.metric), part.extra.get(column.metric, {})
            typed[column.name] = columnar.as_kind(part.rows, cells, extra, column.kind)
    return typed


class _Parquet:
    def __init__(self, file: IO[bytes], columns: Sequence[_Column]) -> None:
        self._arrow = frames.require("pyarrow", "Parquet files")
        parquet = frames.require("pyarrow.parquet", "Parquet files")
        self._schema = self._arrow.schema(
            [(column.name, frames.arrow_type(column.kind)) for column in columns]
        )
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, cells: dict[str, Cells]) -> None:
        arrays = [
            frames.arrow_array(values).cast(self._schema.field(name).type) for name, values in cells.items()
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


class _Lines:
    """Text in UTF-8, one line per row."""

    def __init__(self, file: IO[bytes], columns: Sequence[_Column]) -> None:
        self._file = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._begin([column.name for column in columns])

    def _begin(self, names: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        self._file.detach()


class _Csv(_Lines):
    def _begin(self, names: Sequence[str]) -> None:
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(map(visible.cell, names))

    def write(self, cells: dict[str, Cells]) -> None:
        self._writer.writerows(zip(*(map(_cell, _listed(values)) for values in cells.values()), strict=True))


class _JsonLines(_Lines):
    def write(self, cells: dict[str, Cells]) -> None:
        rows = zip(*(map(_jsonable, _listed(values)) for values in cells.values()), strict=True)
        for row in rows:
            there = {name: value for name, value in zip(cells, row, strict=True) if value is not None}
            self._file.write(json.dumps(there, ensure_ascii=False, default=str) + "\n")


_WRITERS: dict[str, Callable[[IO[bytes], Sequence[_Column]], Writer]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".jsonl": _JsonLines,
}


def _listed(cells: Cells) -> list[Any]:
    """Return the values, None where one is missing; times in ISO 8601."""
    values = cells.values
    if values.dtype.kind == "M":
        values = np.char.add(np.datetime_as_string(values, "us"), "+00:00")
    listed: list[Any] = values.tolist()
    if cells.present is None:
        return listed
    return [value if there else None for value, there in zip(listed, cells.present.tolist(), strict=True)]


def _cell(value: Any) -> Any:
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return visible.cell(value)


def _jsonable(value: Any) -> Any:
    """Return a value for JSON, which has no nan and no infinities: they become strings (docs/json.md)."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
