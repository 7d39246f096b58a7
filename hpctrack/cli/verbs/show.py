"""``hpctrack show``: everything about one run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hpctrack import errors, settings
from hpctrack.cli import options, sessions
from hpctrack.cli.terminal import detail, render, say, table, waiting
from hpctrack.store.metrics import curves, metric_names
from hpctrack.store.read import lookup, queries
from hpctrack.text import nearest
from hpctrack.view import jsonable
from hpctrack.view import story as telling

if TYPE_CHECKING:
    from hpctrack.run import runids
    from hpctrack.store.database import Connection

_CHART_WIDTH, _PLAIN_WIDTH = 100, 80


@click.command()
@options.run
@click.option("--plot", "plots", multiple=True, metavar="METRIC", help="Draw this metric (several: repeat).")
@click.option("--script", is_flag=True, help="Print the script as it was submitted, secrets masked.")
@click.option("--env", is_flag=True, help="Print the environment that the run began with, secrets masked.")
@options.as_json
@options.config_path
def command(
    *,
    ref: runids.RunRef,
    plots: tuple[str, ...],
    script: bool,
    env: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Tell everything about one run: what it was, what became of it, what it measured.

    RUN is a Slurm job id (14, or 14_3 for one task of an array), a run's own id (r7), or the beginning of its
    job's name.
    """
    if sum((bool(plots), script, env, as_json)) > 1:
        raise errors.UsageError("--plot, --script, --env and --json do not go together")
    configuration = settings.load(config_path=config_path)
    with sessions.connected(configuration) as connection:
        run = queries.get_run(connection, lookup.find_one(connection, ref))
        if plots:
            _plot(connection, run, plots)
        elif script:
            _print_script(connection, run)
        elif env:
            _print_env(connection, run)
        elif as_json:
            story = telling.gather(connection, run, buckets=1)
            say.raw(jsonable.to_json(jsonable.of_story(story)) + "\n")
        else:
            output = table.Output()
            story = telling.gather(connection, run, buckets=detail.sparkline_width(output))
            output.print(*detail.draw(story, output))
            waiting.say(configuration, connection, run.id)


def _plot(connection: Connection, run: queries.Run, names: tuple[str, ...]) -> None:
    from hpctrack.cli.terminal import chart

    output = table.Output()
    width = _PLAIN_WIDTH if output.plain else min(output.width, _CHART_WIDTH)
    measured = curves.fetch(connection, run.id, names, buckets=chart.DOTS * width)
    drawable = {metric.name: metric for metric in measured if metric.buckets}
    for name in names:
        if name not in drawable:
            hint = nearest.hint(name, metric_names.fetch(connection, [run.id]))
            raise errors.UsageError(f"r{run.id} has no numbers of metric {name!r}: {hint}")
        line = chart.Line(render.clean(telling.label(run)), drawable[name])
        say.out(*chart.draw(chart.Chart(render.clean(name), (line,)), width))


def _submission(connection: Connection, run: queries.Run) -> queries.Submission:
    submission = queries.submission(connection, run.submission)
    if submission is None and run.submission is not None:
        raise errors.StoreDenied(f"script and environment of r{run.id} are for {run.user_name} alone")
    if submission is None:
        raise errors.RunNotFound(f"r{run.id} was not submitted by hpctrack: neither script nor environment")
    return submission


def _print_script(connection: Connection, run: queries.Run) -> None:
    script = _submission(connection, run).script
    if script is None:
        raise errors.RunNotFound(f"r{run.id} has no script: hpctrack show r{run.id} tells its command")
    _print_text(script)


def _print_env(connection: Connection, run: queries.Run) -> None:
    merged = telling.environment(run, _submission(connection, run))
    lines = [f"{name}={value}" for name, value in merged.items()]
    if sys.stdout.isatty():
        say.out(*lines)
    else:
        say.raw("".join(line + "\n" for line in lines))


def _print_text(text: str) -> None:
    """Print a text from the database: as it is into a pipe or file, harmless on a terminal."""
    if sys.stdout.isatty():
        text = "".join(line + "\n" for line in render.clean_lines(text))
    say.raw(text)
