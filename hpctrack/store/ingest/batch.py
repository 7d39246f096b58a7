"""What happens to pieces of journals inside one transaction."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import errors, model
from hpctrack.store import refusals, values
from hpctrack.store.ingest import gather, messages, metrics, pending, pieces, rows, series
from hpctrack.store.ingest.progress import COUNTED, Journal, decide
from hpctrack.store.statements import statement
from hpctrack.stream.wire.messages import KINDS, RunMessage, read, storable
from hpctrack.stream.wire.names import JournalKey

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from uuid import UUID

    from hpctrack.store.database import Connection

    #: Records what relays say about status: `hpctrack.reconcile.observe`.
    Observe = Callable[[Connection, Iterable[RunMessage]], frozenset[int]]

_MAX_REASON = 1000  # characters
#: How often parts of one refused piece are tried, each of which costs about a millisecond: enough to find
#: every row of a usual one. What is left then is set aside in larger parts.
_TRIES = 256
#: Lines of which it is tried whether PostgreSQL takes any.
_PROBES = 64
#: Entries of `rejected` of one run, and bytes in them; what is more is only counted.
_MAX_REJECTED, _MAX_PAYLOAD = 2000, 32 << 20


@dataclass
class Outcome:
    """What became of a batch, in committed transactions."""

    watermarks: dict[JournalKey, int] = field(default_factory=dict)
    """Of every journal that was looked at."""
    ahead: list[model.Piece] = field(default_factory=list)
    """Pieces that begin beyond their journal's watermark: nothing was done about them."""
    ended: set[int] = field(default_factory=set)
    """Runs in a Slurm job whose script has ended."""
    gone: set[int] = field(default_factory=set)
    """Runs that do not exist any more."""
    counts: Counter[str] = field(default_factory=Counter)
    """By the names of the fields of `hpctrack.stream.collector.figures.Stored`."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Rows that were set aside, by SQLSTATE; ``none`` where it was not PostgreSQL that refused them."""
    refusing: str | None = None
    """What PostgreSQL refuses whatever comes for; None while it does not."""
    stored: list[tuple[dict[pending.Key, int], list[rows.Table]]] = field(default_factory=list)
    """Rows: how many came of each run, and tables of them."""

    def add(self, other: Outcome) -> None:
        """Take in what became of another part of the batch."""
        self.watermarks.update(other.watermarks)
        self.ahead += other.ahead
        self.ended |= other.ended
        self.gone |= other.gone
        self.counts += other.counts
        self.rejected += other.rejected
        self.refusing = other.refusing or self.refusing
        self.stored += other.stored


def store(
    connection: Connection, writer: metrics.Writer, observe: Observe, given: Sequence[model.Piece]
) -> Outcome:
    """Store pieces, given in the order of their arrival, inside the caller's transaction.

    Raises `errors.ContentRefused` and what psycopg raises.
    """
    batch = _Batch(connection, given)
    writer.begin()
    batch.lock()
    batch.decide()
    batch.store_rows(writer)
    batch.store_messages(observe)
    batch.count()
    return batch.outcome


def store_apart(
    connection: Connection, writer: metrics.Writer, observe: Observe, piece: model.Piece
) -> Outcome:
    """Store a piece that was refused as a whole, line by line if need be, inside the caller's transaction.

    The lines that are to blame are set aside in `rejected`; all others are stored. Raises
    `errors.ContentRefused` where no line alone is to blame, and what psycopg raises.
    """
    batch = _Batch(connection, [piece])
    writer.begin()
    batch.lock()
    batch.decide(take=False)
    batch.store_lines(writer, observe)
    batch.count()
    return batch.outcome


def probe(
    connection: Connection, writer: metrics.Writer, observe: Observe, given: Sequence[model.Piece]
) -> set[str]:
    """Return of which kinds (`pieces.kinds`) any line of these pieces can be stored.

    Some lines, from everywhere in them, are tried alone; the caller rolls back. Raises what psycopg raises.
    """
    batch = _Batch(connection, given)
    writer.begin()
    batch.lock()
    batch.decide(take=False)
    return batch.probe(writer, observe)


class _Latest(NamedTuple):
    """What is stored of a run that rows come of."""

    attempt: int
    """The latest that wrote rows."""
    scans: int
    """How often its statistics were reckoned anew."""
    before: metrics.Before


