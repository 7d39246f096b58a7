"""Pieces of journals into PostgreSQL, exactly once.

A batch locks its journals in the order of their keys, decides from their watermarks what to store, stores it
and moves the watermarks: all in one transaction. What is refused (`refusals`) is divided: by runs, down to
the one that is to blame; that run is a suspect from then on, and is stored apart, by pieces and lines, when
all others are in, for half of the time at most; owners take turns (`memory`). Lines that are to blame are
set aside in ``rejected``. Runs that other sessions hold are put off (`locked.PutOff`), and come again; so are
runs of which something is refused while PostgreSQL refuses whatever comes (`refusals.Streak`), or over which
it fails again and again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import time
from typing import TYPE_CHECKING

import psycopg

from hpctrack import errors, model
from hpctrack.run import words
from hpctrack.store import database, locked, refusals
from hpctrack.store.ingest import batch, metrics, pieces
from hpctrack.store.ingest.batch import Outcome
from hpctrack.store.ingest.memory import Memory, owner
from hpctrack.store.metrics import columns
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from hpctrack.store.database import Connection
    from hpctrack.store.ingest.batch import Observe
    from hpctrack.store.ingest.pending import Pending
    from hpctrack.stream.wire.names import JournalKey

#: Refusals, each of which costs some milliseconds, for which suspects' pieces are divided in one batch; what
#: is left then is not acknowledged, and comes again.
_REFUSALS = 32
#: The same while others' pieces come and suspects have just had as much time as those: runs are tried whole.
_FEW_REFUSALS = 2
#: Seconds that suspects may take before they are made up for.
_ADVANCE = 0.25
#: Sets of metrics that are remembered as settled.
_MAX_SETTLED = 10_000
#: How often PostgreSQL may fail over a run, among others and alone, before its pieces are put off.
_MAX_LOSSES = 3
_NO_LOSS = (errors.ContentRefused, errors.StoreBusy)

_log = logging.getLogger(__name__)


class Ingestion:
    """Stores batches through one connection, which is in autocommit mode.

    ``auto_columns``: give new numeric metrics a column of their own. ``memory`` is that of the connection
    before.
    """

    def __init__(
        self,
        connection: Connection,
        observe: Observe,
        *,
        auto_columns: bool = False,
        memory: Memory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._observe = observe
        self._clock = clock
        self._writer = metrics.Writer(connection)
        self._adder = columns.Adder() if auto_columns else None
        #: Sets of metrics that need no column any more, as long as the columns are these.
        self._settled: set[tuple[str, ...]] = set()
        self._settled_for = ""
        self._refusals_left = 0
        #: Seconds of this batch in which all was stored in vain.
        self._rolled_back = 0.0
        self._may_divide = True
        self._memory = Memory() if memory is None else memory

    @property
    def pending(self) -> Pending:
        """What is stored, and statistics do not tell of yet."""
        return self._memory.pending

    def watermarks(self, journals: Collection[JournalKey]) -> dict[JournalKey, int]:
        """Return how far journals are in; 0 for those that are not known. Raises `errors.StoreError`."""
        with database.translated():
            rows = self._connection.execute(
                statement("fetch_watermarks"), batch.parameters(journals)
            ).fetchall()
        return dict.fromkeys(journals, 0) | batch.watermarks(rows)

    def store(self, given: Sequence[model.Piece]) -> Outcome:
        """Store a batch; pieces stand in the order in which they arrived.

        Raises `errors.StoreError` when PostgreSQL is in trouble; part of the batch may be stored then, and
        trying it again does no harm.
        """
        self._add_columns(given)
        outcome = Outcome()
        began = self._clock()
        alone = all(
            self._memory.is_apart(piece, began) or piece.run_id in self._memory.put_off for piece in given
        )
        self._may_divide = alone or began >= self._memory.paid - _ADVANCE
        self._refusals_left = most = _REFUSALS if self._may_divide else _FEW_REFUSALS
        self._rolled_back = 0.0
        left = self._store_what_was_put_off(given, outcome)
        spent = self._clock() - began
        apart = [piece for piece in left if self._memory.is_apart(piece, began)]
        fresh: list[model.Piece] = []
        for part in self._by_losses([p for p in left if not self._memory.is_apart(p, began)]):
            self._store_or_divide(part, outcome, fresh)
        self._charge(fresh)
        began = self._clock()
        self._store_apart([*apart, *fresh], outcome)
        if self._may_divide and self._refusals_left < most:
            ended = self._clock()
            self._memory.spend(spent + (ended - began), ended)
        self._hand_over(outcome)
        return outcome

    def _hand_over(self, outcome: Outcome) -> None:
        """Hand what was stored to whoever makes statistics of it."""
        for counts, tables in outcome.stored:
            self._memory.pending.add(counts, tables)
        outcome.stored.clear()

    def _charge(self, to_blame: Sequence[model.Piece]) -> None:
        """Charge owners with the time for which others' pieces were stored in vain beside theirs."""
        if to_blame:
            self._memory.spend(self._rolled_back, self._clock(), map(owner, to_blame))

    def _by_losses(self, given: Sequence[model.Piece]) -> Iterable[Sequence[model.Piece]]:
        """Return pieces in parts such that what PostgreSQL fails over is found out, by halves.

        First come runs over which it never failed, then others, then those over which it failed most often.
        """
        losses = self._memory.losses
        runs = {piece.run_id for piece in given}
        doubtful = {run_id for run_id in runs if losses[run_id]}
        most = max((losses[run_id] for run_id in doubtful), default=0)
        worst = sorted(run_id for run_id in doubtful if losses[run_id] == most)
        parts = [_of(given, runs - doubtful), _of(given, doubtful.difference(worst))]
        if worst:
            parts += _halves(_of(given, worst), worst)
        return filter(None, parts)

    def _store_apart(self, apart: Sequence[model.Piece], outcome: Outcome) -> None:
        """Store what is kept apart from others' pieces, in turn."""
        memory = self._memory
        for group in memory.turns(sorted(apart, key=_position)):
            if self._refusals_left <= 0:
                return
            left, refused = self._refusals_left, outcome.counts["rejected"]
            self._store_run(group, outcome)
            if self._may_divide or self._refusals_left == left:  # only tried, it keeps its turn
                memory.serve(group)
            is_clean = self._refusals_left == left and outcome.counts["rejected"] == refused
            if is_clean and group[0].run_id not in self._memory.put_off:
                memory.suspects.pop(group[0].run_id, None)

    def _store_run(self, ordered: Sequence[model.Piece], outcome: Outcome) -> None:
        """Store pieces of an owner's, in their order, dividing them as long as refusals are left."""
        waiting = [ordered]
        while waiting and self._refusals_left > 0:
            part = waiting.pop()
            try:
                stored = self._transact(functools.partial(batch.store, *self._tools, part), part)
            except errors.ContentRefused as refusal:
                self._refusals_left -= 1
                if self._is_refused_anyway(part, ordered):
                    self._put_off_refused(ordered, refusal, outcome)
                    return
                if self._refusals_left <= 0 or not self._may_divide:
                    return
                if len(part) > 1:
                    middle = len(part) // 2
                    waiting += [part[middle:], part[:middle]]
                else:
                    self._memory.suspect(part[0])
                    self._set_aside(part[0], refusal, outcome)
            except errors.StoreBusy:
                self._put_off(part, outcome, [])
                return
            else:
                self._note(part, stored, outcome)

    def _is_refused_anyway(self, part: Iterable[model.Piece], ordered: Sequence[model.Piece]) -> bool:
        """Whether a part of a run's pieces was refused while PostgreSQL refuses whatever comes.

        A line of the run's that it takes shows that it does not.
        """
        streak, kinds = self._memory.streak, pieces.kinds(part)
        if streak.is_long(kinds):
            streak.take(self._taken(ordered))
        return streak.is_long(kinds)

    def _taken(self, ordered: Sequence[model.Piece]) -> set[str]:
        """Return of which kinds PostgreSQL takes some lines of a run's; nothing is stored."""
        taken: set[str] = set()

        def probe() -> Outcome:
            taken.update(batch.probe(*self._tools, ordered))
            raise psycopg.Rollback

        with contextlib.suppress(errors.ContentRefused, errors.StoreBusy):
            self._transact(probe, ordered)
        self._writer.forget()
        return taken

    def _store_what_was_put_off(
        self, given: Sequence[model.Piece], outcome: Outcome
    ) -> Sequence[model.Piece]:
        """Store pieces of runs that were put off and can be had now; return those of all others.

        What is still put off is not acknowledged, and comes again. It may cost one wait at most.
        """
        waiting = {piece.run_id for piece in given if piece.run_id in self._memory.put_off}
        if not waiting:
            return given
        for run_id in self._memory.put_off.due(self._connection, waiting):
            ordered = sorted((piece for piece in given if piece.run_id == run_id), key=_position)
            self._store_run(ordered, outcome)
            if run_id in self._memory.put_off or self._refusals_left <= 0:
                break
        return [piece for piece in given if piece.run_id not in waiting]

    def _add_columns(self, given: Iterable[model.Piece]) -> None:
        """Add columns for new numeric metrics, if that is wanted and possible now."""
        if self._adder is None or not self._adder.ready:
            return
        catalog = self._writer.load()
        if self._settled_for != catalog.signature:
            self._settled, self._settled_for = set(), catalog.signature
        fresh = dict.fromkeys(names for names in _numeric_in(given) if names not in self._settled)
        candidates = list(dict.fromkeys(itertools.chain.from_iterable(fresh)))
        if not candidates:
            return
        try:
            if columns.choose(candidates, catalog):
                added = self._adder.add(self._connection, candidates)
                _log.info("added %s to metrics", words.counted(len(added), "column"))
        except errors.StoreError as error:
            if not database.is_alive(self._connection):
                raise
            _log.warning("%s", error)
            return
        if len(self._settled) < _MAX_SETTLED:
            self._settled.update(fresh)

    def _store_or_divide(
        self, given: Sequence[model.Piece], outcome: Outcome, suspects: list[model.Piece]
    ) -> None:
        """Store pieces; when they are refused, those of half the runs, down to the one that is to blame."""
        began = self._clock()
        try:
            stored = self._transact(functools.partial(batch.store, *self._tools, given), given)
        except errors.ContentRefused:
            self._rolled_back += self._clock() - began
            runs = sorted({piece.run_id for piece in given})
            if len(runs) == 1:
                self._memory.suspect(given[0])
                suspects += given
                return
            for part in _halves(given, runs):
                self._store_or_divide(part, outcome, suspects)
        except errors.StoreBusy:
            self._put_off(given, outcome, suspects)
        else:
            self._note(given, stored, outcome)

    @property
    def _tools(self) -> tuple[Connection, metrics.Writer, Observe]:
        return self._connection, self._writer, self._observe

    def _transact(self, store: Callable[[], Outcome], given: Iterable[model.Piece]) -> Outcome:
        """Store something in a transaction; raises what `refusals.told` and `database.translated` do."""
        try:
            with database.translated(), refusals.told(self._connection), self._connection.transaction():
                return store()
        except BaseException as error:
            self._writer.forget()
            if isinstance(error, errors.StoreError) and not isinstance(error, _NO_LOSS):
                self._lose({piece.run_id for piece in given}, error)
            raise

    def _lose(self, runs: Collection[int], error: errors.StoreError) -> None:
        """Take in that PostgreSQL failed; a run that it fails over again and again is put off."""
        self._memory.lose(runs)
        if len(runs) == 1 and self._memory.losses[run_id := min(runs)] > _MAX_LOSSES:
            self._memory.put_off.extend([run_id])
            _log.warning("rows of r%d wait: PostgreSQL fails whenever they are stored: %s", run_id, error)

    def _note(self, given: Iterable[model.Piece], stored: Outcome, outcome: Outcome) -> None:
        """Take in that pieces were stored."""
        runs = {piece.run_id for piece in given}
        self._memory.put_off.release(runs)
        for run_id in runs & self._memory.losses.keys():
            del self._memory.losses[run_id]
        self._memory.streak.take(kind for kind in ("rows", "messages") if stored.counts[kind])
        outcome.add(stored)

    def _put_off(self, given: Sequence[model.Piece], outcome: Outcome, suspects: list[model.Piece]) -> None:
        """Put off the runs that other sessions hold, and store the pieces of the others.

        Raises `errors.StoreBusy` where whole tables are held: nothing can be stored then.
        """
        runs = sorted({piece.run_id for piece in given})
        try:
            with database.translated(), self._connection.transaction():
                self._connection.execute(statement("take_part_in_metrics"))
                held = locked.find(self._connection, runs)
        except errors.StoreBusy:
            raise errors.StoreBusy(f"tables are {locked.describe(self._connection)}") from None
        if not held and len(runs) == 1:
            held = set(runs)
        if held:
            self._memory.put_off.add(self._connection, held)
            outcome.counts["put_off"] += sum(piece.run_id in held for piece in given)
            parts = [[piece for piece in given if piece.run_id not in held]]
        else:  # held by what only a unique index shows: a row of metrics that is not committed
            parts = _halves(given, runs)
        for part in parts:
            if part:
                self._store_or_divide(part, outcome, suspects)

    def _put_off_refused(
        self, given: Sequence[model.Piece], refusal: errors.ContentRefused, outcome: Outcome
    ) -> None:
        """Keep the pieces of a run for later: PostgreSQL refuses whatever comes."""
        outcome.refusing = (
            f"PostgreSQL refused the last {refusals.IN_A_ROW} rows or messages, whoever sent them; no more "
            f"are set aside until it takes something: {refusal}"
        )
        runs = sorted({piece.run_id for piece in given})
        if (
            not all(run_id in self._memory.put_off for run_id in runs)
            and (also := self._memory.log.admit(("refusing", given[0].owner))) is not None
        ):
            _log.warning("rows of r%d wait: %s%s", runs[0], outcome.refusing, also)
        self._memory.put_off.extend(runs)
        outcome.counts["put_off"] += len(given)

    def _set_aside(self, piece: model.Piece, refusal: errors.ContentRefused, outcome: Outcome) -> None:
        """Store a piece without what is refused in it."""
        where = f"run {piece.run_id}, journal {piece.journal}, bytes {piece.start} to {piece.end}"
        try:
            stored = self._store_by_line(piece, refusal)
        except errors.ContentRefused as error:  # by what we store ourselves
            self._put_off_refused([piece], error, outcome)
            return
        self._refusals_left -= stored.counts.pop("refusals", 0)
        lines = stored.counts["rejected"]
        if lines and (also := self._memory.log.admit(("aside", piece.owner))) is not None:
            _log.warning("%s: %s set aside: %s%s", where, words.counted(lines, "line"), refusal, also)
        self._note([piece], stored, outcome)
        refused = [kind for kind in pieces.kinds([piece]) if not stored.counts[kind]]
        self._memory.streak.refuse(refused, owner(piece), lines)

    def _store_by_line(self, piece: model.Piece, refusal: errors.ContentRefused) -> Outcome:
        """Store a piece line by line; where that is refused, too, set it aside as a whole."""
        try:
            return self._transact(functools.partial(batch.store_apart, *self._tools, piece), [piece])
        except errors.ContentRefused:  # by what is checked at the end of the transaction only
            whole = piece._replace(fault=str(refusal), sqlstate=refusal.sqlstate)
            return self._transact(functools.partial(batch.store, *self._tools, [whole]), [piece])


