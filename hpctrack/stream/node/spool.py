"""The spool: what could not be shipped when it happened, found and delivered later.

``hpctrack sync`` and the collector deliver with the same engine as relays. Where somebody works in a folder
of the spool, its relay or another delivery, what is there is delivered, and stays in place. What is removed,
when and on which evidence, says `hpctrack.stream.disk.removal`; what nobody can judge is `Stuck`, and stays.
"""

from __future__ import annotations

import enum
import os
import re
import select
import time
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.script import journal_lines
from hpctrack.stream.disk import folders, leftovers, removal, runfolder, tail
from hpctrack.stream.node.outbox import Link, Outbox, Run
from hpctrack.stream.wire import doubts, messages, records
from hpctrack.stream.wire.names import TASK_NONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hpctrack.stream.wire.names import Address
    from hpctrack.text.redact import Redactor

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
    #: When the oldest of its journals was last written to, in seconds since the epoch.
    since: float = 0.0


class Stuck(NamedTuple):
    """What can't be judged or delivered: it stays, and people are told."""

    path: str
    reason: str
    remedy: str
    size: int = 0
    since: float = 0.0
    #: Whether the submission record is missing, and with it the key of its run.
    is_keyless: bool = False
    in_spool: bool = True


class Survey(NamedTuple):
    """What waits in a spool and on this host."""

    waiting: list[Spooled]
    stuck: list[Stuck]


class Delivery(enum.Enum):
    """What became of a folder."""

    REMOVED = "delivered, and removed"
    #: All that can be read is acknowledged; somebody may still write there, or works there.
    IN_USE = "delivered; it stays while its processes may write there"
    ELSEWHERE = "another delivery has it, or has done it"


def pending(spool: str, node_dir: str = "") -> list[Spooled]:
    """Return what waits: folders of the spool, and run folders of this host whose relay is gone."""
    return survey(spool, node_dir).waiting


def _unseen(spool: str, node_dir: str) -> Iterator[Stuck]:
    """Yield places that can't be looked through, or whose contents are not believed."""
    try:
        next(records.unregistered(spool), None)
    except OSError as error:
        reason = f"can't be looked through: {error.strerror}"
        yield Stuck(os.path.join(spool, "unregistered"), reason, _RIGHTS)
    try:
        for home in runfolder.closed_homes(node_dir):
            yield Stuck(home, "is open to others: nothing in it is believed", f"chmod 700 {home}")
    except OSError as error:
        yield Stuck(str(error.filename), f"can't be looked through: {error.strerror}", _RIGHTS)


def survey(spool: str, node_dir: str = "") -> Survey:
    """Look at the folders of the spool, and at the run folders of this host."""
    result = Survey([], list(_unseen(spool, node_dir)))
    places = [(os.path.join(spool, "journals"), True)]
    places += [(home, False) for home in runfolder.homes(node_dir)]
    for place, in_spool in places:
        try:
            paths = sorted(folders.others(place, ""))
        except OSError as error:
            result.stuck.append(_stuck(place, f"can't be looked through: {error.strerror}", _RIGHTS))
            continue
        for path in paths:
            _judge(result, spool, path, in_spool=in_spool)
    return result


_RIGHTS = "see to its rights and its disk; it is tried again by hpctrack sync"
_NO_RECORD = "without it nobody can prove whose it is; hpctrack prune clears it away when it is old"


def _judge(result: Survey, spool: str, path: str, *, in_spool: bool) -> None:
    """Find out whose a folder is, and add it to what waits, or to what can't be judged."""
    identity = folders.read_identity(path) or folders.guess_identity(spool, path)
    if not in_spool and identity is not None and not folders.is_of(spool, identity):
        return  # of another spool of this user's
    try:
        if not in_spool and _is_looked_after(path, identity):
            return
        files = tail.find(path)
        if identity is None or folders.find_record(spool, identity) is None:
            if files:
                keyless = _stuck(path, "its submission record is not to be found", _NO_RECORD)
                result.stuck.append(keyless._replace(is_keyless=True, in_spool=in_spool))
            return
    except (OSError, ValueError) as error:
        result.stuck.append(_unreadable(path, error))
        return
    size, since = _measure(path)
    result.waiting.append(Spooled(path, identity, in_spool, size, since))


