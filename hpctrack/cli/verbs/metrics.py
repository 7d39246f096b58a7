"""``hpctrack metrics``: what a run measured, row by row."""

from __future__ import annotations

import csv
import fnmatch
import json
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
from rich.text import Text

from hpctrack import errors, settings
from hpctrack.cli import completers, options, sessions
from hpctrack.cli.terminal import render, say, table
from hpctrack.run import runids
from hpctrack.store.metrics import curves, metric_names, metric_rows, series_rows
from hpctrack.store.read import lookup, queries
from hpctrack.text import nearest, visible
from hpctrack.view import jsonable, notation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from hpctrack.store.database import Connection

_SHOWN = 50
#: Names of metrics that are told to have no room.
_LISTED = 10
_AXES = ("step", "progress", "time", "restarts")


@click.command()
@options.run
@click.argument("names", nargs=-1, metavar="[NAME ...]", shell_complete=completers.metrics)
@click.option("--last", is_flag=True, help="Just the latest value of each metric.")
@options.steps
@options.logged
@options.series
@options.all_attempts
@options.limit(f"So many rows at most, the last ones.  [default: {_SHOWN} in a table, otherwise all]")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@options.as_json
@options.config_path
def command(
    *,
    ref: runids.RunRef,
    names: tuple[str, ...],
    last: bool,
    steps: tuple[int | None, int | None],
    since: datetime | None,
    until: datetime | None,
    series: str | None,
    all_attempts: bool,
    limit: int | None,
    as_csv: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Print the metrics of a run: a row for each step, in order.

    NAME is a metric or a pattern such as 'train/*'; without any all metrics are printed:

        hpctrack metrics 14 'val/*' --series eval --csv
    """
    if as_csv and as_json:
        raise errors.UsageError("--csv and --json do not go together")
    form: _Form = "csv" if as_csv else "json" if as_json else "table"
    span = curves.Span(*steps, since, until, all_attempts, series)
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        run_id = lookup.find_one(connection, ref)
        chosen = choose(connection, run_id, names, span)
        if last:
            values = metric_rows.last_values(connection, run_id, chosen, span)
            _LAST_WRITERS[form](values, _Subject(run_id, series))
        elif form == "table":
            rows = list(metric_rows.iterate(connection, run_id, chosen, span, limit or _SHOWN))
            if rows:
                _print_table(rows, chosen, is_cut=limit is None and len(rows) == _SHOWN)
            else:
                say.out(_nothing(connection, run_id, span))
        else:
            write = _print_csv if form == "csv" else _print_json
            write(
                metric_rows.iterate(connection, run_id, chosen, span, limit), chosen, _Subject(run_id, series)
            )


class _Subject(NamedTuple):
    """What rows are of."""

    run_id: int
    series: str | None

    def to_json(self) -> dict[str, str | None]:
        """Return the keys that tell it."""
        return {"run": f"r{self.run_id}", "series": self.series}


def choose(connection: Connection, run_id: int, names: Sequence[str], span: curves.Span) -> list[str]:
    """Return the metrics of a run, or of a series of it, that names and patterns mean; without any, all.

    Raises `errors.UsageError` for a name that means none, and for a series that the run does not have.
    """
    series_rows.check(connection, [run_id], span.series)
    known = metric_names.fetch(connection, [run_id], span.series, every_attempt=span.every_attempt)
    chosen: list[str] = []
    for name in names:
        meant = matching(name, known)
        if not meant:
            what = "metric" if span.series is None else f"metric in series {span.series!r} named"
            raise errors.UsageError(f"r{run_id} has no {what} {name!r}: {nearest.hint(name, known)}")
        chosen += meant
    return list(dict.fromkeys(chosen)) if names else known


def matching(name: str, known: Sequence[str]) -> list[str]:
    """Return the metrics that a name or a pattern means."""
    return [name] if name in known else [metric for metric in known if fnmatch.fnmatchcase(metric, name)]


def _print_csv(rows: Iterable[metric_rows.MetricRow], names: Sequence[str], _subject: _Subject) -> None:
    writer = csv.writer(table.ForPrograms(), lineterminator="\n")
    writer.writerow(map(visible.cell, [*_AXES, *names]))
    for row in rows:
        writer.writerow(map(_cell, (*_axes(row), *row.values)))


def _cell(value: Any) -> Any:
    plain = jsonable.plain(value)
    if isinstance(plain, bool | dict | list):
        return notation.compact(plain)
    return visible.cell(plain)


def _axes(row: metric_rows.MetricRow) -> tuple[Any, ...]:
    return row.step, row.progress, row.time, row.attempt


def _print_json(rows: Iterable[metric_rows.MetricRow], names: Sequence[str], subject: _Subject) -> None:
    """Print an object row by row: there may be millions."""
    head = visible.in_json(json.dumps(subject.to_json(), ensure_ascii=False)).removesuffix("}")
    sys.stdout.write(f'{head}, "rows": [')
    separator = "\n"
    for row in rows:
        metrics = {name: value for name, value in zip(names, row.values, strict=True) if value is not None}
        told = {**dict(zip(_AXES, _axes(row), strict=True)), "values": metrics}
        sys.stdout.write(separator + visible.in_json(json.dumps(jsonable.plain(told), ensure_ascii=False)))
        separator = ",\n"
    sys.stdout.write("\n]}\n")


def _nothing(connection: Connection, run_id: int, span: curves.Span) -> str:
    """Return what is said where there are no rows to print."""
    run = queries.get_run(connection, run_id)
    known = [] if span.series is not None else series_rows.fetch(connection, [run_id])
    hint = (
        f" It has series (--series): {', '.join(render.clean(one.name) for one in known)}." if known else ""
    )
    return (f"{run.ref} has no such rows." if run.rows else f"{run.ref} has logged no metrics.") + hint


def _print_table(rows: Sequence[metric_rows.MetricRow], names: Sequence[str], *, is_cut: bool) -> None:
    output = table.Output()
    columns = [*_axis_columns(rows), *_metric_columns(rows, names)]
    parts = [table.build(columns, output.width)]
    if hidden := _hidden(columns, output.width):
        parts.append(Text(f"no room for {_listed(hidden)}: name what to show, or --csv", "dim"))
    if is_cut:
        parts.append(Text(f"the last {_SHOWN} rows; --limit, --csv and --json print more", "dim"))
    output.print(*parts)


def _axis_columns(rows: Sequence[metric_rows.MetricRow]) -> Iterator[table.Column]:
    yield _numbers("step", (row.step for row in rows))
    if any(row.progress for row in rows):
        yield _numbers("progress", (row.progress for row in rows))
    if any(row.attempt for row in rows):
        yield _numbers("attempt", map(_attempt, rows))
    yield table.Column("time", [Text(notation.moment(row.time)) for row in rows], drop=1)


def _attempt(row: metric_rows.MetricRow) -> int | None:
    return None if row.attempt is None else row.attempt + 1


def _metric_columns(rows: Sequence[metric_rows.MetricRow], names: Sequence[str]) -> Iterator[table.Column]:
    """Yield the metrics' columns, of which the last one goes first where there is no room."""
    for index, name in enumerate(names):
        # The first one stays, and is cut where the terminal ends.
        turn = len(names) - index + 1 if index else None
        yield _numbers(render.clean(name), (row.values[index] for row in rows), drop=turn)


def _numbers(header: str, values: Iterable[object], *, drop: int | None = None) -> table.Column:
    return table.Column(header, [Text(notation.metric(value)) for value in values], "right", drop=drop)


def _hidden(columns: Sequence[table.Column], width: int) -> list[str]:
    """Return the headers of the columns that a line has no room for."""
    shown = [column for column, _ in table.fit(columns, width)]
    return [column.header for column in columns if column not in shown]


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _last_as_json(values: list[metric_rows.LastValue], subject: _Subject) -> None:
    told = {value.name: jsonable.of_record(value, leave_out=("name",)) for value in values}
    say.raw(jsonable.to_json({**subject.to_json(), "last": told}) + "\n")


def _last_as_csv(values: list[metric_rows.LastValue], _subject: _Subject) -> None:
    writer = csv.writer(table.ForPrograms(), lineterminator="\n")
    writer.writerow(("metric", "value", "step", "progress", "time"))
    writer.writerows(map(_cell, value) for value in values)


def _last_as_table(values: list[metric_rows.LastValue], _subject: _Subject) -> None:
    output = table.Output()
    columns = [
        table.Column("metric", [Text(render.clean(value.name)) for value in values], least=12),
        table.Column("value", [Text(notation.metric(value.value)) for value in values], "right", least=10),
        _numbers("step", (value.step for value in values)),
        table.Column("time", [Text(notation.moment(value.time)) for value in values], drop=1),
    ]
    output.print(table.build(columns, output.width))


_Form = Literal["csv", "json", "table"]
_LAST_WRITERS = {"csv": _last_as_csv, "json": _last_as_json, "table": _last_as_table}
