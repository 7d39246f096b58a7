"""Lists of runs for people: tables with job arrays in one line, and lines as ``sacct -P`` has them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.text import Text

from hpctrack.cli.terminal import render, table
from hpctrack.view import columns, notation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from hpctrack.run.states import RunStatus
    from hpctrack.store.read.queries import RunRow
    from hpctrack.view.columns import Column
    from hpctrack.view.question import Answer, Line

#: Latest values that a line shows; all of them are in ``hpctrack show``.
_METRICS = 6


class _Place(NamedTuple):
    """How a column of the usual table gives way, see `table.Column`."""

    least: int | None = None
    drop: int | None = None
    folded: int | None = None
    """In place of ``least`` where any line stands for an array."""


_USUAL = {
    "run": _Place(folded=8),
    "job": _Place(folded=12),
    "user": _Place(least=6, drop=4),
    "experiment": _Place(least=8, drop=3),
    "name": _Place(least=8),
    "state": _Place(folded=15),
    "elapsed": _Place(),
    "limit": _Place(drop=1),
    "nodes": _Place(least=6, drop=2),
    "step": _Place(),
    "remarks": _Place(least=12, drop=6),
    "latest": _Place(least=22, drop=5),
}
_COLUMNS = columns.parse(",".join(_USUAL))


def draw(
    answer: Answer, nothing: str, width: int, *, plain: bool, chosen: Sequence[Column] | None = None
) -> list[Text]:
    """Return what to print for an answer; ``nothing`` is said where no run matches."""
    warnings = [Text(line, style=render.WARNING) for line in answer.warnings]
    if not answer.lines:
        return [*warnings, Text(nothing)]
    if chosen is None:
        built = usual(answer.lines, answer.now, plain=plain)
    else:
        built = build(chosen, answer.runs, answer.now, plain=plain)
    return [table.build(built, width), *warnings, Text(answer.summary, style="dim")]


def build(
    chosen: Sequence[Column], runs: Sequence[RunRow], now: datetime, *, plain: bool
) -> list[table.Column]:
    """Return the columns that were asked for."""
    return [
        table.Column(render.clean(column.header), cells(column, runs, now, plain=plain), _justify(column))
        for column in chosen
    ]


def usual(lines: Sequence[Line], now: datetime, *, plain: bool) -> list[table.Column]:
    """Return the columns of a list without ``--format``.

    In a pipe all columns are there, so that they keep their places. On a terminal the column of users is left
    out where all runs are one user's, and that of remarks where there are none.
    """
    folded = any(line.is_array for line in lines)
    built = {column.header: _usual(column, lines, now, folded=folded, plain=plain) for column in _COLUMNS}
    if not plain and len({cell.plain for cell in built["user"].cells}) == 1:
        del built["user"]
    if not plain and built["remarks"].is_blank:
        del built["remarks"]
    return list(built.values())


def _usual(
    column: Column, lines: Sequence[Line], now: datetime, *, folded: bool, plain: bool
) -> table.Column:
    place = _USUAL[column.header]
    least = place.folded if folded and place.folded is not None else place.least
    shown = (
        [_latest(line) for line in lines]
        if column.kind == "object"
        else cells(column, lines, now, plain=plain)
    )
    return table.Column(column.header, shown, _justify(column), least, place.drop)


def _justify(column: Column) -> Literal["left", "right"]:
    return "right" if column.is_numeric else "left"


def cells(column: Column, lines: Iterable[Line], now: datetime, *, plain: bool) -> list[Text]:
    """Return a column's cells."""
    if column.kind == "state":
        texts = [_state(line, plain=plain) for line in lines]
    else:
        texts = [_cell(column.text(line, now)) for line in lines]
    return texts if column.width is None else [_cut(text, column.width, plain=plain) for text in texts]


def _cell(text: str) -> Text:
    return Text(text) if text and text != notation.UNKNOWN else Text(notation.UNKNOWN, "dim")


def _cut(cell: Text, width: int, *, plain: bool) -> Text:
    if cell.cell_len > width and plain:
        cell.truncate(width - 1, overflow="crop")
        cell.append("+")  # as sacct does
    else:
        cell.truncate(width, overflow="ellipsis")
    return cell


def _state(line: Line, *, plain: bool) -> Text:
    if not line.is_array:
        return render.state(line.status, plain=plain)
    return Text(", ").join(_counted_state(*item, plain=plain) for item in line.counts.items())


def _counted_state(status: RunStatus, count: int, *, plain: bool) -> Text:
    text = render.state(status, plain=plain)
    glyph, _, word = text.plain.rpartition(" ")
    return Text(" ".join(filter(None, (glyph, str(count), word))), style=text.style)


def _latest(line: Line) -> Text:
    if line.is_array or not line.last:
        return _cell(notation.UNKNOWN)
    text = render.pairs(dict(sorted(line.last.items())[:_METRICS]))
    return text.append(" ...", "dim") if len(line.last) > _METRICS else text


def parsable_lines(chosen: Sequence[Column], runs: Iterable[RunRow], now: datetime) -> Iterator[str]:
    """Yield runs as ``sacct --parsable2`` does: cells as people read them, parted by ``|``."""
    yield "|".join(column.header for column in chosen) + "\n"
    for run in runs:
        yield "|".join(_parsable(column, run, now) for column in chosen) + "\n"


def _parsable(column: Column, run: RunRow, now: datetime) -> str:
    (cell,) = cells(column, (run,), now, plain=True)
    return "" if cell.plain == notation.UNKNOWN else cell.plain.replace("|", "\\x7c")
