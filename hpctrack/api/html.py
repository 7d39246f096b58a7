"""Runs as HTML for notebooks: without scripts, in the notebook's own colours. Pure.

All text that a job may have chosen goes through `visible.shown` and `html.escape`.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from hpctrack.run import states
from hpctrack.run.states import RunStatus
from hpctrack.text import visible
from hpctrack.view import columns, experiments, notation, remarks, story

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from hpctrack.store.metrics.curves import Curve
    from hpctrack.store.read.queries import RunRow
    from hpctrack.store.write.experiments import Experiment
    from hpctrack.view.columns import Column

#: How many runs a table shows, and how many metrics and arguments one of its cells.
_SHOWN = 50
_PAIRS = 6
_WIDTH, _HEIGHT = 160, 22
_COLUMNS = columns.parse("run,state,job,name,experiment,elapsed,step,args,latest")
_CELL = "text-align:left;padding:2px 10px 2px 0"


def run(row: RunRow, curves: Sequence[Curve], now: datetime) -> str:
    """Return one run: its facts, and a chart of each metric."""
    head = " ".join(map(_escape, story.title(row)))
    said = _escape(", ".join(remarks.of_run(row)))
    lines = [f"<div><b>{head}</b> {status(row.status)} {said}</div>"]
    lines.append(
        _table((), [(fact.name, _pairs(fact.told)) for fact in story.facts(story.Subject(row, now))])
    )
    if curves:
        drawn = [
            (metric.name, Markup(sparkline(metric)), metric.last, metric.minimum, metric.maximum)
            for metric in curves
        ]
        lines.append(_table(("metric", "course", "last", "min", "max"), drawn))
    return "".join(lines)


def runs(rows: Sequence[RunRow], now: datetime) -> str:
    """Return a table of the newest runs."""
    shown = rows[-_SHOWN:]
    cells = [[_value(column, row, now) for column in _COLUMNS] for row in shown]
    more = f"<div>the newest {len(shown)} of {len(rows)} runs</div>" if len(shown) < len(rows) else ""
    return _table([column.header for column in _COLUMNS], cells) + more


def _value(column: Column, row: RunRow, now: datetime) -> object:
    if column.kind == "state":
        return Markup(status(row.status))
    value = column.value(row, now)
    if value is None or column.kind == "text":
        return value
    return _pairs(value) if column.kind == "object" else notation.text(column.kind, value)


def experiment(info: Experiment) -> str:
    """Return an experiment: its name, the number of runs by state, its comment."""
    counts = " ".join(
        f"{count}&nbsp;{status(RunStatus(state))}" for state, count in experiments.by_state(info)
    )
    comment = f"<div>{_escape(info.comment)}</div>" if info.comment else ""
    return f"<div><b>{_escape(info.name)}</b> {counts or 'no runs'}</div>{comment}"


def records(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of records: a column per field, without fields that are empty in all records."""
    names = [name for name in (rows[0] if rows else ()) if _has_values(rows, name)]
    return _table(names, [[row[name] for name in names] for row in rows])


def _has_values(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(row[name] not in (None, {}) for row in rows)


def status(state: RunStatus) -> str:
    """Return a state in its colour."""
    look = state.look
    weight = ";font-weight:bold" if look.bold else ""
    return f'<span style="color:{look.colour}{weight}">{look.glyph}&nbsp;{state.value}</span>'


def sparkline(curve: Curve) -> str:
    """Return a chart of a metric as SVG: minimum and maximum of each bucket, so that peaks are kept."""
    low, high = curve.minimum, curve.maximum
    if low is None or high is None:
        return ""
    first, last = curve.buckets[0].x, curve.buckets[-1].x
    points = " ".join(
        f"{_place(bucket.x, first, last) * _WIDTH:.1f},{(1 - _place(value, low, high)) * _HEIGHT:.1f}"
        for bucket in curve.buckets
        for value in dict.fromkeys((bucket.minimum, bucket.maximum))
    )
    stroke = f'stroke="{states.ACTIVE.colour}" stroke-width="1.5"'
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="-2 -2 {_WIDTH + 4} {_HEIGHT + 4}" role="img">'
        f'<polyline points="{points}" fill="none" {stroke}/></svg>'
    )


class Markup(str):
    """HTML that is not escaped again."""

    __slots__ = ()


def _escape(text: str) -> str:
    return html.escape(visible.shown(text))


def _place(value: float, low: float, high: float) -> float:
    """Return where a value lies between two others, from 0 to 1; halves can't overflow."""
    span = high / 2 - low / 2
    return (value / 2 - low / 2) / span if span > 0 else 0.5


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f'<th style="{_CELL}">{_escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{_cell(value)}</td>' for value in row) + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, Markup):
        return value
    return "" if value is None else _escape(_plain(value))


def _plain(value: Any) -> str:
    return notation.number(value) if isinstance(value, float) else str(value)


def _pairs(values: Any) -> str:
    """Return the first names of an object with their values; any other value as text."""
    if not isinstance(values, dict):
        return "" if values is None else str(values)
    listed = [f"{name} {_plain(value)}" for name, value in list(values.items())[:_PAIRS]]
    return ", ".join(listed) + (" ..." if len(values) > _PAIRS else "")
