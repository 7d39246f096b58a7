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


def lines(found: Backlog, submissions: dict[str, int], *, grace: float = 0.0) -> Iterator[Line]:
    """Yield a line for each kind of thing that waits.

    ``submissions``: how many belong to other databases, by name; ``grace``: seconds for which something may
    wait without a word.
    """
    before = time.time() - grace
    ready = [one for one in found.ready if one.waiting and one.spooled.since < before]
    if ready:
        size = sum(one.waiting for one in ready)
        yield Line(f"{_told([one.spooled for one in ready], size)} wait to be delivered", "hpctrack sync")
    if found.unregistered:
        yield Line(f"{_told(found.unregistered)} wait for their submission to be registered", "hpctrack sync")
    if found.deleted:
        says = f"{_told(found.deleted)} are of deleted runs: nobody can ever deliver them"
        yield Line(says, "hpctrack prune clears them away")
    for place in sorted({*submissions, *found.elsewhere}):
        waiting = [words.counted(submissions[place], "submission")] if place in submissions else []
        if folders := found.elsewhere.get(place):
            waiting.append(_told(folders))
        yield Line(
            f"{' and '.join(waiting)} wait for another database, {place}",
            "hpctrack sync while that one is configured, or hpctrack sync --here for this one",
        )
    yield from stuck(found.stuck)


def once(found: Backlog) -> Backlog:
    """Leave out folders of deleted runs that were told of before: now all of them have been."""
    from hpctrack.stream.disk import folders

    return found._replace(deleted=[one for one in found.deleted if folders.tell(one.path)])


def stuck(found: Iterable[Stuck]) -> Iterator[Line]:
    """Yield a line for each of the first folders that can't be judged, and one for the others."""
    troubles = list(found)
    for one in troubles[:_NAMED]:
        held = f" ({notation.size(one.size)}{_ago(one.since)})" if one.size else ""
        yield Line(f"{one.path}{held} stays: {one.reason}", one.remedy)
    if len(troubles) > _NAMED:
        yield Line(
            f"{words.counted(len(troubles) - _NAMED, 'more folder')} like these stay", "hpctrack doctor"
        )


def _ago(since: float) -> str:
    if not since:
        return ""
    return f", since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M}"


def _told(found: list[Spooled], size: int | None = None) -> str:
    """Return how many folders these are, how much is in them, since when, and where."""
    held = notation.size(sum(one.size for one in found) if size is None else size)
    since = min((one.since for one in found if one.since), default=0.0)
    where = (found[0].path) + (" ..." if len(found) > 1 else "")
    return f"{words.counted(len(found), 'folder')} of journals ({held}{_ago(since)}; {where})"


def say(configuration: Settings, connection: Connection, run_id: int | None = None) -> None:
    """Say on standard error what has waited for some minutes; with ``run_id``, what does so of one run."""
    from hpctrack.store.write import registration
    from hpctrack.stream.collector import backlog

    with contextlib.suppress(errors.HpctrackError, OSError):  # it is not what was asked for
        found = backlog.look(configuration, lambda: connection)
        submissions = registration.elsewhere(configuration, connection)
        if run_id is not None:
            mine = [one for one in found.ready if one.run_id == run_id]
            found, submissions = backlog.Backlog(mine, [], [], {}, []), {}
        for line in lines(once(found), submissions, grace=_GRACE):
            tell.note(str(line))
