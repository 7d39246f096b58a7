"""Who else sees runs: shares of runs and experiments, and narrower visibility than the site's.

Functions that change something change all of it or nothing. They raise `errors.StoreDenied` for runs of
somebody else, `errors.UsageError` for a user that the server does not know. An experiment is shared as far as
its runs are the caller's own. Connections are in autocommit mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from hpctrack import errors
from hpctrack.run.audience import Audience, narrowest
from hpctrack.store import rows
from hpctrack.store.write import changes, experiments
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from hpctrack.store.database import Connection
    from hpctrack.store.write.experiments import Experiment


class Share(NamedTuple):
    """A run, or its owner's runs in its experiment, shared with somebody."""

    owner: str
    run_id: int | None
    experiment: str | None
    user: str | None
    account: str | None
    since: datetime

    @property
    def audience(self) -> Audience:
        """Whom it is shared with."""
        return Audience(self.user, self.account)


@dataclass(frozen=True)
class Sight:
    """Who sees a run."""

    run_id: int
    user_name: str
    account: str | None
    visible: str | None
    """What its owner chose; None for the site's choice."""
    experiment_visible: str | None
    runs_visible: str
    """The site's choices."""
    details_visible: str

    @property
    def facts(self) -> str:
        """Who sees that it is there: own, account or all."""
        return narrowest(self.runs_visible, self.visible, self.experiment_visible)

    @property
    def details(self) -> str:
        """Who sees its arguments, environment, script and standard error."""
        return narrowest(self.details_visible, self.visible, self.experiment_visible)


def sights(connection: Connection, ids: Collection[int]) -> list[Sight]:
    """Return who sees runs, in the order of their ids."""
    return rows.records(connection, "fetch_sights", Sight, ids=list(ids))


def shares_of_runs(connection: Connection, ids: Collection[int]) -> list[Share]:
    """Return the shares of runs, those of their experiments as a whole among them."""
    return rows.records(connection, "fetch_shares_of_runs", Share, ids=list(ids))


def shares_of_experiment(connection: Connection, experiment: Experiment) -> list[Share]:
    """Return the shares of an experiment as a whole, as far as the caller has a part in them."""
    return rows.records(connection, "fetch_shares_of_experiment", Share, id=experiment.id)


def share_runs(connection: Connection, ids: Collection[int], audiences: Sequence[Audience]) -> None:
    """Share runs; what is shared already stays so."""
    with rows.transaction(connection):
        changes.check_rights(connection, ids)
        _check_users(connection, audiences)
        _insert(connection, "share_runs", audiences, ids=list(ids))


def unshare_runs(
    connection: Connection, ids: Collection[int], audiences: Sequence[Audience] | None = None
) -> int:
    """Take shares of runs back, all of them or those with some; return how many."""
    with rows.transaction(connection):
        changes.check_rights(connection, ids)
        return rows.execute(connection, "unshare_runs", ids=list(ids), **_pairs(audiences))


def narrow_runs(connection: Connection, ids: Collection[int], visible: str | None) -> None:
    """Say who may see runs at most: own, account or all; None for the site's choice."""
    with rows.transaction(connection):
        changes.check_rights(connection, ids)
        rows.execute(connection, "narrow_runs", ids=list(ids), visible=visible)


def share_experiment(connection: Connection, experiment: Experiment, audiences: Sequence[Audience]) -> None:
    """Share the caller's runs in an experiment, later ones too."""
    with rows.transaction(connection):
        _check_users(connection, audiences)
        _insert(connection, "share_experiment", audiences, id=experiment.id)


def unshare_experiment(
    connection: Connection, experiment: Experiment, audiences: Sequence[Audience] | None = None
) -> int:
    """Take the caller's shares of an experiment back, all of them or those with some; return how many."""
    return rows.execute(connection, "unshare_experiment", id=experiment.id, **_pairs(audiences))


def narrow_experiment(connection: Connection, experiment: Experiment, visible: str | None) -> None:
    """Say who may see an experiment's runs at most; only who made it may."""
    with rows.transaction(connection):
        experiments.check_rights(connection, experiment)
        if visible in (None, "all"):
            rows.execute(connection, "widen_experiment", id=experiment.id)
        else:
            rows.execute(connection, "narrow_experiment", id=experiment.id, visible=visible)


def foreign_accounts(connection: Connection, audiences: Sequence[Audience]) -> list[str]:
    """Return the accounts among them that are none of the caller's."""
    own = set(rows.column(connection, "fetch_own_accounts"))
    return [one.account for one in audiences if one.account is not None and one.account not in own]


def _insert(connection: Connection, name: str, audiences: Sequence[Audience], **what: object) -> None:
    try:
        rows.execute(connection, name, **_pairs(audiences), **what)
    except errors.StoreError as error:
        if isinstance(error.__cause__, psycopg.errors.CheckViolation):
            raise errors.UsageError(error.__cause__.diag.message_primary or str(error)) from None
        raise


def _check_users(connection: Connection, audiences: Sequence[Audience]) -> None:
    names = [one.user for one in audiences if one.user is not None]
    if not names:
        return
    known = rows.column(connection, "fetch_logins")
    for name in names:
        if name not in known:
            raise errors.UsageError(f"no user {name!r} on this server: {nearest.hint(name, known)}")


def _pairs(audiences: Sequence[Audience] | None) -> dict[str, list[str | None] | None]:
    if audiences is None:
        return {"users": None, "accounts": None}
    return {"users": [one.user for one in audiences], "accounts": [one.account for one in audiences]}
