"""The spool: what could not be shipped when it happened, found and delivered later.

``hpctrack sync`` and the collector deliver with the same engine as relays. Where somebody works in a folder
of the spool, its relay or another delivery, what is there is delivered, and stays in place.
"""

from __future__ import annotations

import os
import re
import select
import time
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.stream import folders, leftovers, runfolder
from hpctrack.stream.outbox import Link, Outbox, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hpctrack.redact import Redactor
    from hpctrack.stream.records import Record
    from hpctrack.stream.tail import Tail

#: Seconds without any answer after which nobody is there.
_GIVE_UP_AFTER = 10.0
_REFRESH = 30.0
_PAUSE = 0.05
_CHUNK = 1 << 20
_BLANK = re.compile(rb"(?<=\n)\n")


class Spooled(NamedTuple):
    """A folder of journals that its relay has left, in the spool or on this host."""

    path: str
    identity: folders.Identity
    in_spool: bool
    #: Bytes in it.
    size: int


def pending(spool: str, node_dir: str = "") -> list[Spooled]:
    """Return what waits: folders of the spool, and run folders of this host whose supervisor is gone."""
    places = [(os.path.join(spool, "journals"), True)]
    places += [(home, False) for home in runfolder.homes(node_dir)]
    return [found for place, in_spool in places for found in _waiting(spool, place, in_spool=in_spool)]


def _waiting(spool: str, place: str, *, in_spool: bool) -> Iterator[Spooled]:
    for path in sorted(folders.others(place, "")):
        identity = folders.read_identity(path)
        if identity is None:
            continue
        if not in_spool and (folders.supervisor_lives(identity) or not _is_of(spool, identity)):
            continue
        size = 0
        for file in leftovers.Leftover(path, identity, in_spool=in_spool).files:
            try:
                size += os.stat(file.path).st_size
            except OSError:
                continue
        yield Spooled(path, identity, in_spool, size)


def count_rows(spooled: Spooled) -> int:
    """Return how many rows of metrics stand in a folder's journals, arrived or not; messages are none."""
    found = leftovers.Leftover(spooled.path, spooled.identity, in_spool=spooled.in_spool).files
    return sum(_rows_of(file.path) for file in found)


def _rows_of(path: str) -> int:
    """Count the lines that are neither messages nor comments nor blank."""
    rows, before = 0, b"\n"
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                rows += chunk.count(b"\n")
                text = before + chunk
                rows -= sum(text.count(b"\n" + mark) for mark in (b"!", b"#"))
                rows -= len(_BLANK.findall(text))
                before = chunk[-1:]
    except OSError:
        pass
    return rows


def _is_of(spool: str, identity: folders.Identity) -> bool:
    """Whether a run folder's record is in this spool: a user may have several, or has removed one."""
    if identity.record is not None and not identity.record.startswith(os.path.join(spool, "")):
        return False
    try:
        return folders.find_record(spool, identity) is not None
    except (OSError, ValueError):
        return False


def deliver(
    spooled: Spooled, spool: str, addresses: Callable[[], Sequence[str]], progress: Callable[[int], None]
) -> bool:
    """Ship a folder until all of it is acknowledged, and delete it; False if somebody still works in it.

    ``addresses`` returns ``host:port`` entries of collectors; ``progress`` is told the number of bytes each
    time that some are acknowledged. Raises `errors.CollectorUnavailable` if nobody answers,
    `errors.BadInput` if there is no submission record, OSError if the folder can't be read or written.
    """
    record = folders.find_record(spool, spooled.identity)
    if record is None:
        raise errors.BadInput(
            f"{spooled.path}: its submission record is gone, so nobody can prove whose it is"
        )
    leftover = leftovers.Leftover(spooled.path, spooled.identity, in_spool=spooled.in_spool)
    taken = leftover.take()
    if not taken and not spooled.in_spool:
        return False  # its relay ships it
    link = Link(addresses)
    tails = leftovers.tails_of([leftover])
    try:
        box = _outbox(record, spooled.identity.task, tails, runfolder.redactor(spooled.path))
        _ship(box, link, leftover, progress)
        paths = {file.path for one in tails if box.delivered(one) for file in one.files}
        return taken and leftover.clear(lambda file: file.path in paths)
    finally:
        link.close()
        for one in tails:
            one.close()
        leftover.release()


def _outbox(record: Record, task: int, tails: list[Tail], redactor: Redactor) -> Outbox:
    box = Outbox(Run.of(record, task))
    for one in tails:
        one.redactor = redactor
        box.add(one, first=one.kind == "relay")
    return box


def _ship(box: Outbox, link: Link, leftover: leftovers.Leftover, progress: Callable[[int], None]) -> None:
    began = refreshed = time.monotonic()
    link.turn()
    before = 0
    while True:
        now = time.monotonic()
        for datagram in link.receive():
            box.receive(datagram, now)
        acknowledged = sum(box.watermark(one) - one.files[0].base for one in box.tails())
        if acknowledged > before:
            progress(acknowledged - before)
            before = acknowledged
        if box.drained():
            return
        silent = now - max(began, box.heard or 0.0)
        if silent > _GIVE_UP_AFTER:
            raise errors.CollectorUnavailable("no collector answers")
        link.watch(box)
        if now - refreshed > _REFRESH:
            refreshed = now
            leftover.refresh()
        sent = sum(link.send(datagram) for datagram in box.datagrams(now))
        _wait(link, 0.0 if sent else _PAUSE)


def _wait(link: Link, seconds: float) -> None:
    poll = select.poll()
    for descriptor in link.filenos():
        poll.register(descriptor, select.POLLIN)
    poll.poll(seconds * 1000)
