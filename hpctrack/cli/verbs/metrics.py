"""``hpctrack metrics``: what a run measured, row by row."""

from __future__ import annotations

import csv
import fnmatch
import json
import sys
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from hpctrack import errors, settings
from hpctrack.cli import common, completers
from hpctrack.cli.terminal import render, say, table
from hpctrack.run import runids
from hpctrack.store.metrics import metric_names, metric_rows, series
from hpctrack.store.read import lookup, queries
from hpctrack.text import nearest, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from hpctrack.store.database import Connection

_SHOWN = 50
#: Names of metrics that are told to have no room.
_LISTED = 10
_AXES = ("step", "progress", "time", "restarts")


def steps(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[int | None, int | None]:
    """Read a range of steps: ``100:200``, ``100:``, ``:200``, or one step."""
    if text is None:
        return None, None
    first, colon, last = text.partition(":")
    try:
        bounds = [int(part) if part.strip() else None for part in (first, last if colon else first)]
    except ValueError:
        raise errors.UsageError(f"{text!r} is no range of steps: write 100:200, 100: or :200") from None
    if all(bound is None for bound in bounds) or any(bound and abs(bound) >= 1 << 63 for bound in bounds):
        raise errors.UsageError(f"{text!r} is no range of steps: write 100:200, 100: or :200")
    return bounds[0], bounds[1]


steps_option = click.option(
    "--steps", callback=steps, metavar="FROM:TO", help="Only these steps: 100:200, 100:, :200."
)


@click.command()
@common.run_argument
@click.argument("names", nargs=-1, metavar="[NAME ...]", shell_complete=completers.metrics)
@click.option("--last", is_flag=True, help="Just the latest value of each metric.")
@steps_option
@click.option("--since", callback=common.since, metavar="TIME", help="Logged since: 2h, 2026-01-31T12:00.")
@click.option("--until", callback=common.since, metavar="TIME", help="Logged before.")
@click.option(
    "-l", "--limit", type=click.IntRange(1),
    help=f"So many rows at most, the last ones.  [default: {_SHOWN} in a table, otherwise all]",
)  # fmt: skip
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@common.json_option
@common.config_option
def command(
    *,
    ref: runids.RunRef,
    names: tuple[str, ...],
    last: bool,
    steps: tuple[int | None, int | None],
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    as_csv: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Print the metrics of a run: a row for each step, in order.

    NAME is a metric or a pattern such as 'train/*'; without any all metrics are printed.
    """
    if as_csv and as_json:
        raise errors.UsageError("--csv and --json do not go together")
    window = series.Window(*steps, since, until)
    with common.connected(settings.load(config_path=config_path)) as connection:
        run_id = lookup.find_one(connection, ref)
        chosen = choose(connection, run_id, names)
        if last:
            _print_last(
                metric_rows.last_values(connection, run_id, chosen, window),
                run_id,
                as_csv=as_csv,
                as_json=as_json,
            )
            return
        shown = limit if limit is not None or as_csv or as_json else _SHOWN
        rows = metric_rows.iterate(connection, run_id, chosen, window, shown)
        if as_csv:
            _print_csv(rows, chosen)
        elif as_json:
            _print_json(rows, chosen, run_id)
        else:
            _print_table(list(rows), chosen, queries.get_run(connection, run_id), limit)


def choose(connection: Connection, run_id: int, names: Sequence[str]) -> list[str]:
    """Return the metrics of a run that names and patterns mean; without any, all.

    Raises `errors.UsageError` for a name that means none.
    """
    known = metric_names.fetch(connection, [run_id])
    chosen: list[str] = []
    for name in names:
        found = matching(name, known)
        if not found:
            raise errors.UsageError(f"r{run_id} has no metric {name!r}: {nearest.hint(name, known)}")
        chosen += found
    return list(dict.fromkeys(chosen)) if names else known


def matching(name: str, known: Sequence[str]) -> list[str]:
    """Return the metrics that a name or a pattern means."""
    return [name] if name in known else [one for one in known if fnmatch.fnmatchcase(one, name)]


def _print_csv(rows: Iterable[metric_rows.MetricRow], names: Sequence[str]) -> None:
    writer = csv.writer(table.ForPrograms(), lineterminator="\n")
    writer.writerow(map(visible.cell, [*_AXES, *names]))
    for row in rows:
        writer.writerow(map(_cell, (row.step, row.progress, row.time, row.attempt, *row.values)))


def _cell(value: Any) -> Any:
    found = render.jsonable(value)
    if isinstance(found, bool | dict | list):
        return json.dumps(found, ensure_ascii=False)
    return visible.cell(found)


def _print_json(rows: Iterable[metric_rows.MetricRow], names: Sequence[str], run_id: int) -> None:
    """Print an object row by row: there may be millions."""
    sys.stdout.write(f'{{"run": "r{run_id}", "rows": [')
    separator = "\n"
    for row in rows:
        metrics = {name: value for name, value in zip(names, row.values, strict=True) if value is not None}
        told = {
            "step": row.step,
            "progress": row.progress,
            "time": row.time,
            "restarts": row.attempt,
            "values": metrics,
        }
        sys.stdout.write(separator + render.harmless(json.dumps(render.jsonable(told), ensure_ascii=False)))
        separator = ",\n"
    sys.stdout.write("\n]}\n")


def _print_table(
    rows: list[metric_rows.MetricRow], names: Sequence[str], run: queries.Run, limit: int | None
) -> None:
    if not rows:
        say.out(f"r{run.id} has no such rows." if run.rows else f"r{run.id} has logged no metrics.")
        return
    output = table.Output()
    columns = [table.Column("step", [Text(str(row.step)) for row in rows], "right")]
    if any(row.progress for row in rows):
        columns.append(table.Column("progress", [Text(render.number(row.progress)) for row in rows], "right"))
    if any(row.attempt for row in rows):
        attempts = [Text(render.UNKNOWN if row.attempt is None else str(row.attempt + 1)) for row in rows]
        columns.append(table.Column("attempt", attempts, "right"))
    columns.append(table.Column("time", [Text(render.moment(row.time)) for row in rows], drop=1))
    for index, name in enumerate(names):
        cells = [Text(render.number(row.values[index])) for row in rows]
        # The first one stays, and is cut where the terminal ends.
        turn = len(names) - index + 1 if index else None
        columns.append(table.Column(render.clean(name), cells, "right", drop=turn))
    parts = [table.build(columns, output.width)]
    shown = [column for column, _ in table.fit(columns, output.width)]
    if hidden := [column.header for column in columns if column not in shown]:
        parts.append(Text(f"no room for {_listed(hidden)}: name what to show, or --csv", "dim"))
    if limit is None and len(rows) == _SHOWN:
        parts.append(Text(f"the last {_SHOWN} rows; --limit, --csv and --json print more", "dim"))
    output.print(*parts)


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _print_last(found: list[metric_rows.LastValue], run_id: int, *, as_csv: bool, as_json: bool) -> None:
    if as_json:
        told = {
            one.name: {"value": one.value, "step": one.step, "progress": one.progress, "time": one.time}
            for one in found
        }
        say.raw(render.to_json({"run": f"r{run_id}", "last": told}) + "\n")
        return
    if as_csv:
        writer = csv.writer(table.ForPrograms(), lineterminator="\n")
        writer.writerow(("metric", "value", "step", "progress", "time"))
        writer.writerows(map(_cell, one) for one in found)
        return
    output = table.Output()
    columns = [
        table.Column("metric", [Text(render.clean(one.name)) for one in found], least=12),
        table.Column("value", [Text(render.number(one.value)) for one in found], "right", least=10),
        table.Column("step", [Text(str(one.step)) for one in found], "right"),
        table.Column("time", [Text(render.moment(one.time)) for one in found], drop=1),
    ]
    output.print(table.build(columns, output.width))
