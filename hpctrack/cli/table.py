"""Tables that fit: on a narrow terminal columns shrink or go; into a pipe everything is written out."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpctrack.cli import render

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

_GAP = 2
_PIPE_WIDTH = 100_000


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    header: str
    cells: Sequence[Text]
    justify: Literal["left", "right"] = "left"
    least: int | None = None
    """Down to this width it may shrink; None: not at all."""
    drop: int | None = None
    """Its turn to be left out where shrinking does not help, 1 the first; None: never."""

    @property
    def width(self) -> int:
        """Width that it needs to show everything."""
        return max([len(self.header), *(cell.cell_len for cell in self.cells)])


def fit(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """Choose columns and their widths for a line of ``width`` cells.

    The widest of those that may shrink gives first, cell by cell; if that is not enough, a column goes.
    What can neither shrink nor go is kept, and cut by the terminal.
    """
    kept = list(columns)
    while True:
        widths = _shrunk(kept, width - _GAP * (len(kept) - 1))
        droppable = [column for column in kept if column.drop is not None]
        if sum(widths) + _GAP * (len(kept) - 1) <= width or not droppable:
            return list(zip(kept, widths, strict=True))
        kept.remove(min(droppable, key=lambda column: column.drop or 0))


def _shrunk(columns: Sequence[Column], room: int) -> list[int]:
    widths = [column.width for column in columns]
    least = [column.width if column.least is None else column.least for column in columns]
    least = [max(small, len(column.header)) for small, column in zip(least, columns, strict=True)]
    while sum(widths) > room:
        spare = [(width, index) for index, width in enumerate(widths) if width > least[index]]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
    return widths


def build(columns: Sequence[Column], width: int) -> Table:
    """Return the table for a terminal of ``width`` cells."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim", show_edge=False)
    chosen = fit(columns, width)
    for column, cells in chosen:
        table.add_column(
            column.header, justify=column.justify, width=cells, no_wrap=True, overflow="ellipsis"
        )
    for row in zip(*(column.cells for column, _ in chosen), strict=True):
        table.add_row(*row)
    return table


class Output:
    """Standard output: a terminal with its width and colours, or a pipe without any."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False)
        self.plain = not self.console.is_terminal
        #: Whether blocks and glyphs can be written.
        self.unicode = self.console.encoding.lower().startswith("utf")

    @property
    def width(self) -> int:
        """Cells in a line."""
        return _PIPE_WIDTH if self.plain else self.console.width

    @property
    def coloured(self) -> bool:
        """Whether colours can be written."""
        return not self.plain and not self.console.no_color and self.console.color_system is not None

    def print(self, *parts: RenderableType) -> None:
        """Print; into a pipe without padding at the ends of lines."""
        if not self.plain:
            for part in parts:
                self.console.print(part, soft_wrap=isinstance(part, Text))
            return
        text = io.StringIO()
        console = Console(
            file=text, width=_PIPE_WIDTH, highlight=False, markup=False, emoji=False, color_system=None
        )
        for part in parts:
            console.print(part, soft_wrap=True)
        sys.stdout.write("".join(line.rstrip() + "\n" for line in text.getvalue().splitlines()))


def facts(rows: Iterable[tuple[str, Text | str | None]]) -> Table:
    """Return names, dim, beside their values; what is empty is left out."""
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value:
            grid.add_row(name, value if isinstance(value, Text) else Text(render.clean(value)))
    return grid
