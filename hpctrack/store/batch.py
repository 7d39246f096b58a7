"""What happens to pieces of journals inside one transaction."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hpctrack import model
from hpctrack.store import gather, messages, rows, values
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from uuid import UUID

    from hpctrack.store import metrics
    from hpctrack.store.database import Connection

    #: Records what relays say about status: `hpctrack.reconcile.observe`.
    Observe = Callable[[Connection, Iterable[model.RelayMessage]], frozenset[int]]

#: Run and journal.
Stream: TypeAlias = tuple[int, str]

#: Microseconds since the epoch, of what Python's datetime can hold: readers in Python get a time.
_FIRST_TIME, _LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999
_MAX_REASON = 1000  # characters
_OBSERVED = frozenset(("hello", "start", "fin"))
_KINDS = _OBSERVED | {"usage", "event", "args", "tags"}


@dataclass
class Outcome:
    """What became of a batch, in committed transactions."""

    watermarks: dict[Stream, int] = field(default_factory=dict)
    """Of every journal that was looked at."""
    ahead: list[model.Piece] = field(default_factory=list)
    """Pieces that begin beyond their journal's watermark: nothing was done about them."""
    ended: set[int] = field(default_factory=set)
    """Runs in a Slurm job whose script has ended."""
    gone: set[int] = field(default_factory=set)
    """Runs that do not exist any more."""
    counts: Counter[str] = field(default_factory=Counter)
    """Of ``pieces, rows, messages, torn, replaced, rejected, duplicates, malformed, homeless, put_off``."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Rows that were set aside, by SQLSTATE; ``none`` where it was not PostgreSQL that refused them."""

    def add(self, other: Outcome) -> None:
        """Take in what became of another part of the batch."""
        self.watermarks.update(other.watermarks)
        self.ahead += other.ahead
        self.ended |= other.ended
        self.gone |= other.gone
        self.counts += other.counts
        self.rejected += other.rejected


class Decision(NamedTuple):
    """What to do about the pieces of one journal."""

    watermark: int
    """Where the journal will be."""
    store: list[model.Piece]
    ahead: list[model.Piece]
    duplicates: int


def decide(pieces: Iterable[model.Piece], watermark: int) -> Decision:
    """Choose the pieces that continue a journal from its watermark, one after the other."""
    chosen: list[model.Piece] = []
    ahead: list[model.Piece] = []
    duplicates = 0
    for piece in sorted(pieces, key=lambda piece: (piece.start, piece.end)):
        if piece.start == watermark:
            chosen.append(piece)
            watermark = piece.end
        elif piece.start > watermark:
            ahead.append(piece)
        else:
            duplicates += 1
    return Decision(watermark, chosen, ahead, duplicates)


def store(
    connection: Connection, writer: metrics.Writer, observe: Observe, pieces: Sequence[model.Piece]
) -> Outcome:
    """Store pieces, given in the order of their arrival, inside the caller's transaction.

    Raises `errors.ContentRefused` and what psycopg raises.
    """
    batch = _Batch(connection, pieces)
    batch.lock()
    batch.decide()
    batch.store_rows(writer)
    batch.store_messages(observe)
    batch.count()
    return batch.outcome


@dataclass
class _Journal:
    """A locked journal, and what this batch adds to it."""

    stream: Stream
    decision: Decision
    rows: int = 0
    torn: int = 0
    rejected: int = 0
    replaced: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.decision.store or self.decision.duplicates)

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.stream[0],
            "journal_id": self.stream[1],
            "watermark": self.decision.watermark,
            "duplicates": self.decision.duplicates,
            **{name: getattr(self, name) for name in _COUNTED},
        }


