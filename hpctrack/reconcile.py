"""Compare what PostgreSQL believes with what Slurm and the relays say, and correct PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from uuid import UUID

    from hpctrack.model import RelayMessage
    from hpctrack.slurm.accounting import Backend
    from hpctrack.store.database import Connection


class Report(NamedTuple):
    """What one pass did."""

    #: Ids of the runs that changed.
    changed: tuple[int, ...] = ()
    #: Of the runs asked for with ``only``: those that Slurm does not yet say have ended.
    waiting: tuple[int, ...] = ()
    #: Why Slurm could not be asked; None when it answered. Nothing was concluded then.
    error: str | None = None


def observe(connection: Connection, messages: Iterable[RelayMessage]) -> frozenset[int]:
    """Record what relays said: inside the collector's transaction, which it neither begins nor ends.

    Takes ``hello``, ``start`` and ``fin`` messages (others are ignored) of any number of runs, in the order
    of their journals, and writes all that follows from them: status, attempts, transitions, the runs' fields
    (``runs.env`` from ``start`` included). Saying a thing twice changes nothing. Locks the ``runs`` rows in
    the order of their ids. A body of the wrong shape never raises; what can't be used is left out.

    Returns the ids of runs in a Slurm job whose script has ended: worth an early ``run_once(only=...)``.
    """
    raise NotImplementedError


def run_once(
    connection: Connection,
    backend: Backend,
    cluster: str,
    user: str | None = None,
    *,
    lease: UUID | None = None,
    only: Collection[int] = (),
) -> Report:
    """Make one pass: at most one squeue, sacct for the jobs that left the queue, one transaction.

    ``connection`` is idle and not in autocommit mode. ``user``: the runs of that user alone (the personal
    mode). ``lease``: id of the collector on whose behalf this runs; if its row in ``collectors`` has no
    lease that is still good, nothing is written and `errors.LeaseLost` raised. ``only``: an early check of
    these runs. If Slurm can't be reached nothing is concluded: `Report.error` says why, the table
    ``clusters`` since when.
    """
    raise NotImplementedError
