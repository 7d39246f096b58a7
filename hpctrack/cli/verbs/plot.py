"""``hpctrack plot``: metrics of runs as charts, in the terminal or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpctrack import errors, settings
from hpctrack.cli import common, completers
from hpctrack.cli.terminal import chart, render, say, table
from hpctrack.cli.verbs import metrics
from hpctrack.run import runids
from hpctrack.run import words as reading
from hpctrack.store.metrics import metric_names, series
from hpctrack.store.read import lookup, queries
from hpctrack.text import nearest

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
@metrics.steps_option
@click.option("--since", callback=common.since, metavar="TIME", help="Logged since: 2h, 2026-01-31T12:00.")
@click.option("--until", callback=common.since, metavar="TIME", help="Logged before.")
@common.config_option
def command(
    *,
    words: tuple[str, ...],
    path: Path | None,
    steps: tuple[int | None, int | None],
    since: datetime | None,
    until: datetime | None,
    config_path: str | None,
) -> None:
    """Draw metrics of runs, a chart for each metric, with all runs in it.

    NAME is a metric or a pattern such as 'train/*'. However long a series is, its peaks are drawn.
    """
    if path is not None:
        from hpctrack.cli.terminal import figures

        figures.check(path)
    window = series.Window(*steps, since, until)
    output = table.Output()
    width = _PLAIN_WIDTH if output.plain else min(output.width, _CHART_WIDTH)
    with common.connected(settings.load(config_path=config_path)) as connection:
        runs, names = _split(connection, words)
        charts = _fetch(connection, runs, names, window, _FINE if path else chart.DOTS * width)
    if path is not None:
        figures.write(path, charts)
        return
    for one in charts:
        say.coloured(*chart.draw(one, width, colour=output.coloured))


def _split(connection: Connection, words: tuple[str, ...]) -> tuple[list[queries.Run], list[str]]:
    """Tell runs from metrics: what is no id is a metric of the runs before it, or else the name of a run.

    Raises `errors.RunNotFound` and `errors.UsageError`.
    """
    ids: list[int] = []
    known: set[str] = set()
    names: list[str] = []
    for word in words:
        refs = reading.runs(word)
        named = refs[0].named
        if ids and (word in known or (named and (names or _is_pattern(word)))):
            names.append(word)
            continue
        try:
            found = [lookup.find_one(connection, ref) for ref in refs]
        except errors.RunNotFound as error:
            if ids and named:
                raise errors.UsageError(
                    f"{word!r} is neither a metric of {_listed(ids)} nor a run: {nearest.hint(word, known)}"
                ) from None
            raise error from None
        ids += found
        known.update(metric_names.fetch(connection, found))
    if not names:
        raise errors.UsageError(f"name a metric of {_listed(ids)}: {_have(known)}")
    runs = [queries.get_run(connection, one) for one in dict.fromkeys(ids)]
    return runs, _chosen(names, known, ids)


def _is_pattern(word: str) -> bool:
    return any(char in word for char in "*?[")


def _chosen(names: list[str], known: set[str], ids: list[int]) -> list[str]:
    chosen: list[str] = []
    for name in names:
        found = metrics.matching(name, sorted(known))
        if not found:
            raise errors.UsageError(
                f"no metric {name!r} in {_listed(ids)}: {nearest.hint(name, sorted(known))}"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def _listed(ids: list[int]) -> str:
    return runids.runs_text(ids)


def _have(known: set[str]) -> str:
    return ", ".join(map(render.clean, sorted(known))) or "none"


def _fetch(
    connection: Connection, runs: list[queries.Run], names: list[str], window: series.Window, buckets: int
) -> list[chart.Chart]:
    """Return a chart for each metric that has numbers. Raises `errors.UsageError` if none has."""
    found = {run.id: series.fetch(connection, run.id, names, buckets, window) for run in runs}
    charts = []
    for name in names:
        lines = [
            chart.Line(_label(run), one)
            for run in runs
            for one in found[run.id]
            if one.name == name and one.buckets
        ]
        if lines:
            charts.append(chart.Chart(render.clean(name), tuple(lines)))
    if not charts:
        raise errors.UsageError(
            f"nothing to draw: no numbers of {', '.join(names)} in {_listed(list(found))}"
        )
    return charts


def _label(run: queries.Run) -> str:
    return " ".join(render.clean(word) for word in (f"r{run.id}", run.job, run.job_name) if word)
