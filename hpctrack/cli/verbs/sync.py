"""``hpctrack sync``: deliver what could not be sent when it happened."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import click

from hpctrack import errors, settings
from hpctrack.cli import options
from hpctrack.cli.terminal import bar, say, waiting
from hpctrack.run.words import counted
from hpctrack.view import notation

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpctrack.settings import Settings
    from hpctrack.stream.collector.backlog import Backlog, Ready
    from hpctrack.stream.node.spool import Delivery
    from hpctrack.stream.wire.names import Address

#: So many folders without an answer, none with one, and no collector that tells PostgreSQL that it lives:
#: nobody is there.
_SILENCE_ENOUGH = 3


@click.command()
@click.option("--here", is_flag=True, help="Also register what was submitted for another database.")
@options.config_path
def command(*, here: bool, config_path: str | None) -> None:
    """Deliver what waits in your spool and on this host: submissions, then journals.

    Jobs whose relay could not reach a collector left their journals there. What is delivered is deleted;
    delivering twice adds nothing. Without a server of the site, your collector is started if it does not run
    and is needed. What can't be delivered stays, and is told: a submission that belongs to another database
    waits for that one.
    """
    configuration = settings.load(config_path=config_path)
    survey = _register(configuration, everything=here)
    ready, stuck = survey.backlog.ready, survey.backlog.stuck
    if configuration.personal and (ready or survey.live):
        _start_collector(configuration)
    done = _deliver(configuration, ready, answering=survey.answering)
    say.out(_summary(survey.registered, done, len(ready)))
    left = waiting.lines(waiting.once(survey.backlog)._replace(ready=[]), survey.elsewhere)
    for line in [*left, *done.problems[1:]]:
        say.note(str(line))
    if done.problems:
        raise done.problems[0]
    if stuck:
        raise errors.BadInput(f"{counted(len(stuck), 'folder')} can't be judged, and stay")


class _Survey(NamedTuple):
    """What waits once all submissions are registered that can be."""

    backlog: Backlog
    registered: int
    """Submissions that PostgreSQL has learnt of just now."""
    elsewhere: dict[str, int]
    """Submissions that wait for other databases, by what those are called."""
    live: bool
    """Whether any run goes on, so that a collector is needed."""
    answering: bool
    """Whether a collector has told PostgreSQL lately that it lives."""


def _register(configuration: Settings, *, everything: bool) -> _Survey:
    """Register submissions, those of waiting journals, too; return what waits then."""
    from hpctrack.store import database
    from hpctrack.store.write import collectors, registration
    from hpctrack.stream.collector import backlog
    from hpctrack.stream.disk import late
    from hpctrack.stream.wire import records

    with contextlib.closing(database.connect(configuration, autocommit=True)) as connection:
        with contextlib.suppress(OSError):
            records.try_refused_again(configuration.spool)
        registered = registration.register_pending(configuration, connection, everything=everything)
        live = bool(collectors.live_runs(connection))
        late.tell(configuration.spool, configuration.node_dir)
        waits = backlog.look(configuration, lambda: connection)
        if again := backlog.register(waits, configuration, connection):
            registered += again
            waits = backlog.look(configuration, lambda: connection)
        elsewhere = registration.elsewhere(configuration, connection)
        answering = any(row.live for row in collectors.fetch(connection))
    return _Survey(waits, registered, elsewhere, live, answering)


def _start_collector(configuration: Settings) -> None:
    from hpctrack.stream.collector import launch

    if launch.ensure_running(configuration):
        launch.wait_for_addresses(configuration)


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

    from hpctrack.stream.node.spool import Delivery

    outcomes: list[tuple[Ready, Delivery]] = []
    problems: list[errors.HpctrackError] = []
    total = sum(folder.spooled.size for folder in ready)
    with bar.shown("delivering", total, DownloadColumn) as advance:
        for folder in ready:
            try:
                outcomes.append((folder, _ship(configuration, folder, advance)))
            except errors.HpctrackError as error:
                problems.append(error)
                if not outcomes and not answering and _is_nobody_there(problems):
                    break
    removed = [folder for folder, outcome in outcomes if outcome is Delivery.REMOVED]
    others = [outcome for _, outcome in outcomes]
    return _Done(
        delivered=len(removed),
        in_use=others.count(Delivery.IN_USE),
        elsewhere=others.count(Delivery.ELSEWHERE),
        size=sum(folder.spooled.size for folder in removed),
        problems=problems,
    )


def _ship(configuration: Settings, folder: Ready, advance: Callable[[int], None]) -> Delivery:
    """Ship one folder. Raises `errors.HpctrackError` that names the folder."""
    from hpctrack.stream.collector import launch
    from hpctrack.stream.node import spool

    def addresses() -> list[Address]:
        return list(configuration.collector) or launch.read_addresses(configuration)

    try:
        return spool.ship(folder.spooled, configuration.spool, addresses, advance, ended=folder.ended)
    except errors.CollectorUnavailable:
        # Nobody answers what nobody can verify, either: the collector is away, or the run was deleted.
        places = ", ".join(map(str, addresses())) or "no address is known"
        raise errors.CollectorUnavailable(
            f"no collector answers for {folder.spooled.path} ({places}): see hpctrack collector --status"
        ) from None
    except (OSError, ValueError) as error:
        raise errors.BadInput(f"{folder.spooled.path}: {error}") from None


def _is_nobody_there(problems: list[errors.HpctrackError]) -> bool:
    """Whether enough folders were left without an answer, the last one among them."""
    return isinstance(problems[-1], errors.CollectorUnavailable) and len(problems) == _SILENCE_ENOUGH


def _summary(registered: int, done: _Done, ready: int) -> str:
    """Return the one line that says what was done."""
    if not registered and not ready:
        return "nothing waits"
    left = ready - done.delivered - done.in_use - done.elsewhere
    journals = f"{counted(done.delivered, 'folder')} of journals delivered ({notation.size(done.size)})"
    parts = {
        f"{counted(registered, 'submission')} registered": registered,
        journals: done.delivered,
        f"{done.in_use} delivered that stay while their processes may write": done.in_use,
        f"{done.elsewhere} with another delivery": done.elsewhere,
        f"{left} left for later": left,
    }
    return ", ".join(part for part, count in parts.items() if count)