def _is_looked_after(path: str, identity: folders.Identity | None) -> bool:
    """Whether a run folder has its supervisor and its relay: what waits there is theirs."""
    if identity is None:
        return time.time() - os.stat(path).st_mtime < _REFRESH  # made just now
    return folders.supervisor_lives(identity) and folders.Lock(path).is_held()


def unreadable(spooled: Spooled, error: OSError | ValueError) -> Stuck:
    """Return a folder that can't be judged because of what could not be seen at this moment."""
    return _unreadable(spooled.path, error)._replace(in_spool=spooled.in_spool)


def unclaimed(spooled: Spooled) -> Stuck:
    """Return a folder that says that it is of a task which its submission does not have."""
    reason = f"its submission has no task {spooled.identity.task}, and nothing else says whose it is"
    return _stuck(spooled.path, reason, _NO_RECORD)._replace(is_keyless=True, in_spool=spooled.in_spool)


def _unreadable(path: str, error: OSError | ValueError) -> Stuck:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return _stuck(path, f"can't be read: {reason}", _RIGHTS)


def _stuck(path: str, reason: str, remedy: str) -> Stuck:
    return Stuck(path, reason, remedy, *_measure(path))


def _measure(path: str) -> tuple[int, float]:
    """Return the bytes in a folder's journals, and when the oldest was last written to."""
    size, since = 0, 0.0
    try:
        for file in tail.find(path):
            status = os.lstat(file.path)
            size += status.st_size
            since = min(since or status.st_mtime, status.st_mtime)
    except OSError:
        pass
    return size, since


def count_rows(spooled: Spooled) -> int:
    """Return how many rows of metrics stand in a folder's journals, arrived or not; messages are none."""
    try:
        return sum(_rows_of(file.path) for file in tail.find(spooled.path))
    except OSError:
        return 0


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


def deliver(
    spooled: Spooled,
    spool: str,
    addresses: Callable[[], Sequence[Address]],
    progress: Callable[[int], None],
    *,
    ended: bool = False,
) -> bool:
    """Do as `ship` does; whether the folder is gone, and not by others."""
    return ship(spooled, spool, addresses, progress, ended=ended) is Delivery.REMOVED


def ship(
    spooled: Spooled,
    spool: str,
    addresses: Callable[[], Sequence[Address]],
    progress: Callable[[int], None],
    *,
    ended: bool = False,
) -> Delivery:
    """Ship a folder until all of it is acknowledged, and delete what nobody needs any more.

    ``addresses`` returns those of collectors; ``progress`` is told the number of bytes each time that some
    are acknowledged; ``ended``: PostgreSQL says that the attempt is over on all nodes. Raises
    `errors.CollectorUnavailable` if no collector answers, `errors.BadInput` if there is no submission record
    or some of the journals can't be read, `errors.WireError` if this Python refuses the record's ciphers,
    OSError if the folder can't be read or written.
    """
    record = folders.find_record(spool, spooled.identity)
    if record is None:
        raise errors.BadInput(
            f"{spooled.path}: its submission record is gone, so nobody can prove whose it is"
        )
    run = Run.of(record, spooled.identity.task)
    try:
        leftover = leftovers.Leftover(spooled.path, spooled.identity, in_spool=spooled.in_spool, ended=ended)
        taken = leftover.take()
    except FileNotFoundError:
        if os.path.lexists(spooled.path):
            raise
        return Delivery.ELSEWHERE
    if not taken and not spooled.in_spool:
        return Delivery.ELSEWHERE  # its relay ships it
    link = Link(addresses)
    try:
        return _ship_taken(run, leftover, link, progress, taken=taken)
    finally:
        link.close()
        leftover.release()


