"""``hpctrack compare``: what differs between runs, and what they measured, side by side."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.text import Text

from hpctrack import errors, settings
from hpctrack.cli import common
from hpctrack.cli.terminal import detail, render, say, table
from hpctrack.run import comparison, runids
from hpctrack.store.metrics import metric_names, series
from hpctrack.store.read import attempt_resources, lookup, queries
from hpctrack.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from hpctrack.run.efficiency import Resources
    from hpctrack.store.database import Connection

#: Values longer than this stand below one another rather than side by side.
_SIDE_BY_SIDE = 36
_DIFF_STYLES = {"+": "#009e73", "-": "#e04030", "@": "dim"}
_FIGURES = ("last", "minimum", "maximum")


class _Measured(NamedTuple):
    """A metric of all the runs: its last, least and greatest value in each; None where it has none."""

    name: str
    last: tuple[float | None, ...]
    minimum: tuple[float | None, ...]
    maximum: tuple[float | None, ...]


@click.command()
@common.runs_argument
@click.option(
    "--all", "everything", is_flag=True, help="Also what differs from job to job: SLURM_... and the like."
)
@common.json_option
@common.config_option
def command(
    *, refs: tuple[runids.RunRef, ...], everything: bool, as_json: bool, config_path: str | None
) -> None:
    """Compare runs: arguments, environment, git, script, resources; final and best metrics side by side.

    RUN may be a job array, to compare its tasks.
    """
    with common.connected(settings.load(config_path=config_path)) as connection:
        ids = lookup.find_each(connection, refs)
        if len(ids) < 2:
            raise errors.UsageError("name at least two runs")
        runs = [queries.get_run(connection, one) for one in ids]
        now = queries.session(connection).now
        sides = [_side(connection, run, now, everything=everything) for run in runs]
        measured = list(_measure(connection, ids))
    sections = comparison.compare(sides)
    if as_json:
        say.raw(render.to_json(_to_object(sides, sections, measured)) + "\n")
        return
    _print(table.Output(), runs, sides, sections, measured)


def _side(connection: Connection, run: queries.Run, now: datetime, *, everything: bool) -> comparison.Side:
    submission = queries.submission(connection, run.submission)
    env = detail.environment(run, submission) if submission else comparison.flat(run.env)
    facts = {
        "run": _run_facts(run, now),
        "resources": _resource_facts(attempt_resources.of_run(connection, run.id)),
        "tags": comparison.flat(run.tags),
        "args": comparison.flat(run.args),
        "git": comparison.flat(submission.git if submission else None),
        "submission": {}
        if submission is None
        else {"command": submission.submit_line, "work dir": submission.work_dir},
        "env": {
            name: value for name, value in env.items() if everything or not comparison.is_of_the_job(name)
        },
    }
    return comparison.Side(f"r{run.id}", facts, submission.script if submission else None)


def _run_facts(run: queries.Run, now: datetime) -> dict[str, Any]:
    return {
        "name": run.job_name,
        "experiment": run.experiment,
        "user": run.user_name,
        "cluster": run.cluster,
        "partition": run.partition,
        "account": run.account,
        "qos": run.qos,
        "state": run.status.value,
        "reason": run.reason,
        "exit code": run.exit_code,
        "exit signal": run.exit_signal,
        "restarts": run.attempt,
        "nodes": run.node_list,
        "elapsed": run.elapsed(now),
        "limit": run.time_limit,
        "note": run.comment,
        "last step": run.last_step,
    }


def _resource_facts(resources: Sequence[Resources]) -> dict[str, Any]:
    """Return what the latest attempt was given and used."""
    if not resources:
        return {}
    latest = resources[-1]
    return {
        "cpus": latest.cpus,
        "cpu seconds": latest.cpu_s,
        "memory requested": latest.memory_requested_bytes,
        "memory used": latest.memory_used_bytes,
    }


def _measure(connection: Connection, ids: Sequence[int]) -> Iterator[_Measured]:
    """Yield the metrics that any of the runs has as numbers."""
    found: list[dict[str, series.Series]] = []
    for one in ids:
        reduced = series.fetch(connection, one, metric_names.fetch(connection, [one]), buckets=1)
        found.append({metric.name: metric for metric in reduced})
    for name in sorted({name for metrics in found for name in metrics}):
        of_runs = [metrics.get(name) for metrics in found]
        figures = (
            tuple(None if one is None else getattr(one, figure) for one in of_runs) for figure in _FIGURES
        )
        yield _Measured(name, *figures)


def _print(
    output: table.Output,
    runs: Sequence[queries.Run],
    sides: Sequence[comparison.Side],
    sections: Sequence[comparison.Section],
    measured: Sequence[_Measured],
) -> None:
    labels = [side.label for side in sides]
    for run in runs:
        line = Text().append(f"r{run.id}", "bold")
        for word in (run.job and f"job {run.job}", run.job_name):
            line.append("  ").append(render.clean(word)) if word else None
        output.print(line.append("  ").append_text(render.state(run.status, plain=output.bare)))
        if run.submission is not None and run.args is None and run.env is None and len(runs) > 1:
            output.print(Text(f"  its details are for {render.clean(run.user_name)} alone", "dim"))
    for section in sections:
        if section.differences:
            alike = f"  ({section.alike} alike)" if section.alike else ""
            output.print(Text(), Text(section.name, "bold").append(alike, "dim"))
            _print_section(output, labels, section)
    for lines in comparison.script_changes(sides):
        output.print(Text(), Text("script", "bold"))
        for text in lines:
            output.print(Text("  " + visible.shown(text), _DIFF_STYLES.get(text[:1], "")))
    if measured:
        output.print(Text(), Text("metrics", "bold"))
        output.print(_indented(table.build(_metric_columns(labels, measured), output.width - 2)))


def _print_section(output: table.Output, labels: Sequence[str], section: comparison.Section) -> None:
    cells = [
        (render.clean(row.name), [_text(section.name, row.name, value) for value in row.values])
        for row in section.differences
    ]
    short = [(name, values) for name, values in cells if max(map(len, values)) <= _SIDE_BY_SIDE]
    if short:
        columns = [table.Column("", [Text(name) for name, _ in short], least=8)]
        columns += [
            table.Column(label, [Text(values[index]) for _, values in short], least=8)
            for index, label in enumerate(labels)
        ]
        output.print(_indented(table.build(columns, output.width - 2)))
    width = max(map(len, labels))
    for name, values in cells:
        if max(map(len, values)) > _SIDE_BY_SIDE:
            output.print(Text(f"  {name}"))
            for label, value in zip(labels, values, strict=True):
                output.print(Text(f"    {label:<{width}}  ", "dim").append(value, "default not dim"))


def _text(section: str, name: str, value: Any) -> str:
    if isinstance(value, timedelta):
        return render.duration(value)
    if section == "resources" and name.startswith("memory"):
        return render.size(value)
    return render.number(value)


def _metric_columns(labels: Sequence[str], measured: Sequence[_Measured]) -> list[table.Column]:
    names: list[Text] = []
    figures: list[Text] = []
    values: list[list[Text]] = [[] for _ in labels]
    for one in measured:
        for figure, word in zip(_FIGURES, ("last", "min", "max"), strict=True):
            names.append(Text(render.clean(one.name) if figure == "last" else ""))
            figures.append(Text(word, "dim"))
            for column, value in zip(values, getattr(one, figure), strict=True):
                column.append(Text(render.number(value)))
    return [
        table.Column("", names, least=12),
        table.Column("", figures),
        *(table.Column(label, column, "right") for label, column in zip(labels, values, strict=True)),
    ]


def _indented(part: Text) -> Text:
    return Text("\n").join([Text("  ").append_text(line) for line in part.split("\n")])


def _to_object(
    sides: Sequence[comparison.Side],
    sections: Sequence[comparison.Section],
    measured: Sequence[_Measured],
) -> dict[str, Any]:
    """Return the object that ``--json`` prints: of each name a list of values, in the order of the runs."""
    return {
        "runs": [side.label for side in sides],
        "differences": {
            section.name: {row.name: row.values for row in section.differences}
            for section in sections
            if section.differences
        },
        "scripts": ["\n".join(lines) for lines in comparison.script_changes(sides)],
        "metrics": {one.name: {figure: getattr(one, figure) for figure in _FIGURES} for one in measured},
    }
