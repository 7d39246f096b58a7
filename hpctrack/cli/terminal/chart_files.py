"""Charts in files: images by matplotlib, pages to look around in by plotly.

Names may come from anybody. They are drawn as they are, and never read as formulas, TeX or links.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import os
import warnings
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.cli.terminal import chart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LIBRARIES = {".png": "matplotlib", ".svg": "matplotlib", ".pdf": "matplotlib", ".html": "plotly"}
_WIDTH, _HEIGHT = 8.0, 4.0
"""Of one chart, in inches."""
_LABEL = 0.28
"""Inches for a line of a legend."""
_DASHES = ("-", "--", "-.", ":")
_LONGEST = 60
"""Characters of a name: longer ones leave no room for the chart."""


def check(path: Path) -> None:
    """Raise `errors.UsageError` for another format, `errors.MissingExtra` where its library is missing."""
    library = _LIBRARIES.get(path.suffix.lower())
    if library is None:
        raise errors.UsageError(f"{path}: charts are written as {', '.join(_LIBRARIES)}")
    try:
        with _standing_elsewhere():
            importlib.import_module(library)
    except ImportError:
        raise errors.MissingExtra(
            f"{path.suffix} files need {library}: pip install 'hpctrack[plot]' brings it; without --output "
            "charts are drawn in the terminal"
        ) from None


@contextlib.contextmanager
def _standing_elsewhere() -> Iterator[None]:
    """Leave the current folder for a while, since matplotlib would read a matplotlibrc there first."""
    here = os.open(".", os.O_PATH)
    os.chdir("/")
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def write(path: Path, charts: Sequence[chart.Chart]) -> None:
    """Write charts into a file, one below the other. Raises `errors.BadInput` where it can't be written."""
    charts = [_shortened(panel) for panel in charts]
    try:
        if _LIBRARIES[path.suffix.lower()] == "plotly":
            _write_page(path, charts)
        else:
            _write_image(path, charts)
    except OSError as error:
        raise errors.BadInput(f"{path}: {error.strerror}") from error


def _write_image(path: Path, charts: Sequence[chart.Chart]) -> None:
    import matplotlib

    plain = matplotlib.rc_context({"text.parse_math": False, "text.usetex": False})
    with plain, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that no font has; they are boxes
        _draw(charts).savefig(path, format=path.suffix.lower()[1:], dpi=150)


def _draw(charts: Sequence[chart.Chart]) -> Figure:
    from matplotlib import figure as drawing

    # Legends stand below their charts, where they hide nothing.
    heights = [height for panel in charts for height in (_HEIGHT, _LABEL * len(panel.lines))]
    figure = drawing.Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(2 * len(charts), 1, height_ratios=heights)
    for number, panel in enumerate(charts):
        axes, below = figure.add_subplot(grid[2 * number]), figure.add_subplot(grid[2 * number + 1])
        below.axis("off")
        _plot(axes, panel)
        if len(panel.lines) > 1:
            below.legend(handles=axes.lines, loc="upper left", borderaxespad=0, fontsize="small")
    return figure


def _plot(axes: Axes, panel: chart.Chart) -> None:
    for place, (line, colour) in enumerate(_coloured(panel)):
        xs, ys = zip(*chart.points(line.curve), strict=True)
        style = _DASHES[place // len(chart.COLOURS) % len(_DASHES)] if len(xs) > 1 else "o"
        axes.plot(xs, ys, style, color=colour, label=line.label, linewidth=1)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.axis)
    axes.grid(alpha=0.3)


def _write_page(path: Path, charts: Sequence[chart.Chart]) -> None:
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    titles = [_unmarked(panel.title) for panel in charts]
    figure = make_subplots(rows=len(charts), cols=1, subplot_titles=titles)
    for row, panel in enumerate(charts, 1):
        for line, colour in _coloured(panel):
            xs, ys = zip(*chart.points(line.curve), strict=True)
            mode = "lines" if len(xs) > 1 else "markers"
            name = _unmarked(f"{line.label}: {panel.name}")
            figure.add_trace(
                Scatter(x=xs, y=ys, mode=mode, name=name, line={"color": colour}), row=row, col=1
            )
        figure.update_xaxes(title_text=panel.axis, row=row, col=1)
    figure.update_layout(height=420 * len(charts))
    # With plotly inside: compute clusters seldom reach the Internet.
    path.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")


def _coloured(panel: chart.Chart) -> list[tuple[chart.Line, str]]:
    return [
        (line, "#{:02x}{:02x}{:02x}".format(*chart.colour_of(number)))
        for number, line in enumerate(panel.lines)
    ]


def _shortened(panel: chart.Chart) -> chart.Chart:
    lines = tuple(line._replace(label=_short(line.label)) for line in panel.lines)
    return chart.Chart(_short(panel.name), lines)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _unmarked(text: str) -> str:
    """Return a text in which plotly sees no tags: it would draw links, and lines of their own."""
    return html.escape(text, quote=False)