def _ship_taken(
    run: Run, leftover: leftovers.Leftover, link: Link, progress: Callable[[int], None], *, taken: bool
) -> Delivery:
    """Ship a folder that nobody else ships, and what turns out meanwhile; delete it if it is `taken`."""
    journals = leftovers.tails_of([leftover])
    told = doubts.Doubts()
    try:
        box = _outbox(run, journals, runfolder.redactor(leftover.path), told)
        _ship(box, link, leftover, progress)
        events = told.take()
        if any(journal.was_cut for journal in journals):
            events.append(journal_lines.CUT)
        if taken and events:
            own = _journal_of(leftover, events)
            journals += own
            for journal in own:
                box.add(journal)
            _ship(box, link, leftover, progress)
        return _conclude(box, leftover, taken=taken)
    finally:
        for journal in journals:
            journal.close()


def _journal_of(leftover: leftovers.Leftover, events: list[str]) -> list[tail.Tail]:
    """Have the run's timeline tell what turned out meanwhile, by a journal of our own."""
    try:
        path = runfolder.create_journal(leftover.path, "relay", leftover.identity.attempt, 0)
        with open(path, "ab") as file:
            for name in events:
                file.write(messages.line(messages.Event(time.time(), name)))
    except OSError:  # what it would tell of arrives all the same
        return []
    return [tail.Tail([file]) for file in [tail.parse_name(path)] if file is not None]


def without_key(stuck: Stuck) -> Spooled:
    """Return a folder whose submission record is gone as one that may be discarded."""
    identity = folders.read_identity(stuck.path) or folders.Identity(None, TASK_NONE)
    return Spooled(stuck.path, identity, stuck.in_spool, stuck.size, stuck.since)


def discard(spooled: Spooled) -> bool:
    """Delete a folder whose run is deleted, so that nobody can ever deliver it; False if it stays.

    It does while somebody works there or may write there.
    """
    try:
        leftover = leftovers.Leftover(spooled.path, spooled.identity, in_spool=spooled.in_spool, ended=True)
        if not leftover.take():
            return False
    except FileNotFoundError:
        return not os.path.lexists(spooled.path)
    except OSError:
        return False
    tails = {file.path: tail.Tail([file]) for file in leftover.files}
    try:
        return leftover.clear(lambda file: _prove_all(tails.get(file.path), file))
    except OSError:
        return False
    finally:
        for journal in tails.values():
            journal.close()
        leftover.release()


def _prove_all(journal: tail.Tail | None, file: tail.File) -> removal.Proof | None:
    try:
        return (
            None
            if journal is None
            else removal.Proof(journal.descriptor(file), file.base, removal.EVERYTHING)
        )
    except OSError:
        return None


def _conclude(box: Outbox, leftover: leftovers.Leftover, *, taken: bool) -> Delivery:
    """Delete what is delivered; raise what kept some of it from being read."""
    holders = {file.path: journal for journal in box.tails() for file in journal.files}

    def prove(file: tail.File) -> removal.Proof | None:
        journal = holders.get(file.path)
        if journal is None:
            return None
        try:
            return removal.Proof(journal.descriptor(file), file.base, box.safe(journal))
        except OSError:
            return None

    try:
        if taken and leftover.clear(prove):
            return Delivery.REMOVED
    except FileNotFoundError:
        if not os.path.lexists(leftover.path):
            return Delivery.ELSEWHERE
        raise
    for journal in box.tails():
        if journal.trouble is not None:
            path, why = journal.files[0].path, journal.trouble.strerror
            raise errors.BadInput(f"{path}: {why}; it stays, and is tried again by hpctrack sync")
    return Delivery.IN_USE if taken else Delivery.ELSEWHERE


def _outbox(run: Run, journals: list[tail.Tail], redactor: Redactor, told: doubts.Doubts) -> Outbox:
    box = Outbox(run)
    for journal in journals:
        journal.redactor, journal.doubts = redactor, told
        box.add(journal, first=journal.kind == "relay")
    return box


def _ship(box: Outbox, link: Link, leftover: leftovers.Leftover, progress: Callable[[int], None]) -> None:
    began = refreshed = time.monotonic()
    link.turn()
    before = 0
    while True:
        now = time.monotonic()
        for datagram in link.receive():
            box.receive(datagram, now)
        acknowledged = sum(box.watermark(journal) - journal.files[0].base for journal in box.tails())
        if acknowledged > before:
            progress(acknowledged - before)
            before = acknowledged
        if all(map(box.idle, box.tails())) and not box.renew():
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