class _Batch:
    def __init__(self, connection: Connection, given: Sequence[model.Piece]) -> None:
        self._connection = connection
        self._pieces = given
        self._watermarks: dict[JournalKey, int] = {}
        self._first_steps: dict[JournalKey, int | None] = {}
        #: Rows and torn lines that have come in.
        self._lines: dict[JournalKey, int] = {}
        #: Those of runs that are what the wire calls them, and those of others.
        self._home: list[model.Piece] = []
        self._homeless: list[model.Piece] = []
        self._journals: list[Journal] = []
        #: Entries and bytes in `rejected`, by run.
        self._set_aside_before: dict[int | None, tuple[int, int]] = {}
        self._logged: list[rows.Logged] = []
        #: Of series, which `_logged` has nothing of.
        self._in_series: list[rows.Logged] = []
        self._messages: list[RunMessage] = []
        self._lossy: set[int] = set()
        #: Runs of which an attempt went back farther than it had so far.
        self._resumed: set[int] = set()
        self.outcome = Outcome()

    def lock(self) -> None:
        """Lock runs and journals in the order of their keys; new journals are inserted."""
        self._hold_runs()
        attempts = {_key(piece): piece.attempt for piece in self._home}
        journals = sorted(attempts)
        self._lock_journals(journals)
        new = [key for key in journals if key not in self._watermarks]
        if new:
            self._execute("insert_streams", **parameters(new), attempts=[attempts[key] for key in new])
            self._lock_journals(new)

    def _lock_journals(self, keys: Collection[JournalKey]) -> None:
        for run_id, journal, watermark, lines, first in self._execute("lock_streams", **parameters(keys)):
            key = JournalKey(run_id, journal)
            self._watermarks[key], self._lines[key], self._first_steps[key] = watermark, lines, first

    def _hold_runs(self) -> None:
        """Hold the runs that still are what the wire called them: a cached key may outlive its run."""
        named: dict[tuple[int, UUID | None, int | None], list[model.Piece]] = {}
        for piece in self._pieces:
            named.setdefault((piece.run_id, piece.submission, piece.task), []).append(piece)
        ids, submissions, tasks = zip(*sorted(named, key=str), strict=True)
        held = self._execute("hold_runs", runs=list(ids), submissions=list(submissions), tasks=list(tasks))
        for name in held:
            self._home += named.pop(name)
        for others in named.values():
            self._homeless += others

    def decide(self, *, take: bool = True) -> None:
        """Choose what to store, and put it in order: by run and attempt, and there as it arrived.

        ``take``: all of it; else `store_lines` follows.
        """
        for key, given in _by_journal(self._home).items():
            decision = decide(given, self._watermarks[key])
            self._journals.append(Journal(key, decision, before=self._lines[key]))
        for key, given in _by_journal(self._homeless).items():
            self._set_aside_homeless(key, given)
        for index, piece in self._in_order() if take else ():
            self._take(index, piece)

    def _in_order(self) -> list[tuple[int, model.Piece]]:
        """Return what is to be stored, with the index of its journal."""
        arrival = {id(piece): position for position, piece in enumerate(self._pieces)}
        ordered = []
        for index, journal in enumerate(self._journals):
            # What waited for the gap before it to close arrives with what closed it.
            latest = itertools.accumulate((arrival[id(piece)] for piece in journal.decision.store), max)
            ordered += [
                (piece.run_id, piece.attempt, when, position, index, piece)
                for position, (when, piece) in enumerate(zip(latest, journal.decision.store, strict=True))
            ]
        return [entry[4:] for entry in sorted(ordered, key=lambda entry: entry[:5])]

    def _take(self, index: int, piece: model.Piece) -> None:
        journal = self._journals[index]
        self.outcome.counts["pieces"] += 1
        if piece.fault is not None:
            journal.rejected += self._set_aside(piece, piece.run_id)
            return
        journal.take_damage(piece.contents)
        self._take_lines(index, piece)

    def _take_lines(self, index: int, piece: model.Piece) -> None:
        journal = self._journals[index]
        unknown: list[model.Block] = []
        reasons: dict[str, None] = {}
        for block in piece.contents.blocks:
            if isinstance(block, model.MetricBlock):
                self._take_rows(journal, rows.Logged(piece.run_id, piece.attempt, index, block))
            elif (reason := self._take_message(piece, block)) is not None:
                unknown.append(block)
                reasons[reason] = None
        if unknown:
            contents = model.Contents(unknown)
            part = piece._replace(contents=contents, body=pieces.body(contents), fault="; ".join(reasons))
            journal.rejected += self._set_aside(part, piece.run_id)

    def _take_rows(self, journal: Journal, logged: rows.Logged) -> None:
        if logged.block.series is not None:
            journal.take_rows(logged.block.rows, None)
            self._in_series.append(logged)
            return
        # Nothing was before the first attempt that it could supersede.
        first_step = rows.least_step(logged.block) if logged.attempt else None
        before = self._first_steps[journal.key]
        if first_step is not None and (before is None or first_step < before):
            self._resumed.add(logged.run_id)
        journal.take_rows(logged.block.rows, first_step)
        self._logged.append(logged)

    def _take_message(
        self, piece: model.Piece, message: model.NodeMessage | model.UnknownBlock
    ) -> str | None:
        """Take a message; returns why it is set aside, if it is of a kind that nobody here knows."""
        if isinstance(message, model.UnknownBlock) or message.kind not in KINDS:
            what = "block" if isinstance(message, model.UnknownBlock) else "message"
            self.outcome.counts["malformed"] += 1
            return f"a {what} of kind {message.kind}, which only a newer hpctrack may know"
        checked = read(message.kind, message.text)
        if checked is None:
            self.outcome.counts["malformed"] += 1
        else:
            self.outcome.counts["messages"] += 1
            self._messages.append(RunMessage(piece.run_id, piece.attempt, checked))
        return None

    def store_lines(self, writer: metrics.Writer, observe: Observe) -> None:
        """Store the lines of the only piece, and set aside those that are refused."""
        writer.refresh()
        for index, piece in self._in_order():
            self.outcome.counts["pieces"] += 1
            self._journals[index].take_damage(piece.contents)
            waiting = [(0, pieces.count(piece.contents))]
            tries = 0
            while waiting:
                begin, end = waiting.pop()
                contents = pieces.cut(piece.contents, begin, end)
                part = piece._replace(contents=contents)
                refusal = self._try(index, part, writer, observe)
                tries += 1
                middle = (begin + end) // 2
                if refusal is None:
                    continue
                self.outcome.counts["refusals"] += 1
                if begin < middle and tries < _TRIES:
                    waiting += [(middle, end), (begin, middle)]
                    continue
                part = part._replace(
                    body=pieces.body(contents), fault=str(refusal), sqlstate=refusal.sqlstate
                )
                self._journals[index].rejected += self._set_aside(part, piece.run_id)

    def probe(self, writer: metrics.Writer, observe: Observe) -> set[str]:
        """Try lines alone; returns of which kinds some were taken."""
        writer.refresh()
        lines = [
            (index, piece, line)
            for index, piece in self._in_order()
            for line in range(pieces.count(piece.contents))
        ]
        for index, piece, line in lines[:: -(-len(lines) // _PROBES) or 1]:
            part = piece._replace(contents=pieces.cut(piece.contents, line, line + 1))
            self._try(index, part, writer, observe)
        counted = {
            "rows": sum(journal.rows for journal in self._journals),
            "messages": self.outcome.counts["messages"],
        }
        return {kind for kind, count in counted.items() if count}

    def _try(
        self, index: int, part: model.Piece, writer: metrics.Writer, observe: Observe
    ) -> errors.ContentRefused | None:
        """Store some lines; returns why they were refused, and nothing has changed then."""
        journal, before = self._journals[index], self._journals[index].counted()
        counts, table, stored = self.outcome.counts.copy(), writer.table, len(self.outcome.stored)
        self._logged, self._in_series, self._messages = [], [], []
        try:
            with refusals.told(self._connection), self._connection.transaction():
                self._take_lines(index, part)
                self.store_rows(writer, refresh=False)
                self.store_messages(observe)
                self._execute("fire_constraints")
        except errors.ContentRefused as refusal:
            writer.table = table
            journal.restore(before)
            self.outcome.counts = counts
            del self.outcome.stored[stored:]
            return refusal
        return None

    def _set_aside(self, piece: model.Piece, run_id: int | None) -> int:
        """Keep a piece that can't be stored, if there is room; returns its lines, at least one."""
        if self._has_room(run_id, len(piece.body)):
            self._execute(
                "insert_rejected",
                run_id=run_id,
                journal=piece.journal,
                start=piece.start,
                end=piece.end,
                sqlstate=piece.sqlstate,
                reason=storable(piece.fault or "")[:_MAX_REASON],
                payload=piece.body,
            )
        lines = max(1, pieces.count(piece.contents))
        self.outcome.rejected[piece.sqlstate or "none"] += lines
        return lines

    def _has_room(self, run_id: int | None, size: int) -> bool:
        """Whether `rejected` takes one more entry of a run; what is there is measured once in a batch."""
        if run_id not in self._set_aside_before:
            [(entries, bytes_)] = self._execute("measure_rejected", run_id=run_id)
            self._set_aside_before[run_id] = entries, bytes_
        entries, bytes_ = self._set_aside_before[run_id]
        if entries >= _MAX_REJECTED or bytes_ >= _MAX_PAYLOAD:
            return False
        self._set_aside_before[run_id] = entries + 1, bytes_ + size
        return True

    def _set_aside_homeless(self, key: JournalKey, given: Iterable[model.Piece]) -> None:
        """Keep pieces of a run that was deleted, or is another now: there is no watermark for them."""
        for piece in given:
            self._set_aside(piece._replace(fault=f"run {piece.run_id} does not exist"), None)
            self.outcome.counts["homeless"] += 1
        self.outcome.gone.add(key.run_id)
        self.outcome.watermarks[key] = max(piece.end for piece in given)

    def store_rows(self, writer: metrics.Writer, *, refresh: bool = True) -> None:
        """Store rows, and what is latest of each run; ``refresh``: first see which columns there are."""
        if self._in_series:
            self._hold_latest(sorted({logged.run_id for logged in self._in_series}))
            series.write(self._connection, self._in_series)
        if not self._logged:
            return
        if refresh:
            writer.refresh()
        held = self._hold_latest(sorted({logged.run_id for logged in self._logged}))
        written = writer.write(self._logged, {run_id: latest.before for run_id, latest in held.items()})
        for index, count in written.replaced.items():
            self._journals[index].replaced += count
        counts: Counter[int] = Counter()
        for logged in self._logged:
            counts[logged.run_id] += logged.block.rows
        latest = [
            self._latest_text(item, held[run_id], written, counts[run_id])
            for run_id, item in _joined(written.latest).items()
        ]
        self._execute("update_latest", runs=values.to_array(latest))
        keys = {pending.Key(run_id, held[run_id].scans): count for run_id, count in counts.items()}
        self.outcome.stored.append((keys, written.tables))

    def _latest_text(self, item: gather.Latest, held: _Latest, written: metrics.Written, count: int) -> str:
        """Return what ``update_latest`` takes of a run."""
        run_id, is_late = item.run_id, item.attempt < held.attempt
        flags = {
            "current": not is_late,
            "numbered": run_id in written.numbered,
            "progressed": run_id in written.progressed,
            "stale": is_late or run_id in written.stale or run_id in self._resumed,
        }
        texts = {
            "run_id": str(run_id),
            "next_step": str(written.next_steps[run_id]),
            "last_step": str(item.step),
            "last_time": "null" if item.time is None else str(values.readable_time(item.time)),
            "last": values.to_object(item.values),
            "rows": str(count),
        }
        return values.to_object(texts | {name: values.encode(flag) for name, flag in flags.items()})

    def _hold_latest(self, runs: list[int]) -> dict[int, _Latest]:
        """Lock what is latest of runs, and return it."""
        latest = self._execute("lock_latest", runs=runs)
        if len(latest) < len(runs):
            self._execute("insert_latest", runs=runs)
            latest = self._execute("lock_latest", runs=runs)
        return {
            run_id: _Latest(attempt or 0, scans, metrics.Before(*before))
            for run_id, attempt, scans, *before in latest
        }

    def store_messages(self, observe: Observe) -> None:
        """Store what messages say."""
        if not self._messages:
            return
        self.outcome.ended |= observe(self._connection, self._messages)
        self._lossy |= messages.store(self._connection, self._messages)

    def count(self) -> None:
        """Move watermarks and counters."""
        changed = [journal for journal in self._journals if journal.changed]
        for journal in self._journals:
            self.outcome.watermarks[journal.key] = journal.decision.watermark
            self.outcome.ahead += journal.decision.ahead
            if journal.torn or journal.rejected:
                self._lossy.add(journal.key.run_id)
        if changed:
            self._execute("update_streams", journals=json.dumps([journal.to_json() for journal in changed]))
        if self._lossy:
            self._execute("update_lost", runs=sorted(self._lossy))
        self.outcome.counts["duplicates"] += sum(journal.decision.duplicates for journal in changed)
        for name in COUNTED:
            self.outcome.counts[name] += sum(getattr(journal, name) for journal in changed)

    def _execute(self, name: str, **parameters: object) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(statement(name), parameters)
        return cursor.fetchall() if cursor.description else []


def _key(piece: model.Piece) -> JournalKey:
    return JournalKey(piece.run_id, piece.journal)


def _by_journal(given: Iterable[model.Piece]) -> dict[JournalKey, list[model.Piece]]:
    by_journal: dict[JournalKey, list[model.Piece]] = {}
    for piece in given:
        by_journal.setdefault(_key(piece), []).append(piece)
    return by_journal


def parameters(keys: Collection[JournalKey]) -> dict[str, list[Any]]:
    """Return journals as a statement takes them."""
    return {"runs": [key.run_id for key in keys], "journals": [key.journal for key in keys]}


def watermarks(marks: Iterable[tuple[Any, ...]]) -> dict[JournalKey, int]:
    """Return what a statement says about journals, by journal."""
    return {JournalKey(run_id, journal): watermark for run_id, journal, watermark in marks}


def _joined(parts: Iterable[gather.Latest]) -> dict[int, gather.Latest]:
    """Join what is latest of runs whose rows came in several tables."""
    joined: dict[int, gather.Latest] = {}
    for part in parts:
        before = joined.get(part.run_id)
        if before is not None:
            time = before.time if part.time is None else part.time
            part = part._replace(values=before.values | part.values, time=time)  # noqa: PLW2901
        joined[part.run_id] = part
    return joined
