"""``hpctrack sync``: deliver what could not be sent when it happened."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from hpctrack import errors, settings
from hpctrack.cli import common, render

if TYPE_CHECKING:
    from hpctrack.settings import Settings
    from hpctrack.stream.spool import Spooled


@click.command()
@common.config_option
def command(*, config_path: str | None) -> None:
    """Deliver what waits in your spool and on this host: submissions, then journals.

    Jobs whose relay could not reach a collector left their journals there. What is delivered is deleted;
    delivering twice adds nothing.
    """
    configuration = settings.load(config_path=config_path)
    registered = _register(configuration)
    from hpctrack.stream import spool

    waiting = spool.pending(configuration.spool, configuration.node_dir)
    if waiting and configuration.personal:
        from hpctrack.stream.collector import starting

        starting.ensure_running(configuration)
    delivered, size, problems = _deliver(configuration, waiting)
    click.echo(_summary(registered, delivered, size, len(waiting) - delivered))
    if problems:
        raise problems[0]


def _register(configuration: Settings) -> int:
    from hpctrack.store import database, registration

    with contextlib.closing(database.connect(configuration, autocommit=True)) as connection:
        return registration.register_pending(configuration, connection)


def _deliver(configuration: Settings, waiting: list[Spooled]) -> tuple[int, int, list[errors.HpctrackError]]:
    """Return how many folders and bytes were delivered, and what went wrong."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from hpctrack.stream import spool
    from hpctrack.stream.collector import starting

    def addresses() -> list[str]:
        return list(configuration.collector) or starting.read_addresses(configuration)

    delivered = size = 0
    problems: list[errors.HpctrackError] = []
    columns = (
        "[progress.description]{task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("delivering", total=sum(spooled.size for spooled in waiting))
        for spooled in waiting:
            try:
                done = spool.deliver(
                    spooled, configuration.spool, addresses, lambda count: bar.advance(task, count)
                )
            except errors.CollectorUnavailable as error:
                places = ", ".join(addresses()) or "no address is known"
                hint = "start one with hpctrack collector, or see what is configured"
                problems.insert(0, errors.CollectorUnavailable(f"{error} ({places}): {hint}"))
                break
            except errors.HpctrackError as error:
                problems.append(error)
            except OSError as error:
                problems.append(errors.BadInput(f"{spooled.path}: {error.strerror}"))
            else:
                delivered += done
                size += spooled.size if done else 0
    return delivered, size, problems


def _summary(registered: int, delivered: int, size: int, left: int) -> str:
    """Return the one line that says what was done."""
    if not registered and not delivered and not left:
        return "nothing waits"
    parts = [f"{registered} submissions registered"] if registered else []
    if delivered:
        parts.append(f"{delivered} folders of journals delivered ({render.size(size)})")
    if left:
        parts.append(f"{left} left for later")
    return ", ".join(parts)
