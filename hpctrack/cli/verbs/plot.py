"""``hpctrack plot``: metrics of runs as charts, in the terminal or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpctrack import errors, settings
from hpctrack.cli import completers, options, sessions
from hpctrack.cli.terminal import chart, chart_files, render, say, table
from hpctrack.cli.verbs import metrics
from hpctrack.run import runids
from hpctrack.run import words as reading
from hpctrack.store.metrics import curves, metric_names, series_rows
from hpctrack.store.read import lookup, queries
from hpctrack.text import nearest
from hpctrack.view import story

if TYPE_CHECKING:
    from datetime import datetime

    from hpctrack.store.database import Connection

_CHART_WIDTH, _PLAIN_WIDTH = 120, 80
#: Stretches of the axis in a file: more than an image has columns of pixels.
_FINE = 2000


@click.command()
@click.argument(
    "words", nargs=-1, required=True, metavar="RUN... NAME...", shell_complete=completers.runs_and_metrics
)
@click.option(
    "-o", "--output", "path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write a file: .png, .svg or .pdf (matplotlib), .html (plotly, to look around in).",
)  # fmt: skip
@options.steps
@options.logged
@options.series
@options.all_attempts
@options.config_path
def command(
    *,
    words: tuple[str, ...],
    path: Path | None,
    steps: tuple[int | None, int | None],
    since: datetime | None,
    until: datetime | None,
    series: str | None,
    all_attempts: bool,
    config_path: str | None,
) -> None:
    """Draw metrics of runs, a chart for each metric, with all runs in it.

    NAME is a metric or a pattern such as 'train/*'. However many rows there are, their peaks are drawn.
    """
    if path is not None:
        chart_files.check(path)
    span = curves.Span(*steps, since, until, all_attempts, series)
    output = table.Output()
    width = _PLAIN_WIDTH if output.plain else min(output.width, _CHART_WIDTH)
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        runs, names = _split(connection, words, span)
        charts = _fetch(connection, runs, names, span, _FINE if path else chart.DOTS * width)
    if path is not None:
        chart_files.write(path, charts)
        return
    for metric in charts:
        say.coloured(*chart.draw(metric, width, colour=output.coloured))


def _split(
    connection: Connection, words: tuple[str, ...], span: curves.Span
) -> tuple[list[queries.Run], list[str]]:
    """Split the words into runs and metrics.

    A word that names a metric of the runs before it is a metric; so is, behind the first one, every word that
    is no id. Any other word is looked up as a run. Raises `errors.RunNotFound` and `errors.UsageError`.
    """
    ids: list[int] = []
    known: set[str] = set()
    names: list[str] = []
    for word in words:
        if ids and _is_metric(word, known, behind_another=bool(names)):
            names.append(word)
            continue
        try:
            new = _find(connection, word, ids, known)
        except errors.UsageError:
            series_rows.check(connection, ids, span.series)  # the reason for it
            raise
        ids += new
        known.update(metric_names.fetch(connection, new, span.series, every_attempt=span.every_attempt))
    series_rows.check(connection, ids, span.series)
    if not names:
        raise errors.UsageError(f"name a metric of {runids.runs_text(ids)}: {_have(known)}")
    runs = [queries.get_run(connection, run_id) for run_id in dict.fromkeys(ids)]
    return runs, _chosen(names, known, ids)


def _is_metric(word: str, known: set[str], *, behind_another: bool) -> bool:
    if word in known:
        return True
    return reading.runs(word)[0].named and (behind_another or any(char in word for char in "*?["))


def _find(connection: Connection, word: str, ids: list[int], known: set[str]) -> list[int]:
    """Return the runs that a word means; ``ids`` are those before it, which have the metrics ``known``."""
    refs = reading.runs(word)
    try:
        return [lookup.find_one(connection, ref) for ref in refs]
    except errors.RunNotFound:
        if not ids or not refs[0].named:
            raise
    hint = nearest.hint(word, known)
    raise errors.UsageError(f"{word!r} is neither a metric of {runids.runs_text(ids)} nor a run: {hint}")


def _chosen(names: list[str], known: set[str], ids: list[int]) -> list[str]:
    chosen: list[str] = []
    for name in names:
        matching = metrics.matching(name, sorted(known))
        if not matching:
            hint = nearest.hint(name, sorted(known))
            raise errors.UsageError(f"no metric {name!r} in {runids.runs_text(ids)}: {hint}")
        chosen += matching
    return list(dict.fromkeys(chosen))


def _have(known: set[str]) -> str:
    return ", ".join(map(render.clean, sorted(known))) or "none"


def _fetch(
    connection: Connection, runs: list[queries.Run], names: list[str], span: curves.Span, buckets: int
) -> list[chart.Chart]:
    """Return a chart for each metric that has numbers. Raises `errors.UsageError` if none has."""
    lines: dict[str, list[chart.Line]] = {name: [] for name in names}
    for run in runs:
        label = render.clean(story.label(run))
        for metric in curves.fetch(connection, run.id, names, buckets, span):
            if metric.buckets:
                lines[metric.name].append(chart.Line(label, metric))
    charts = [chart.Chart(render.clean(name), tuple(drawn)) for name, drawn in lines.items() if drawn]
    if not charts:
        whose = runids.runs_text(run.id for run in runs)
        raise errors.UsageError(f"nothing to draw: no numbers of {', '.join(names)} in {whose}")
    return charts
