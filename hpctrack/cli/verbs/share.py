"""``hpctrack share``: show runs to others, narrow who sees them, and tell who does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpctrack import errors, settings
from hpctrack.cli import options, sessions
from hpctrack.cli.terminal import render, say
from hpctrack.run import words
from hpctrack.run.audience import SCOPES, Audience
from hpctrack.view import jsonable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hpctrack.run import runids
    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.write.sharing import Share, Sight

_WHO = {"own": "{user}", "account": "{user} and account {account}", "all": "all"}


@click.command()
@options.optional_runs
@options.experiment("Your runs in this experiment, later ones too; with --only everybody's, if it is yours.")
@options.audiences("Show runs with their details to a user, or to an account's members: bob, account:lab.")
@click.option(
    "--only",
    type=click.Choice(SCOPES),
    help="Who may see them at most beside those; all: whoever the site says.",
)
@options.as_json
@options.config_path
def command(
    *,
    refs: tuple[runids.RunRef, ...],
    experiment: str | None,
    audiences: tuple[Audience, ...],
    only: str | None,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Show runs to others on a site's server, or to fewer; without --with and --only tell who sees them.

    What is shared is seen with arguments, environment, script and standard error. Coordinators of the run's
    account and Slurm's operators see it in any case. hpctrack unshare takes shares back.

    \b
    hpctrack share r14 --with bob --with account:lab
    hpctrack share -E digits --with carol
    hpctrack share r14 --only own
    """
    from hpctrack.store.read import lookup

    configuration = settings.load(config_path=config_path)
    check_names(configuration, refs, experiment, changes=bool(audiences or only))
    with sessions.connected(configuration) as connection:
        if experiment is not None:
            told = _experiment(connection, experiment, audiences, only)
        else:
            told = _runs(connection, lookup.find_each(connection, refs), audiences, only)
        _note_accounts(connection, audiences)
    if configuration.personal:  # nobody else is there
        for run in told["runs"]:
            run |= {"facts": "own", "details": "own"}
    _print(told, as_json=as_json)


def check_names(
    configuration: Settings, refs: Sequence[runids.RunRef], experiment: str | None, *, changes: bool
) -> None:
    """Raise `errors.UsageError` unless runs or an experiment are named, and others are there to see them."""
    options.check_runs_or_experiment(refs, experiment)
    if changes and configuration.personal:
        raise errors.UsageError("sharing is for a server that others use, but none is configured")


def _runs(
    connection: Connection, ids: Sequence[int], audiences: Sequence[Audience], only: str | None
) -> dict[str, Any]:
    from hpctrack.store.write import sharing

    if only is not None:
        sharing.narrow_runs(connection, ids, None if only == "all" else only)
    if audiences:
        sharing.share_runs(connection, ids, audiences)
    shares = sharing.shares_of_runs(connection, ids)
    return {
        "experiment": None,
        "runs": [_run(sight, shares) for sight in sharing.sights(connection, ids)],
        "shares": [],
    }


def _run(sight: Sight, shares: Sequence[Share]) -> dict[str, Any]:
    own = [share for share in shares if share.run_id == sight.run_id]
    return {
        "id": sight.run_id, "user": sight.user_name, "account": sight.account, "visible": sight.visible,
        "facts": sight.facts, "details": sight.details, "shares": list(map(_share, own)),
    }  # fmt: skip


def _experiment(
    connection: Connection, name: str, audiences: Sequence[Audience], only: str | None
) -> dict[str, Any]:
    from hpctrack.store.write import experiments, sharing

    found = experiments.get(connection, name)
    if only is not None:
        sharing.narrow_experiment(connection, found, only)
    if audiences:
        sharing.share_experiment(connection, found, audiences)
    shares = sharing.shares_of_experiment(connection, found)
    return {"experiment": name, "runs": [], "shares": list(map(_share, shares))}


def _share(share: Share) -> dict[str, Any]:
    return {
        "with": str(share.audience),
        "by": share.owner,
        "experiment": share.experiment,
        "since": share.since,
    }


def _note_accounts(connection: Connection, audiences: Sequence[Audience]) -> None:
    from hpctrack.store.write import sharing

    for account in sharing.foreign_accounts(connection, audiences):
        say.note(f"account {render.clean(account)} is none of yours: whoever is in it sees them")


def _print(told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        say.raw(jsonable.to_json(told) + "\n")
        return
    say.out(*_lines(told))


def _lines(told: dict[str, Any]) -> Iterator[str]:
    if told["experiment"] is not None:
        shares = [
            f"{render.clean(share['with'])} (by {render.clean(share['by'])})" for share in told["shares"]
        ]
        yield f"experiment {render.clean(told['experiment'])}: shared with {', '.join(shares) or 'nobody'}"
    for run in told["runs"]:
        facts, details = _who(run, "facts"), _who(run, "details")
        shares = [render.clean(share["with"]) + _through(share) for share in run["shares"]]
        seen = f"r{run['id']}: seen by {facts}; details by {details}"
        yield f"{seen}; shared with {', '.join(shares) or 'nobody'}"


def _who(run: dict[str, Any], what: str) -> str:
    """Return who sees that of a run; one without an account is nobody's but its owner's."""
    scope = "own" if run["account"] is None and run[what] == "account" else run[what]
    return _WHO[scope].format(user=render.clean(run["user"]), account=render.clean(run["account"] or ""))


def _through(share: dict[str, Any]) -> str:
    return f" (experiment {render.clean(share['experiment'])})" if share["experiment"] else ""


def named(ids: Sequence[int], experiment: str | None) -> str:
    """Return how messages call what was named."""
    return words.named(ids) if experiment is None else f"experiment {render.clean(experiment)}"
