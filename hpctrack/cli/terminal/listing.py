"""The list of runs as a table for people: job arrays in one line, warnings, a summary by state. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from hpctrack.cli.terminal import columns, render, table
from hpctrack.run import runids
from hpctrack.store.read import lists

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from hpctrack.store.read.queries import Cluster, RunRow

    Line = RunRow | lists.ArrayRow

#: Latest values that a line shows; all of them are in ``hpctrack show``.
_METRICS = 6


@dataclass(frozen=True)
class Answer:
    """What PostgreSQL says."""

    now: datetime
    page: lists.Page
    newest_first: bool
    """Whether the page is in the runs' own order; people read it the other way round, the newest last."""
    clusters: list[Cluster]

    @property
    def lines(self) -> list[Line]:
        """The lines in the order in which they are shown."""
        return self.page.lines[::-1] if self.newest_first else self.page.lines

    @property
    def next_page(self) -> str | None:
        """What ``--after`` takes to go on behind this page; None where nothing comes."""
        return f"r{self.page.lines[-1].id}" if self.page.more and self.page.lines else None


def draw(
    answer: Answer, nothing: str, width: int, *, plain: bool, chosen: Sequence[columns.Chosen] | None = None
) -> list[Text]:
    """Return what to print for an answer; ``nothing`` is said where no run matches."""
    lines = answer.lines
    if not lines:
        return [*_warnings(answer), Text(nothing)]
    if chosen is None:
        built = build(lines, answer.now, plain=plain)
    else:
        built = columns.build(chosen, runs(lines), answer.now, plain=plain)
    return [table.build(built, width), *_warnings(answer), Text(summary(answer), style="dim")]


def runs(lines: Sequence[Line]) -> list[RunRow]:
    """Return the runs among lines: all of them where nothing is folded."""
    return [line for line in lines if not isinstance(line, lists.ArrayRow)]


def heads_of(lines: Sequence[Line]) -> list[RunRow]:
    """Return a run for each line: of an array the latest of its tasks."""
    return [line.latest if isinstance(line, lists.ArrayRow) else line for line in lines]


def build(lines: Sequence[Line], now: datetime, *, plain: bool) -> list[table.Column]:
    """Return the table's columns; in a pipe always all of them, so that they keep their places."""
    heads = heads_of(lines)
    folded = any(isinstance(line, lists.ArrayRow) for line in lines)
    users = table.column("user", [run.user_name for run in heads], least=6, drop=4)
    notes = table.column("note", [", ".join(_notes(line)) for line in lines], least=12, drop=6)
    several = plain or len({run.user_name for run in heads}) > 1
    noted = plain or any(map(_notes, lines))
    states = [_state(line, plain=plain) for line in lines]
    return [
        table.column("run", [_run(line) for line in lines], least=8 if folded else None),
        table.column("job", [line.job or "" for line in lines], least=12 if folded else None),
        *([users] if several else []),
        table.column("experiment", [run.experiment for run in heads], least=8, drop=3),
        table.column("name", [run.job_name or "" for run in heads], least=8),
        table.column("state", states, least=15 if folded else None),
        table.column("elapsed", [render.duration(line.elapsed(now)) for line in lines], justify="right"),
        table.column("limit", [render.duration(run.time_limit) for run in heads], justify="right", drop=1),
        table.column("nodes", [_nodes(line) for line in lines], least=6, drop=2),
        table.column("step", [_step(line) for line in lines], justify="right"),
        *([notes] if noted else []),
        table.column("latest", [_latest(line) for line in lines], least=22, drop=5),
    ]


def summary(answer: Answer) -> str:
    """Return the line that counts the runs by state."""
    page = answer.page
    counts = ", ".join(f"{count} {status.value}" for status, count in page.counts.items())
    word = "run" if page.total == 1 else "runs"
    first = "newest" if answer.newest_first else "first"
    total = f"{page.total} {word}" if page.counted else f"{page.total} runs or more, the {first} of them"
    return f"{total}: {counts}{_rest(answer, first)}"


def _rest(answer: Answer, first: str) -> str:
    if answer.next_page is None:
        return ""
    further = "older ones" if answer.newest_first else "the next"
    return f" (the {first} {_shown(answer.page.lines)} shown; {further}: --after {answer.next_page})"


def _shown(lines: Sequence[Line]) -> str:
    folded = any(isinstance(line, lists.ArrayRow) for line in lines)
    if len(lines) == 1:
        return "line is" if folded else "is"
    return f"{len(lines)} lines are" if folded else f"{len(lines)} are"


def _run(line: Line) -> str:
    return runids.runs_text(line.ids if isinstance(line, lists.ArrayRow) else [line.id])


def _state(line: Line, *, plain: bool) -> Text:
    if not isinstance(line, lists.ArrayRow):
        return render.state(line.status, plain=plain)
    parts = []
    for status, count in line.counts.items():
        glyph, _, word = render.state(status, plain=plain).plain.rpartition(" ")
        text = " ".join(filter(None, (glyph, str(count), word)))
        parts.append(Text(text, style=render.state(status, plain=plain).style))
    return Text(", ").join(parts)


def _nodes(line: Line) -> str:
    return "" if isinstance(line, lists.ArrayRow) else line.node_list or ""


def _step(line: Line) -> str | int:
    return "" if isinstance(line, lists.ArrayRow) or line.last_step is None else line.last_step


def _notes(line: Line) -> list[str]:
    if not isinstance(line, lists.ArrayRow):
        return render.notes(line)
    lost = [f"{line.lost} lost"] if line.lost else []
    return lost + ([render.waiting(line.waiting)] if line.waiting else [])


def _latest(line: Line) -> Text:
    if isinstance(line, lists.ArrayRow):
        return Text()
    text = render.pairs(dict(sorted(line.last.items())[:_METRICS]))
    return text.append(" ...", "dim") if len(line.last) > _METRICS else text


def _warnings(answer: Answer) -> list[Text]:
    lines = (render.cluster_warning(cluster, answer.now) for cluster in answer.clusters)
    return [Text(line, style=render.WARNING) for line in lines if line is not None]