def _halves(given: Sequence[model.Piece], runs: Sequence[int]) -> list[list[model.Piece]]:
    """Return the pieces of the first half of some runs, and those of the second."""
    middle = runs[len(runs) // 2]
    return [
        [piece for piece in given if piece.run_id < middle],
        [piece for piece in given if piece.run_id >= middle],
    ]


def _of(given: Iterable[model.Piece], runs: Collection[int]) -> list[model.Piece]:
    """Return the pieces of some runs."""
    return [piece for piece in given if piece.run_id in runs]


def _position(piece: model.Piece) -> tuple[int, str, int]:
    """Order in which the pieces of a journal stay in theirs."""
    return piece.run_id, piece.journal, piece.start


def _numeric_in(given: Iterable[model.Piece]) -> Iterator[tuple[str, ...]]:
    """Yield the numeric metrics of each block."""
    for piece in given:
        for block in piece.contents.blocks:
            if isinstance(block, model.MetricBlock):
                yield _numeric(block)


def _numeric(block: model.MetricBlock) -> tuple[str, ...]:
    """Return the metrics of a block that have floats or integers."""
    if not block.columns:
        return block.names
    others = (
        column.name
        for column in block.columns
        if not isinstance(column.values, list) and column.values.dtype.kind in "fi"
    )
    return tuple(dict.fromkeys((*block.names, *others)))
