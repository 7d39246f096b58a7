"""``hpctrack compare``: what differs between runs, and what they measured, side by side."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.text import Text

from hpctrack import errors, settings
from hpctrack.cli import options, sessions
from hpctrack.cli.terminal import render, say, table
from hpctrack.run import comparison, fields, runids
from hpctrack.store.metrics import curves, metric_names
from hpctrack.store.read import attempt_resources, lookup, queries
from hpctrack.text import visible
from hpctrack.view import jsonable, notation, story

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from hpctrack.run.efficiency import Resources
    from hpctrack.store.database import Connection

#: Values longer than this stand below one another rather than side by side.
_SIDE_BY_SIDE = 36
_DIFF_STYLES = {"+": "#009e73", "-": "#e04030", "@": "dim"}
#: Of a metric that a run does not have as numbers.
_NOTHING = (None, None, None)


class _Measured(NamedTuple):
    """A metric of all the runs: its last, least and greatest value in each; None where it has none."""

    name: str
    last: tuple[float | None, ...]
    minimum: tuple[float | None, ...]
    maximum: tuple[float | None, ...]

    @property
    def numbers(self) -> tuple[tuple[float | None, ...], ...]:
        """All three."""
        return self.last, self.minimum, self.maximum


@click.command()
@options.runs
@click.option(
    "--all", "everything", is_flag=True, help="Also what differs from job to job: SLURM_... and the like."
)
@options.as_json
@options.config_path
def command(
    *, refs: tuple[runids.RunRef, ...], everything: bool, as_json: bool, config_path: str | None
) -> None:
    """Compare runs: arguments, environment, git, script, resources; final and best metrics side by side.

    RUN may be a job array, to compare its tasks.
    """
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        ids = lookup.find_each(connection, refs)
        if len(ids) < 2:
            raise errors.UsageError("name at least two runs")
        runs = [queries.get_run(connection, run_id) for run_id in ids]
        now = queries.now(connection)
        sides = [_side(connection, run, now, everything=everything) for run in runs]
        measured = list(_measure(connection, ids))
    sections = comparison.compare(sides)
    if as_json:
        say.raw(jsonable.to_json(_to_object(sides, sections, measured)) + "\n")
        return
    _print(table.Output(), runs, sides, sections, measured)


def _side(connection: Connection, run: queries.Run, now: datetime, *, everything: bool) -> comparison.Side:
    submission = queries.submission(connection, run.submission)
    facts = {
        "run": _run_facts(run, now),
        "resources": _resource_facts(attempt_resources.of_run(connection, run.id)),
        "tags": comparison.flat(run.tags),
        "args": comparison.flat(run.args),
        **_submission_facts(submission),
        "env": _environment(run, submission, everything=everything),
    }
    return comparison.Side(run.ref, facts, submission.script if submission else None)


def _run_facts(run: queries.Run, now: datetime) -> dict[str, Any]:
    values = {field.compare: field.read(run, now) for field in fields.FIELDS if field.compare is not None}
    return {**values, "state": run.status.value}


def _submission_facts(submission: queries.Submission | None) -> dict[str, dict[str, Any]]:
    if submission is None:
        return {"git": {}, "submission": {}}
    told = {"command": submission.submit_line, "work dir": submission.work_dir}
    return {"git": comparison.flat(submission.git), "submission": told}


def _environment(
    run: queries.Run, submission: queries.Submission | None, *, everything: bool
) -> dict[str, Any]:
    env = story.environment(run, submission) if submission else comparison.flat(run.env)
    return {name: value for name, value in env.items() if everything or not comparison.is_of_the_job(name)}


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
    of_runs = [_numbers(connection, run_id) for run_id in ids]
    for name in sorted(set().union(*of_runs)):
        last, minimum, maximum = zip(*(metrics.get(name, _NOTHING) for metrics in of_runs), strict=True)
        yield _Measured(name, last, minimum, maximum)


def _numbers(connection: Connection, run_id: int) -> dict[str, tuple[float | None, ...]]:
    """Return the last, least and greatest value of each metric of a run."""
    names = metric_names.fetch(connection, [run_id])
    return {
        metric.name: (metric.last, metric.minimum, metric.maximum)
        for metric in curves.fetch(connection, run_id, names, buckets=1)
    }


def _print(
    output: table.Output,
    runs: Sequence[queries.Run],
    sides: Sequence[comparison.Side],
    sections: Sequence[comparison.Section],
    measured: Sequence[_Measured],
) -> None:
    labels = [side.label for side in sides]
    for run in runs:
        _print_run(output, run)
    for section in sections:
        if section.differences:
            alike = f"  ({section.alike} alike)" if section.alike else ""
            output.print(Text(), Text(section.name, "bold").append(alike, "dim"))
            _print_section(output, labels, section)
    for changes in comparison.script_changes(sides):
        output.print(Text(), Text("script", "bold"), *map(_diff_line, changes))
    if measured:
        output.print(Text(), Text("metrics", "bold"))
        output.print(_indented(table.build(_metric_columns(labels, measured), output.width - 2)))


def _print_run(output: table.Output, run: queries.Run) -> None:
    ref, *others = map(render.clean, story.title(run))
    line = Text("  ").join([Text(ref, "bold"), *map(Text, others)])
    output.print(line.append("  ").append_text(render.state(run.status, plain=output.bare)))
    if run.submission is not None and run.args is None and run.env is None:
        output.print(Text(f"  its details are for {render.clean(run.user_name)} alone", "dim"))


def _diff_line(text: str) -> Text:
    return Text("  " + visible.shown(text), _DIFF_STYLES.get(text[:1], ""))


class _Row(NamedTuple):
    """A name and its values as texts."""

    name: str
    values: list[str]

    @property
    def is_long(self) -> bool:
        """Whether its values stand below one another."""
        return max(map(len, self.values)) > _SIDE_BY_SIDE


def _print_section(output: table.Output, labels: Sequence[str], section: comparison.Section) -> None:
    rows = [_row(section.name, difference) for difference in section.differences]
    short = [row for row in rows if not row.is_long]
    if short:
        columns = [table.Column("", [Text(row.name) for row in short], least=8)]
        for label, *values in zip(labels, *(row.values for row in short), strict=True):
            columns.append(table.Column(label, list(map(Text, values)), least=8))
        output.print(_indented(table.build(columns, output.width - 2)))
    width = max(map(len, labels))
    for row in filter(lambda row: row.is_long, rows):
        output.print(Text(f"  {row.name}"))
        for label, value in zip(labels, row.values, strict=True):
            output.print(Text(f"    {label:<{width}}  ", "dim").append(value, "default not dim"))


def _row(section: str, difference: comparison.Difference) -> _Row:
    name = difference.name
    return _Row(render.clean(name), [_text(section, name, value) for value in difference.values])


def _text(section: str, name: str, value: Any) -> str:
    if isinstance(value, timedelta):
        return notation.duration(value)
    if section == "resources" and name.startswith("memory"):
        return notation.size(value)
    return notation.number(value)


def _metric_columns(labels: Sequence[str], measured: Sequence[_Measured]) -> list[table.Column]:
    names: list[Text] = []
    which: list[Text] = []
    values: list[list[Text]] = [[] for _ in labels]
    for metric in measured:
        for word, numbers in zip(("last", "min", "max"), metric.numbers, strict=True):
            names.append(Text(render.clean(metric.name) if word == "last" else ""))
            which.append(Text(word, "dim"))
            for column, value in zip(values, numbers, strict=True):
                column.append(Text(notation.number(value)))
    return [
        table.Column("", names, least=12),
        table.Column("", which),
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
        "metrics": {metric.name: jsonable.of_record(metric, leave_out=("name",)) for metric in measured},
    }
