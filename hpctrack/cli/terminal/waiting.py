"""What waits in the spool and on this host, in words: what it is, since when, where, and what to do."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.cli.terminal import say as tell
from hpctrack.run import words
from hpctrack.view import notation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.stream.collector.backlog import Backlog
    from hpctrack.stream.node.spool import Spooled, Stuck

#: Seconds for which it is nobody's trouble that something waits: collectors look every half a minute.
_GRACE = 120.0
#: Paths that are told of one by one.
_NAMED = 5


class Line(NamedTuple):
    """What waits, and what to do about it."""

    says: str
    do: str

    def __str__(self) -> str:
        return f"{self.says}: {self.do}"


def lines(backlog: Backlog, submissions: dict[str, int], *, grace: float = 0.0) -> Iterator[Line]:
    """Yield a line for each kind of thing that waits.

    ``submissions``: how many belong to other databases, by name; ``grace``: seconds for which something may
    wait without a word.
    """
    yield from _ready(backlog, time.time() - grace)
    if backlog.unregistered:
        yield Line(
            f"{_told(backlog.unregistered)} wait for their submission to be registered", "hpctrack sync"
        )
    if backlog.deleted:
        says = f"{_told(backlog.deleted)} are of deleted runs: nobody can ever deliver them"
        yield Line(says, "hpctrack prune clears them away")
    for place in sorted({*submissions, *backlog.elsewhere}):
        yield _elsewhere(place, submissions.get(place, 0), backlog.elsewhere.get(place, []))
    yield from stuck(backlog.stuck)


def _ready(backlog: Backlog, before: float) -> Iterator[Line]:
    """Yield the line about what could be delivered, and has waited since before some time."""
    ready = [folder for folder in backlog.ready if folder.waiting and folder.spooled.since < before]
    if ready:
        size = sum(folder.waiting for folder in ready)
        yield Line(
            f"{_told([folder.spooled for folder in ready], size)} wait to be delivered", "hpctrack sync"
        )


def _elsewhere(place: str, submissions: int, folders: list[Spooled]) -> Line:
    """Return the line about what waits for another database."""
    waiting = [words.counted(submissions, "submission")] if submissions else []
    waiting += [_told(folders)] if folders else []
    return Line(
        f"{' and '.join(waiting)} wait for another database, {place}",
        "hpctrack sync while that one is configured, or hpctrack sync --here for this one",
    )


def once(backlog: Backlog) -> Backlog:
    """Leave out folders of deleted runs that were told of before, and mark the others as told."""
    from hpctrack.stream.disk import folders

    return backlog._replace(deleted=[folder for folder in backlog.deleted if folders.tell(folder.path)])


def stuck(folders: Iterable[Stuck]) -> Iterator[Line]:
    """Yield a line for each of the first folders that can't be judged, and one for the others."""
    troubles = list(folders)
    for folder in troubles[:_NAMED]:
        size = f" ({notation.size(folder.size)}{_ago(folder.since)})" if folder.size else ""
        yield Line(f"{folder.path}{size} stays: {folder.reason}", folder.remedy)
    if len(troubles) > _NAMED:
        yield Line(
            f"{words.counted(len(troubles) - _NAMED, 'more folder')} like these stay", "hpctrack doctor"
        )


def _ago(since: float) -> str:
    if not since:
        return ""
    return f", since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M}"


def _told(folders: list[Spooled], size: int | None = None) -> str:
    """Return how many folders these are, how much is in them, since when, and where."""
    amount = notation.size(sum(folder.size for folder in folders) if size is None else size)
    since = min((folder.since for folder in folders if folder.since), default=0.0)
    where = folders[0].path + (" ..." if len(folders) > 1 else "")
    return f"{words.counted(len(folders), 'folder')} of journals ({amount}{_ago(since)}; {where})"


def say(configuration: Settings, connection: Connection, run_id: int | None = None) -> None:
    """Say on standard error what has waited for some minutes; with ``run_id``, only what is of that run."""
    from hpctrack.store.write import registration
    from hpctrack.stream.collector import backlog

    with contextlib.suppress(errors.HpctrackError, OSError):  # it is not what was asked for
        waiting = backlog.look(configuration, lambda: connection)
        submissions = registration.elsewhere(configuration, connection)
        if run_id is not None:
            mine = [folder for folder in waiting.ready if folder.run_id == run_id]
            waiting, submissions = backlog.Backlog(mine, [], [], {}, []), {}
        for line in lines(once(waiting), submissions, grace=_GRACE):
            tell.note(str(line))
