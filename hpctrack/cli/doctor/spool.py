"""What waits in the spool and on this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.cli.doctor.check import Check
from hpctrack.cli.terminal import waiting
from hpctrack.run.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection


def look(configuration: Settings, connection: Connection | None) -> Iterator[Check]:
    """Tell what waits; without PostgreSQL nobody can say what can be done about it."""
    from hpctrack.stream.wire import records

    try:
        submissions = len(list(records.unregistered(configuration.spool)))
        if connection is None:
            lines = _waiting_unjudged(configuration)
        else:
            lines, foreign = _waiting(configuration, connection)
            submissions -= foreign
    except (OSError, errors.StoreError) as error:
        yield Check("spool", "broken", str(error), "see to its rights: it is to be yours alone")
        return
    if submissions:
        says = f"{counted(submissions, 'submission')} wait to be delivered"
        lines.insert(0, waiting.Line(says, "hpctrack sync"))
    refused = [
        Check("spool", "broken", f"{path} can't be registered: {reason}", "hpctrack sync tries it again")
        for path, reason in records.refused(configuration.spool)
    ]
    yield from refused
    for line in lines:
        yield Check("spool", "note", line.says, line.do)
    if not lines and not refused:
        yield Check("spool", "ok", "nothing waits")


def _waiting_unjudged(configuration: Settings) -> list[waiting.Line]:
    """Say what journals wait, as far as their files tell it."""
    from hpctrack.stream.node import spool

    survey = spool.survey(configuration.spool, configuration.node_dir)
    lines = list(waiting.stuck(survey.stuck))
    if survey.waiting:
        runs = counted(len(survey.waiting), "run")
        lines.insert(0, waiting.Line(f"journals of {runs} wait to be delivered", "hpctrack sync"))
    return lines


def _waiting(configuration: Settings, connection: Connection) -> tuple[list[waiting.Line], int]:
    """Say what waits, and how many submissions of it are for other databases."""
    from hpctrack.store.write import registration
    from hpctrack.stream.collector import backlog

    elsewhere = registration.elsewhere(configuration, connection)
    waits = backlog.look(configuration, lambda: connection)
    return list(waiting.lines(waits, elsewhere)), sum(elsewhere.values())
