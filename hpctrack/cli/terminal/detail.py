"""One run in full, for people. Pure."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from rich.padding import Padding
from rich.text import Text

from hpctrack.cli.terminal import render, table, used
from hpctrack.run import words
from hpctrack.view import notation, remarks
from hpctrack.view import story as telling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rich.console import RenderableType

    from hpctrack.model import Attempt, Transition
    from hpctrack.store.metrics.series import Series
    from hpctrack.store.read.queries import Losses
    from hpctrack.view.story import Fact, Story

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
        _indented(table.facts(map(_fact, story.facts()))),
    ]
    for title, section in (
        ("Timeline", _timeline(story, output, width)),
        ("Attempts", _attempts(story, output, width)),
        ("Resources", used.draw(story.attempts, story.usage, story.resources)),
        ("Could have asked for less", _hints(story)),
        (_metrics_title(story), _metrics(story, output, width)),
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


def _fact(fact: Fact) -> tuple[str, Text]:
    if isinstance(fact.told, dict):
        return fact.name, render.pairs(fact.told)
    return fact.name, Text(render.clean(fact.told))


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
        table.column("time", map(notation.moment, map(attrgetter("time"), rows))),
        table.column("attempt", map(_number, rows) if several else [""] * len(rows), justify="right"),
        table.column("state", map(partial(_word, plain=output.bare), rows)),
        table.column("told by", map(attrgetter("source"), rows)),
        table.column("reason", map(_reason, rows), least=10),
    ]
    return _table(columns, width, empty=("attempt", "reason"))


def _number(row: Transition | Attempt) -> str:
    return str(row.attempt + 1)


def _word(row: Transition, *, plain: bool) -> Text:
    """Return the state; without one the source's word (an unknown state, a signal), but no sentence."""
    raw = None if _is_sentence(row) else row.raw
    return render.state(row.status, raw, plain=plain)


def _reason(row: Transition) -> str:
    """Return the reason, or else the source's own words where they say more than the state."""
    differs = row.status is not None and row.raw != row.status.value
    return row.reason or (row.raw if row.raw and (differs or _is_sentence(row)) else "")


def _is_sentence(row: Transition) -> bool:
    return row.status is None and row.raw is not None and " " in row.raw


def _attempts(story: Story, output: table.Output, width: int) -> Text | None:
    rows = story.attempts
    if not rows:
        return None
    columns = [
        table.column("attempt", map(_number, rows), justify="right"),
        table.column("state", map(partial(_state, plain=output.bare), rows)),
        table.column("started", map(notation.moment, map(attrgetter("time_started"), rows)), drop=1),
        table.column("ran", map(partial(_ran, now=story.now), rows), justify="right"),
        table.column("script", map(_script_exit, rows)),
        table.column("Slurm", map(telling.slurm_exit, rows)),
        table.column("nodes", map(attrgetter("node_list"), rows), least=6),
        table.column("reason", map(attrgetter("reason"), rows), least=10, drop=2),
    ]
    return _table(columns, width, empty=("reason",))


def _state(attempt: Attempt, *, plain: bool) -> Text:
    return render.state(attempt.status, plain=plain)


def _ran(attempt: Attempt, now: datetime) -> str:
    started = attempt.time_started
    return "" if started is None else notation.duration((attempt.time_ended or now) - started)


def _script_exit(attempt: Attempt) -> str | None:
    return words.exit_text(attempt.exit_code, attempt.exit_signal)


def _metrics_title(story: Story) -> str:
    rows = [words.counted(story.run.rows, "row")] if story.run.rows else []
    facts = [*rows, *_losses(story.losses)]
    return "Metrics" + (f": {', '.join(facts)}" if facts else "")


def _losses(losses: Losses) -> Iterator[str]:
    reasons = ", ".join(render.clean(reason) for reason, _ in losses.reasons)
    counts = {
        "lost": losses.lost,
        "torn": losses.torn,
        f"rejected ({reasons})" if reasons else "rejected": losses.rejected,
        "of an earlier attempt replaced": losses.replaced,
    }
    return (f"{count} {word}" for word, count in counts.items() if count)


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
        table.column("metric", map(attrgetter("name"), rows), least=12),
        table.column("course", map(attrgetter("course"), rows), drop=4),
        table.column("first", map(attrgetter("first"), rows), justify="right", drop=1),
        table.column("last", map(attrgetter("last"), rows), justify="right", least=10),
        table.column("min", map(attrgetter("minimum"), rows), justify="right", drop=3),
        table.column("max", map(attrgetter("maximum"), rows), justify="right", drop=2),
        table.column("nan/inf", map(attrgetter("nonfinite"), rows), justify="right"),
    ]
    return _table(columns, width, empty=("course", "nan/inf"))


def _measured(story: Story, blocks: int) -> Iterator[_Metric]:
    """Yield the metrics with numbers, then the latest values of those without any."""
    drawn = {series.name: _drawn(series, blocks) for series in story.series}
    yield from drawn.values()
    for name, value in story.run.last.items():
        if name not in drawn:
            yield _Metric(name, last=Text(notation.number(value)))


def _drawn(series: Series, blocks: int) -> _Metric:
    numbers = (series.first, series.last, series.minimum, series.maximum)
    first, last, minimum, maximum = map(notation.number, numbers)
    course = Text(render.sparkline(series, blocks) if blocks else "", _COURSE)
    return _Metric(series.name, course, first, last, minimum, maximum, str(series.nonfinite or ""))


def _stderr(story: Story) -> Text | None:
    tail = next((attempt.stderr_tail for attempt in reversed(story.attempts) if attempt.stderr_tail), None)
    return None if tail is None else Text("\n".join(render.clean_lines(tail)[-_TAIL:]))
