"""One run in full, for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.padding import Padding
from rich.text import Text

from hpctrack.cli.terminal import render, table
from hpctrack.view import executions, notation, remarks, used
from hpctrack.view import story as telling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from hpctrack.store.metrics.curves import Curve
    from hpctrack.view.story import Story

_INDENT = 2
#: Lines of a failure's stderr that are shown; the whole tail is in ``--json``.
_TAIL = 20
_COURSE = "#56b4e9"


def sparkline_width(output: table.Output) -> int:
    """Return how many blocks a sparkline may have."""
    return 40 if output.width >= 110 else 20


def draw(story: Story, output: table.Output) -> list[RenderableType]:
    """Return the page about a run, part by part."""
    width = output.width - _INDENT
    parts: list[RenderableType] = [
        _headline(story, output),
        Text(),
        _indented(table.facts(story.facts())),
    ]
    for title, section in (
        ("Timeline", _timeline(story, output, width)),
        ("Attempts", _attempts(story, output, width)),
        ("Resources", _used(story)),
        ("Could have asked for less", _hints(story)),
        (": ".join(filter(None, ("Metrics", render.clean(story.arrived())))), _metrics(story, output, width)),
        ("stderr, the last lines", _stderr(story)),
    ):
        if section is not None:
            parts += [Text(), Text(title, style="bold"), _indented(section)]
    return parts


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, _INDENT), expand=False)


def _headline(story: Story, output: table.Output) -> Text:
    run = story.run
    line = Text("  ").join(Text(render.clean(word), "bold") for word in telling.title(run))
    line.append("  ").append_text(render.state(run.status, plain=output.bare))
    said = ", ".join(remarks.of_run(run))
    return line.append("  " + render.clean(said)) if said else line


def _used(story: Story) -> Table | None:
    drawn = table.facts(used.facts(story))
    return drawn if drawn.row_count else None


def _table(columns: Sequence[table.Column], width: int, empty: Sequence[str] = ()) -> Text:
    """Return a table without those columns of ``empty`` that hold nothing."""
    return table.build(
        [column for column in columns if column.header not in empty or not column.is_blank], width
    )


def _hints(story: Story) -> Text | None:
    hints = story.hints()
    return Text("\n".join(hints)) if hints else None


def _timeline(story: Story, output: table.Output, width: int) -> Text | None:
    rows = story.transitions
    if not rows:
        return None
    several = any(row.attempt for row in rows)
    columns = [
        table.column("time", [notation.moment(row.time) for row in rows]),
        table.column("attempt", [executions.number(row) if several else "" for row in rows], justify="right"),
        table.column(
            "state", [render.state(row.status, executions.word(row), plain=output.bare) for row in rows]
        ),
        table.column("told by", [row.source for row in rows]),
        table.column("reason", map(executions.reason, rows), least=10),
    ]
    return _table(columns, width, empty=("attempt", "reason"))


def _attempts(story: Story, output: table.Output, width: int) -> Text | None:
    rows = story.attempts
    if not rows:
        return None
    columns = [
        table.column("attempt", map(executions.number, rows), justify="right"),
        table.column("state", [render.state(row.status, plain=output.bare) for row in rows]),
        table.column("started", [notation.moment(row.time_started) for row in rows], drop=1),
        table.column("ran", [executions.ran(row, story.now) for row in rows], justify="right"),
        table.column("script", map(executions.script_exit, rows)),
        table.column("Slurm", map(executions.slurm_exit, rows)),
        table.column("nodes", [row.node_list for row in rows], least=6),
        table.column("reason", [row.reason for row in rows], least=10, drop=2),
    ]
    return _table(columns, width, empty=("reason",))


class _Metric(NamedTuple):
    """A line of the table of metrics; text has been made visible already."""

    name: str
    course: Text | str = ""
    first: str = ""
    last: Text | str = ""
    minimum: str = ""
    maximum: str = ""
    nonfinite: str = ""


def _metrics(story: Story, output: table.Output, width: int) -> Text | None:
    rows = list(_measured(story, sparkline_width(output) if output.unicode else 0))
    if not rows:
        return Text("none has arrived") if any(story.losses[:4]) else None
    columns = [
        table.column("metric", [row.name for row in rows], least=12),
        table.column("course", [row.course for row in rows], drop=4),
        table.column("first", [row.first for row in rows], justify="right", drop=1),
        table.column("last", [row.last for row in rows], justify="right", least=10),
        table.column("min", [row.minimum for row in rows], justify="right", drop=3),
        table.column("max", [row.maximum for row in rows], justify="right", drop=2),
        table.column("nan/inf", [row.nonfinite for row in rows], justify="right"),
    ]
    return _table(columns, width, empty=("course", "nan/inf"))


def _measured(story: Story, blocks: int) -> Iterator[_Metric]:
    """Yield the metrics with numbers, then the latest values of those without any."""
    drawn = {curve.name: _drawn(curve, blocks) for curve in story.curves}
    yield from drawn.values()
    for name, value in story.run.last.items():
        if name not in drawn:
            yield _Metric(name, last=Text(notation.metric(value)))


def _drawn(curve: Curve, blocks: int) -> _Metric:
    numbers = (curve.first, curve.last, curve.minimum, curve.maximum)
    first, last, minimum, maximum = map(notation.number, numbers)
    course = Text(render.sparkline(curve, blocks) if blocks else "", _COURSE)
    return _Metric(curve.name, course, first, last, minimum, maximum, str(curve.nonfinite or ""))


def _stderr(story: Story) -> Text | None:
    tail = story.stderr_tail()
    return None if tail is None else Text("\n".join(render.clean_lines(tail)[-_TAIL:]))
