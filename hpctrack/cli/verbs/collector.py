"""``hpctrack collector``: the process that receives what running jobs send."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
from typing import TYPE_CHECKING

import click

from hpctrack import account, errors, settings
from hpctrack.cli import options
from hpctrack.cli.terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from hpctrack.settings import Settings
    from hpctrack.store.write.collectors import CollectorRow
    from hpctrack.stream.collector.reconciler import Slurm

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@click.command()
@click.option("--bind", help="Address to listen on (default: collector_bind, 0.0.0.0).")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="UDP port; 0 takes any (default: collector_port)."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="TCP port for Prometheus, on metrics_bind (default: metrics_port, 0: none).",
)
@click.option("--detached", type=int, hidden=True, metavar="LOCK")
@click.option("--reconcile/--no-reconcile", default=True, help="Compare with Slurm, too (default: yes).")
@click.option("--stop", is_flag=True, help="End your own collector and its embedded PostgreSQL, and end.")
@click.option("--status", is_flag=True, help="Show the collectors that PostgreSQL knows of, and end.")
@options.as_json
@options.config_path
def command(
    *,
    bind: str | None,
    port: int | None,
    metrics_port: int | None,
    detached: int | None,
    reconcile: bool,
    stop: bool,
    status: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Receive what running jobs send, and commit it to PostgreSQL.

    Ends cleanly on SIGTERM, with everything that was received committed. hpctrack sbatch starts one by itself
    where no PostgreSQL server is configured.
    """
    overrides = {"collector_bind": bind, "collector_port": port, "metrics_port": metrics_port}
    configuration = settings.load(overrides, config_path=config_path)
    if status:
        _show_status(configuration, as_json=as_json)
        return
    if stop:
        _stop(configuration)
        return
    _run(configuration, (lambda: _find_slurm(configuration)) if reconcile else None, detached)


def _run(configuration: Settings, find_slurm: Callable[[], Slurm] | None, detached: int | None) -> None:
    from hpctrack.stream.collector import process

    with _logging(configuration, bounded=detached is not None):
        if detached is None:
            process.run_foreground(configuration, find_slurm)
        else:
            process.run_detached(configuration, detached, find_slurm)


def _stop(configuration: Settings) -> None:
    from hpctrack.store import embedded
    from hpctrack.stream.collector import launch

    if not configuration.personal:
        raise errors.UsageError("--stop ends your own collector; this one serves a site: end its process")
    ended = launch.stop(configuration)
    say.out("the collector has ended" if ended else "no collector runs here")
    if embedded.stop(configuration):
        say.out("PostgreSQL has ended")


def _find_slurm(configuration: Settings) -> Slurm:
    from hpctrack.slurm import backend, site
    from hpctrack.stream.collector.reconciler import Slurm

    environ: Mapping[str, str] = os.environ
    if configuration.personal:
        environ = site.client_environ(environ, configuration.cache)
    cluster = site.cluster_name(environ, configuration.cache)
    user = account.user_name() if configuration.personal else None
    asked = backend.choose(configuration.slurm_backend, cluster, environ)
    return Slurm(cluster, asked, user, environ)


def _logging(configuration: Settings, *, bounded: bool) -> AbstractContextManager[None]:
    """Log one line per event to stderr; a collector that nobody watches into a file that does not grow."""
    handler = _bounded_file(configuration) if bounded else logging.StreamHandler(sys.stderr)
    return say.logging_to(handler, _LOG_FORMAT, logging.DEBUG if settings.debugging() else logging.INFO)


def _bounded_file(configuration: Settings) -> logging.Handler:
    from hpctrack.stream.collector import launch

    return logging.handlers.RotatingFileHandler(
        launch.log_path(configuration), maxBytes=launch.LOG_BYTES, backupCount=1
    )


def _show_status(configuration: Settings, *, as_json: bool) -> None:
    from hpctrack.store import database
    from hpctrack.store.write import collectors

    with contextlib.closing(database.connect(configuration, autocommit=True)) as connection:
        rows = collectors.fetch(connection)
    if as_json:
        say.json({"collectors": [_keys(row) for row in rows]})
    elif not rows:
        say.out("no collector is known")
    else:
        _print(rows)


def _print(rows: Sequence[CollectorRow]) -> None:
    from hpctrack.cli.terminal import collectors, table

    output = table.Output()
    for row in rows:
        output.print(*collectors.draw(row))


def _keys(row: CollectorRow) -> dict[str, object]:
    return {
        "id": str(row.id),
        "host": row.host,
        "pid": row.pid,
        "addresses": list(row.addresses),
        "started": row.started.isoformat(),
        "heartbeat": row.heartbeat.isoformat(),
        "live": row.live,
        "reconciles": row.reconciles,
        "stats": row.stats,
    }