class _Batch:
    def __init__(self, connection: Connection, pieces: Sequence[model.Piece]) -> None:
        self._connection = connection
        self._pieces = pieces
        self._watermarks: dict[Stream, int] = {}
        self._homes: set[tuple[int, UUID | None, int | None]] = set()
        self._journals: list[_Journal] = []
        self._logged: list[rows.Logged] = []
        self._messages: list[messages.Parsed] = []
        self._lossy: set[int] = set()
        self.outcome = Outcome()

    def lock(self) -> None:
        """Lock runs and journals in the order of their keys; new journals are inserted."""
        self._hold_runs()
        attempts = {
            (piece.run_id, piece.journal): piece.attempt for piece in self._pieces if self._is_home(piece)
        }
        streams = sorted(attempts)
        self._watermarks = watermarks(self._execute("lock_streams", **keys(streams)))
        new = [stream for stream in streams if stream not in self._watermarks]
        if new:
            self._execute("insert_streams", **keys(new), attempts=[attempts[stream] for stream in new])
            self._watermarks |= watermarks(self._execute("lock_streams", **keys(new)))

    def _hold_runs(self) -> None:
        """Hold the runs that still are what the wire called them: a cached key may outlive its run."""
        names = sorted({_name(piece) for piece in self._pieces}, key=str)
        ids, submissions, tasks = zip(*names, strict=True)
        held = self._execute("hold_runs", runs=list(ids), submissions=list(submissions), tasks=list(tasks))
        self._homes = {(run_id, submission, task) for run_id, submission, task in held}

    def _is_home(self, piece: model.Piece) -> bool:
        return _name(piece) in self._homes

    def decide(self) -> None:
        """Choose what to store, and put it in order: by run and attempt, and there as it arrived."""
        by_stream: dict[Stream, list[model.Piece]] = {}
        homeless: dict[Stream, list[model.Piece]] = {}
        for piece in self._pieces:
            home = by_stream if self._is_home(piece) else homeless
            home.setdefault((piece.run_id, piece.journal), []).append(piece)
        for stream, pieces in by_stream.items():
            self._journals.append(_Journal(stream, decide(pieces, self._watermarks[stream])))
        for stream, pieces in homeless.items():
            self._set_aside_homeless(stream, pieces)
        for index, piece in self._in_order():
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
        journal.torn += piece.contents.torn
        for block in piece.contents.blocks:
            if isinstance(block, model.MetricBlock):
                journal.rows += block.rows
                self._logged.append(rows.Logged(piece.run_id, piece.attempt, index, block))
            else:
                self._take_message(piece, block)

    def _take_message(self, piece: model.Piece, message: model.NodeMessage) -> None:
        parsed = messages.parse(piece.run_id, piece.attempt, message)
        if parsed is None or parsed.kind not in _KINDS:
            self.outcome.counts["malformed"] += 1
        else:
            self.outcome.counts["messages"] += 1
            self._messages.append(parsed)

    def _set_aside(self, piece: model.Piece, run_id: int | None) -> int:
        """Keep a piece that can't be stored; returns how many rows it had, at least one."""
        self._execute(
            "insert_rejected",
            run_id=run_id,
            journal=piece.journal,
            start=piece.start,
            end=piece.end,
            sqlstate=piece.sqlstate,
            reason=values.to_text(piece.fault or "")[:_MAX_REASON],
            payload=piece.body,
        )
        rows = max(1, sum(b.rows for b in piece.contents.blocks if isinstance(b, model.MetricBlock)))
        self.outcome.rejected[piece.sqlstate or "none"] += rows
        return rows

    def _set_aside_homeless(self, stream: Stream, pieces: Iterable[model.Piece]) -> None:
        """Keep pieces of a run that was deleted, or is another now: there is no watermark for them."""
        for piece in pieces:
            self._set_aside(piece._replace(fault=f"run {piece.run_id} does not exist"), None)
            self.outcome.counts["homeless"] += 1
        self.outcome.gone.add(stream[0])
        self.outcome.watermarks[stream] = max(piece.end for piece in pieces)

    def store_rows(self, writer: metrics.Writer) -> None:
        """Store rows of metrics, and what is latest of each run."""
        if not self._logged:
            return
        writer.refresh()
        runs = sorted({logged.run_id for logged in self._logged})
        found = self._execute("lock_latest", runs=runs)
        if len(found) < len(runs):
            self._execute("insert_latest", runs=runs)
            found = self._execute("lock_latest", runs=runs)
        written = writer.write(self._logged, {run_id: next_step for run_id, next_step, _ in found})
        for index, count in written.replaced.items():
            self._journals[index].replaced += count
        counts: Counter[int] = Counter()
        for logged in self._logged:
            counts[logged.run_id] += logged.block.rows
        latest = list(_joined(written.latest).values())
        attempts = {run_id: attempt or 0 for run_id, _, attempt in found}
        self._execute(
            "update_latest",
            runs=_array(
                values.to_object(
                    {
                        "run_id": str(item.run_id),
                        "next_step": str(written.next_steps[item.run_id]),
                        "current": "true" if item.attempt >= attempts[item.run_id] else "false",
                        "last_step": str(item.step),
                        "last_time": "null" if item.time is None else str(_clipped(item.time)),
                        "last": values.to_object(item.values),
                        "rows": str(counts[item.run_id]),
                    }
                )
                for item in latest
            ),
        )

    def store_messages(self, observe: Observe) -> None:
        """Store what messages say."""
        if not self._messages:
            return
        facts = [model.RelayMessage(*message) for message in self._messages if message.kind in _OBSERVED]
        if facts:
            self.outcome.ended |= observe(self._connection, facts)
        stored = messages.store(self._connection, self._messages)
        self.outcome.counts["malformed"] += stored.malformed
        self._lossy |= stored.lossy

    def count(self) -> None:
        """Move watermarks and counters."""
        changed = [journal for journal in self._journals if journal.changed]
        for journal in self._journals:
            self.outcome.watermarks[journal.stream] = journal.decision.watermark
            self.outcome.ahead += journal.decision.ahead
            if journal.torn or journal.rejected:
                self._lossy.add(journal.stream[0])
        if changed:
            self._execute("update_streams", journals=json.dumps([journal.to_json() for journal in changed]))
        if self._lossy:
            self._execute("update_lost", runs=sorted(self._lossy))
        self.outcome.counts["duplicates"] += sum(journal.decision.duplicates for journal in changed)
        for name in _COUNTED:
            self.outcome.counts[name] += sum(getattr(journal, name) for journal in changed)

    def _execute(self, name: str, **parameters: object) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(statement(name), parameters)
        return cursor.fetchall() if cursor.description else []


_COUNTED = ("rows", "torn", "rejected", "replaced")


def _name(piece: model.Piece) -> tuple[int, UUID | None, int | None]:
    return piece.run_id, piece.submission, piece.task


def keys(streams: Collection[Stream]) -> dict[str, list[Any]]:
    """Return journals as parameters of a statement."""
    return {"runs": [run_id for run_id, _ in streams], "journals": [journal for _, journal in streams]}


def watermarks(found: Iterable[tuple[Any, ...]]) -> dict[Stream, int]:
    """Return what a statement says about journals, by journal."""
    return {(run_id, journal): watermark for run_id, journal, watermark in found}


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


def _array(texts: Iterable[str]) -> str:
    return "[" + ",".join(texts) + "]"


def _clipped(time: int) -> int:
    return min(max(time, _FIRST_TIME), _LAST_TIME)
