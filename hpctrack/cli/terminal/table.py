"""Tables that fit the terminal: columns shrink or are left out. Into a pipe all are written in full."""

from __future__ import annotations

import io
import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, RenderHook
from rich.text import Text

from hpctrack.cli.terminal import render
from hpctrack.text import visible
from hpctrack.view import notation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import ConsoleOptions, ConsoleRenderable, RenderableType
    from rich.segment import Segment
    from rich.table import Table

    from hpctrack.view.story import Told

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

    @property
    def is_blank(self) -> bool:
        """Whether it shows nothing but that nothing is known."""
        return all(cell.plain == notation.UNKNOWN for cell in self.cells)


def column(header: str, cells: Iterable[object], **how: Any) -> Column:
    """Make a column. Text of anybody's in it can't command the terminal.

    A cell that is None or empty says that nothing is known. ``how`` are the further fields of `Column`.
    """
    return Column(header, [_shown(cell) for cell in cells], **how)


def _shown(cell: object) -> Text:
    text = cell if isinstance(cell, Text) else Text("" if cell is None else render.clean(cell))
    return text or Text(notation.UNKNOWN, "dim")


def fit(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """Choose columns and their widths for a line of ``width`` cells.

    The widest column that may shrink becomes narrower cell by cell; if that is not enough, columns are left
    out. Columns that allow neither stay, and lines are cut where the terminal ends, with a sign.
    """
    wanted = [column.width for column in columns]
    least = [
        max(whole if column.least is None else column.least, len(column.header))
        for whole, column in zip(wanted, columns, strict=True)
    ]
    kept = _kept(columns, least, width)
    room = width - _GAP * (len(kept) - 1)
    widths = _shrunk([wanted[index] for index in kept], [least[index] for index in kept], room)
    return list(zip([columns[index] for index in kept], widths, strict=True))


def _kept(columns: Sequence[Column], least: Sequence[int], width: int) -> list[int]:
    """Return the places of the columns that stay. There may be thousands, of which nearly all go."""
    needed = sum(least) + _GAP * (len(columns) - 1)
    gone = set()
    turns = sorted((column.drop, place) for place, column in enumerate(columns) if column.drop is not None)
    for _, index in turns:
        if needed <= width:
            break
        needed -= least[index] + _GAP
        gone.add(index)
    return [index for index in range(len(columns)) if index not in gone]


def _shrunk(wanted: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    widths = list(wanted)
    while sum(widths) > room:
        spare = [(width, index) for index, width in enumerate(widths) if width > least[index]]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
    return widths


def build(columns: Sequence[Column], width: int) -> Text:
    """Return the table for a terminal of ``width`` cells.

    Many times faster than rich's own tables, which lay out cells of several lines.
    """
    chosen = fit(columns, width)
    rows = [[Text(column.header, "dim") for column, _ in chosen]]
    rows += map(list, zip(*(column.cells for column, _ in chosen), strict=True))
    lines = [_line(row, chosen, width) for row in rows]
    return Text("\n", no_wrap=True).join(lines)


def _line(row: Sequence[Text], chosen: Sequence[tuple[Column, int]], width: int) -> Text:
    line = Text()
    for number, (whole, (column, cells)) in enumerate(zip(row, chosen, strict=True)):
        room = max(cells - whole.cell_len, 0)
        if column.justify == "right" and room:
            line.append(" " * room)
        line.append_text(_fitted(whole, cells))
        if number < len(chosen) - 1:
            line.append(" " * (_GAP + (room if column.justify == "left" else 0)))
    return _cut(line, width)


def _fitted(cell: Text, width: int) -> Text:
    """Return a cell that is no wider than its column; one that was cut ends with a sign."""
    if cell.cell_len <= width:
        return cell
    cut = cell.copy()
    cut.truncate(width, overflow="ellipsis")
    return cut


def _cut(line: Text, width: int) -> Text:
    """Cut a line and end it with one sign, even if its last cell was cut with a sign."""
    if line.cell_len > width:
        line.truncate(width - 1)
        signs = len(line.plain) - len(line.plain.rstrip("…"))
        if signs:  # right_crop(0) crops all
            line.right_crop(signs)
        line.append("…")
    return line


class ForPrograms:
    """Standard output for programs: unchanged in a pipe or file, without commands on a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stdout.isatty()

    def write(self, text: str) -> None:
        """Write text."""
        sys.stdout.write(visible.in_json(text) if self._shown else text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines."""
        for line in lines:
            self.write(line)


class _Visible(RenderHook):
    """Makes all printed text visible, so that only our styles command the terminal."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Wrap what is to be printed."""
        return [_Cleaned(renderable) for renderable in renderables]


class _Cleaned:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._renderable, options):
            yield segment if segment.control else segment._replace(text=visible.lines(segment.text))


def _size() -> tuple[int | None, int | None]:
    """Return width and height of a dumb terminal, which rich does not ask for; None for others."""
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return shutil.get_terminal_size() if is_dumb else (None, None)


class Output:
    """Standard output: a terminal with its width and colours, or a pipe without any."""

    def __init__(self) -> None:
        width, height = _size()
        self.console = Console(highlight=False, markup=False, emoji=False, width=width, height=height)
        self.console.push_render_hook(_Visible())
        self.plain = not self.console.is_terminal
        #: Whether blocks and glyphs can be written.
        self.unicode = self.console.encoding.lower().startswith("utf")

    @property
    def bare(self) -> bool:
        """Whether states are shown as words alone: in a pipe, or where glyphs would become question marks."""
        return self.plain or not self.unicode

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
        for part in parts:
            text = part.plain if isinstance(part, Text) else _rendered(part)
            sys.stdout.write("".join(visible.shown(line.rstrip()) + "\n" for line in text.split("\n")))


def _rendered(part: RenderableType) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=_PIPE_WIDTH, highlight=False, markup=False, emoji=False, color_system=None
    )
    console.print(part, soft_wrap=True)
    return file.getvalue().removesuffix("\n")


def facts(rows: Iterable[tuple[str, Text | Told]]) -> Table:
    """Return a table of dim names beside what is told by them, without those that tell nothing."""
    from rich.table import Table

    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value:
            grid.add_row(name, _told(value))
    return grid


def _told(value: Text | str | Mapping[str, object]) -> Text:
    if isinstance(value, Text):
        return value
    return Text(render.clean(value)) if isinstance(value, str) else render.pairs(value)
