"""``hpctrack export``: metrics of runs into a file."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpctrack import errors, settings
from hpctrack.cli import options, sessions
from hpctrack.cli.terminal import bar, render, say
from hpctrack.run import runids
from hpctrack.run.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hpctrack.store.database import Connection

_TERMINATED = 128 + signal.SIGTERM


@click.command()
@options.optional_runs
@options.experiment("All runs of this experiment.")
@options.archived
@options.series
@options.all_attempts
@click.option(
    "-o", "--output", "--to", "path", required=True,
    type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="A file that ends with .parquet, .csv or .jsonl; an existing one is replaced.",
)  # fmt: skip
@options.as_json
@options.config_path
def command(
    *,
    refs: tuple[runids.RunRef, ...],
    experiment: str | None,
    archived: bool,
    series: str | None,
    all_attempts: bool,
    path: Path,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Write the metrics of runs into a file, a row for each run and step.

    Columns: run, step, progress, time (UTC), restarts, then the metrics. The file is there whole or not at
    all.
    """
    from hpctrack.api import export

    options.check_runs_or_experiment(refs, experiment)
    export.check(path)
    # Otherwise the half of a file would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        ids = _ids(connection, refs, experiment, archived=archived)
        with _bar(connection, ids, series) as progress:
            rows = export.write(connection, ids, path, progress, series=series, every_attempt=all_attempts)
    if as_json:
        say.json({"file": str(path), "runs": len(ids), "rows": rows, "bytes": path.stat().st_size})
    else:
        say.out(f"{render.clean(path)}: {counted(rows, 'row')} of {counted(len(ids), 'run')}")


def _ids(
    connection: Connection, refs: tuple[runids.RunRef, ...], experiment: str | None, *, archived: bool
) -> list[int]:
    from hpctrack.store.read import lookup
    from hpctrack.store.write import experiments

    if experiment is None:
        return list(lookup.find_each(connection, refs))
    chosen = experiments.get(connection, experiment)
    ids = experiments.run_ids(connection, chosen, archived=archived)
    if not ids:
        but = f" but {chosen.archived_runs} archived ones (--archived)" if chosen.archived_runs else ""
        raise errors.BadInput(f"experiment {experiment!r} has no runs{but}")
    return ids


@contextlib.contextmanager
def _bar(connection: Connection, ids: list[int], series: str | None) -> Iterator[Callable[[int], None]]:
    """Show how far it is; only on a terminal."""
    from rich.progress import MofNCompleteColumn

    from hpctrack.store.metrics import metric_tables

    total = metric_tables.count(connection, ids, series) or None
    with bar.shown("rows", total, MofNCompleteColumn) as progress:
        yield progress
