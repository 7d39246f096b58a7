"""``hpctrack sync``: deliver what could not be sent when it happened."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import click

from hpctrack import errors, settings
from hpctrack.cli import common
from hpctrack.cli.terminal import bar, say, waiting
from hpctrack.view import notation

if TYPE_CHECKING:
    from hpctrack.settings import Settings
    from hpctrack.stream.collector.backlog import Ready
    from hpctrack.stream.node.spool import Spooled

#: So many folders without an answer, none with one, and no collector that tells PostgreSQL that it lives:
#: nobody is there.
_SILENCE_ENOUGH = 3


@click.command()
@click.option("--here", is_flag=True, help="Also register what was submitted for another database.")
@common.config_option
def command(*, here: bool, config_path: str | None) -> None:
    """Deliver what waits in your spool and on this host: submissions, then journals.

    Jobs whose relay could not reach a collector left their journals there. What is delivered is deleted;
    delivering twice adds nothing. Without a server of the site, your collector is started if it does not run
    and is needed. What can't be delivered stays, and is told: a submission that belongs to another database
    waits for that one.
    """
    from hpctrack.store import database
    from hpctrack.store.write import collectors, registration
    from hpctrack.stream.collector import backlog
    from hpctrack.stream.disk import late
    from hpctrack.stream.wire import records

    configuration = settings.load(config_path=config_path)
    with contextlib.closing(database.connect(configuration, autocommit=True)) as connection:
        with contextlib.suppress(OSError):
            records.try_refused_again(configuration.spool)
        registered = registration.register_pending(configuration, connection, everything=here)
        live = collectors.live_runs(connection)
        late.tell(configuration.spool, configuration.node_dir)
        found = backlog.look(configuration, lambda: connection)
        if again := backlog.register(found, configuration, connection):
            registered += again
            found = backlog.look(configuration, lambda: connection)
        submissions = registration.elsewhere(configuration, connection)
        answering = any(row.live for row in collectors.fetch(connection))
    if configuration.personal and (found.ready or live):
        from hpctrack.stream.collector import launch

        if launch.ensure_running(configuration):
            launch.wait_for_addresses(configuration)
    done = _deliver(configuration, found.ready, answering=answering)
    say.out(_summary(registered, done, len(found.ready)))
    told = waiting.lines(waiting.once(found)._replace(ready=[]), submissions)
    for line in [*told, *map(str, done.problems[1:])]:
        say.note(str(line))
    if done.problems:
        raise done.problems[0]
    if found.stuck:
        raise errors.BadInput(f"{common.counted(len(found.stuck), 'folder')} can't be judged, and stay")


class _Done(NamedTuple):
    """What became of the folders."""

    delivered: int
    #: All of these is in, but processes may still write there.
    in_use: int
    #: Another delivery has these, or has done them.
    elsewhere: int
    size: int
    problems: list[errors.HpctrackError]


def _deliver(configuration: Settings, ready: list[Ready], *, answering: bool) -> _Done:
    """Deliver one folder after the other: the trouble of one is its own."""
    from rich.progress import DownloadColumn

    from hpctrack.stream.collector import launch
    from hpctrack.stream.node import spool

    def addresses() -> list[str]:
        return list(configuration.collector) or launch.read_addresses(configuration)

    outcomes: list[tuple[Ready, spool.Outcome]] = []
    problems: list[errors.HpctrackError] = []
    total = sum(one.spooled.size for one in ready)
    with bar.shown("delivering", total, DownloadColumn) as advance:
        for one in ready:
            try:
                outcome = spool.ship(one.spooled, configuration.spool, addresses, advance, ended=one.ended)
                outcomes.append((one, outcome))
            except errors.CollectorUnavailable:
                problems.append(_unanswered(one.spooled, addresses()))
                if not outcomes and not answering and len(problems) == _SILENCE_ENOUGH:
                    break
            except errors.HpctrackError as error:
                problems.append(error)
            except (OSError, ValueError) as error:
                problems.append(errors.BadInput(f"{one.spooled.path}: {error}"))
    removed = [one for one, outcome in outcomes if outcome is spool.Outcome.REMOVED]
    others = [outcome for _, outcome in outcomes]
    return _Done(
        delivered=len(removed),
        in_use=others.count(spool.Outcome.IN_USE),
        elsewhere=others.count(spool.Outcome.ELSEWHERE),
        size=sum(one.spooled.size for one in removed),
        problems=problems,
    )


def _unanswered(spooled: Spooled, addresses: list[str]) -> errors.CollectorUnavailable:
    """Nobody answers what nobody can verify: the collector is away, or the run was deleted."""
    places = ", ".join(addresses) or "no address is known"
    return errors.CollectorUnavailable(
        f"no collector answers for {spooled.path} ({places}): see hpctrack collector --status"
    )


def _summary(registered: int, done: _Done, ready: int) -> str:
    """Return the one line that says what was done."""
    if not registered and not ready:
        return "nothing waits"
    parts = [f"{common.counted(registered, 'submission')} registered"] if registered else []
    if done.delivered:
        parts.append(
            f"{common.counted(done.delivered, 'folder')} of journals delivered ({notation.size(done.size)})"
        )
    if done.in_use:
        parts.append(f"{done.in_use} delivered that stay while their processes may write")
    if done.elsewhere:
        parts.append(f"{done.elsewhere} with another delivery")
    if left := ready - done.delivered - done.in_use - done.elsewhere:
        parts.append(f"{left} left for later")
    return ", ".join(parts)
