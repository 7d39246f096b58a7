"""Pieces of journals into PostgreSQL, exactly once.

A batch locks its journals in the order of their keys, decides from their watermarks what to store, stores it
and moves the watermarks: all in one transaction. What PostgreSQL refuses for its content is found by
bisection and set aside in ``rejected``; nothing is ever refused because the server is in trouble. Runs that
other sessions hold are put off (`held.Held`), and come again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from typing import TYPE_CHECKING

import psycopg

from hpctrack import errors, model
from hpctrack.store import batch, columns, database, held, metrics
from hpctrack.store.batch import Outcome
from hpctrack.store.statements import statement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from hpctrack.store.batch import Observe, Stream
    from hpctrack.store.database import Connection

#: Classes of SQLSTATE that blame the data (manual, "PostgreSQL Error Codes"): cardinality, data, integrity,
#: check option, limits of a row, and what triggers and functions of the user's raise.
_CONTENT = frozenset(("21", "22", "23", "44", "54", "P0", "38", "39"))
#: Runs of which something was refused are stored apart from the others, so many pieces at a time: each may
#: cost two transactions. The rest is not acknowledged, and comes again.
_SUSPECT_PIECES = 32
#: Sets of metrics that are remembered as settled.
_MAX_SETTLED = 10_000

_log = logging.getLogger(__name__)


class Ingestion:
    """Stores batches through one connection, which is in autocommit mode.

    ``auto_columns``: give new numeric metrics a column of their own.
    """

    def __init__(self, connection: Connection, observe: Observe, *, auto_columns: bool = False) -> None:
        self._connection = connection
        self._observe = observe
        self._writer = metrics.Writer(connection)
        self._adder = columns.Adder() if auto_columns else None
        #: Sets of metrics that need no column any more, as long as the columns are these.
        self._settled: set[tuple[str, ...]] = set()
        self._settled_for = ""
        self._suspects: set[int] = set()
        self._held = held.Held()

    def watermarks(self, streams: Collection[Stream]) -> dict[Stream, int]:
        """Return how far journals are in; 0 for those that are not known. Raises `errors.StoreError`."""
        with database.translated():
            found = self._connection.execute(statement("fetch_watermarks"), batch.keys(streams)).fetchall()
        return dict.fromkeys(streams, 0) | batch.watermarks(found)

    def store(self, pieces: Sequence[model.Piece]) -> Outcome:
        """Store a batch; pieces stand in the order in which they arrived.

        Raises `errors.StoreError` when PostgreSQL is in trouble; part of the batch may be stored then, and
        trying it again does no harm.
        """
        self._add_columns(pieces)
        outcome = Outcome()
        pieces = self._store_what_was_held(pieces, outcome)
        suspects = [piece for piece in pieces if piece.run_id in self._suspects]
        if suspects:
            pieces = [piece for piece in pieces if piece.run_id not in self._suspects]
        if pieces:
            self._store_or_divide(pieces, outcome)
        for run_id in dict.fromkeys(piece.run_id for piece in suspects):
            refused = outcome.counts["rejected"]
            ordered = sorted((p for p in suspects if p.run_id == run_id), key=_position)
            self._store_or_divide(ordered[:_SUSPECT_PIECES], outcome)
            if outcome.counts["rejected"] == refused:
                self._suspects.discard(run_id)
        return outcome

    def _store_what_was_held(self, pieces: Sequence[model.Piece], outcome: Outcome) -> Sequence[model.Piece]:
        """Store pieces of runs that were put off and can be had now; return those of all others.

        What is still put off is not acknowledged, and comes again. It may cost one wait at most.
        """
        waiting = {piece.run_id for piece in pieces if piece.run_id in self._held}
        if not waiting:
            return pieces
        for run_id in self._held.due(self._connection, waiting):
            self._store_or_divide([piece for piece in pieces if piece.run_id == run_id], outcome)
            if run_id in self._held:
                break
        return [piece for piece in pieces if piece.run_id not in waiting]

    def _add_columns(self, pieces: Iterable[model.Piece]) -> None:
        """Add columns for new numeric metrics, if that is wanted and possible now."""
        if self._adder is None or not self._adder.ready:
            return
        catalog = self._writer.load()
        if self._settled_for != catalog.signature:
            self._settled, self._settled_for = set(), catalog.signature
        fresh = dict.fromkeys(
            names
            for piece in pieces
            for block in piece.contents.blocks
            if isinstance(block, model.MetricBlock) and (names := _numeric(block)) not in self._settled
        )
        candidates = list(dict.fromkeys(itertools.chain.from_iterable(fresh)))
        if not candidates:
            return
        try:
            if columns.choose(candidates, catalog):
                added = self._adder.add(self._connection, candidates)
                _log.info("added %d columns to metrics", len(added))
        except errors.StoreError as error:
            if not database.is_alive(self._connection):
                raise
            _log.warning("metrics gets no columns now: %s", error)
            return
        if len(self._settled) < _MAX_SETTLED:
            self._settled.update(fresh)

    def _store_or_divide(self, pieces: Sequence[model.Piece], outcome: Outcome) -> None:
        """Store pieces; when they are refused, halves of them, down to the one that is to blame."""
        try:
            with database.translated(), _classified(), self._connection.transaction():
                stored = batch.store(self._connection, self._writer, self._observe, pieces)
        except errors.ContentRefused as error:
            self._writer.forget()
            if len(pieces) > 1:
                ordered = sorted(pieces, key=_position)
                middle = len(ordered) // 2
                self._store_or_divide(ordered[:middle], outcome)
                self._store_or_divide(ordered[middle:], outcome)
            elif pieces[0].fault is None:
                self._set_aside(pieces[0], error, outcome)
            else:
                raise
        except errors.StoreBusy:
            self._writer.forget()
            self._put_off(pieces, outcome)
        except BaseException:
            self._writer.forget()
            raise
        else:
            self._held.release(piece.run_id for piece in pieces)
            outcome.add(stored)

    def _put_off(self, pieces: Sequence[model.Piece], outcome: Outcome) -> None:
        """Store pieces without those of runs that other sessions hold.

        Raises `errors.StoreBusy` where it is whole tables that are held: nothing can be stored then.
        """
        runs = sorted({piece.run_id for piece in pieces})
        try:
            with database.translated(), self._connection.transaction():
                found = held.find(self._connection, runs)
        except errors.StoreBusy:
            raise errors.StoreBusy(f"tables are {held.describe(self._connection)}") from None
        if not found and len(runs) == 1:
            found = set(runs)
        if found:
            self._held.put_off(self._connection, found)
            outcome.counts["put_off"] += sum(piece.run_id in found for piece in pieces)
            parts = [[piece for piece in pieces if piece.run_id not in found]]
        else:  # held by what only a unique index shows: a row of metrics that is not committed
            middle = runs[len(runs) // 2]
            parts = [
                [piece for piece in pieces if piece.run_id < middle],
                [piece for piece in pieces if piece.run_id >= middle],
            ]
        for part in parts:
            if part:
                self._store_or_divide(part, outcome)

    def _set_aside(self, piece: model.Piece, error: errors.ContentRefused, outcome: Outcome) -> None:
        where = f"run {piece.run_id}, journal {piece.journal}, bytes {piece.start} to {piece.end}"
        _log.warning("%s set aside: %s", where, error)
        self._suspects.add(piece.run_id)
        self._store_or_divide([piece._replace(fault=str(error), sqlstate=error.sqlstate)], outcome)


@contextlib.contextmanager
def _classified() -> Iterator[None]:
    """Tell errors that blame the data from all others.

    A mistake of ours that some data brings to light blames that data, too: set aside it can be looked at,
    sent again and again it would stop everybody.
    """
    try:
        yield
    except psycopg.DataError as error:  # also what psycopg itself can't send
        raise _refusal(error) from error
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate[:2] not in _CONTENT:
            raise
        raise _refusal(error) from error
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        _log.exception("unexpected")
        raise errors.ContentRefused(f"{type(error).__name__}: {error}") from error


def _refusal(error: psycopg.Error) -> errors.ContentRefused:
    message = error.diag.message_primary or str(error)
    return errors.ContentRefused(" ".join(message.split()), error.sqlstate)


def _position(piece: model.Piece) -> tuple[int, str, int]:
    """Order in which the pieces of a journal stay in theirs."""
    return piece.run_id, piece.journal, piece.start


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
