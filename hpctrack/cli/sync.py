"""``hpctrack sync``: deliver what could not be sent when it happened."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from hpctrack import errors, settings
from hpctrack.cli import bar, common, render, say

if TYPE_CHECKING:
    from hpctrack.settings import Settings
    from hpctrack.stream.spool import Spooled

#: So many folders without an answer, and none with one: nobody is there.
_SILENCE_ENOUGH = 3


@click.command()
@common.config_option
def command(*, config_path: str | None) -> None:
    """Deliver what waits in your spool and on this host: submissions, then journals.

    Jobs whose relay could not reach a collector left their journals there. What is delivered is deleted;
    delivering twice adds nothing. Without a server of the site, your collector is started if it does not run
    and is needed.
    """
    configuration = settings.load(config_path=config_path)
    registered, live = _register(configuration)
    from hpctrack.stream import spool

    waiting = spool.pending(configuration.spool, configuration.node_dir)
    if configuration.personal and (waiting or live):
        from hpctrack.stream.collector import starting

        if starting.ensure_running(configuration):
            starting.wait_for_addresses(configuration)
    delivered, size, problems = _deliver(configuration, waiting)
    say.out(_summary(registered, delivered, size, len(waiting) - delivered))
    if problems:
        raise problems[0]


def _register(configuration: Settings) -> tuple[int, int]:
    """Register submissions; return how many, and how many runs may still have something to say."""
    from hpctrack.store import collectors, database, registration
    from hpctrack.stream import records

    with contextlib.closing(database.connect(configuration, autocommit=True)) as connection:
        with contextlib.suppress(OSError):
            records.try_refused_again(configuration.spool)
        return registration.register_pending(configuration, connection), collectors.live_runs(connection)


def _deliver(configuration: Settings, waiting: list[Spooled]) -> tuple[int, int, list[errors.HpctrackError]]:
    """Return how many folders and bytes were delivered, and what went wrong."""
    from rich.progress import DownloadColumn

    from hpctrack.stream import spool
    from hpctrack.stream.collector import starting

    def addresses() -> list[str]:
        return list(configuration.collector) or starting.read_addresses(configuration)

    delivered = size = 0
    problems: list[errors.HpctrackError] = []
    total = sum(spooled.size for spooled in waiting)
    with bar.shown("delivering", total, DownloadColumn) as advance:
        for spooled in waiting:
            try:
                done = spool.deliver(spooled, configuration.spool, addresses, advance)
            except errors.CollectorUnavailable:
                problems.append(_unanswered(spooled, addresses()))
                if not delivered and len(problems) == _SILENCE_ENOUGH:
                    break
            except errors.HpctrackError as error:
                problems.append(error)
            except OSError as error:
                problems.append(errors.BadInput(f"{spooled.path}: {error.strerror}"))
            else:
                delivered += done
                size += spooled.size if done else 0
    return delivered, size, problems


def _unanswered(spooled: Spooled, addresses: list[str]) -> errors.CollectorUnavailable:
    """Nobody answers what nobody can verify: the collector is away, or the run was deleted."""
    places = ", ".join(addresses) or "no address is known"
    return errors.CollectorUnavailable(
        f"no collector answers for {spooled.path} ({places}): see hpctrack collector --status"
    )


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
