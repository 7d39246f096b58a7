"""``hpctrack unshare``: take shares back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpctrack import settings
from hpctrack.cli import options, sessions
from hpctrack.cli.terminal import say
from hpctrack.cli.verbs import share
from hpctrack.run import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpctrack.run import runids
    from hpctrack.run.audience import Audience


@click.command()
@options.optional_runs
@options.experiment("Your runs in this experiment, as far as they were shared so.")
@options.audiences("Only with this user or account (several: each of them); otherwise with all.")
@options.as_json
@options.config_path
def command(
    *,
    refs: tuple[runids.RunRef, ...],
    experiment: str | None,
    audiences: tuple[Audience, ...],
    as_json: bool,
    config_path: str | None,
) -> None:
    """Take back what hpctrack share showed to others.

    A run that was shared as part of its experiment is taken back with --experiment.

    \b
    hpctrack unshare r14 --with bob
    hpctrack unshare -E digits
    """
    from hpctrack.store.read import lookup
    from hpctrack.store.write import experiments, sharing

    configuration = settings.load(config_path=config_path)
    share.check_names(configuration, refs, experiment, changes=False)
    whom: Sequence[Audience] | None = audiences or None
    ids: list[int] = []
    with sessions.connected(configuration) as connection:
        if experiment is not None:
            found = experiments.get(connection, experiment)
            taken = sharing.unshare_experiment(connection, found, whom)
        else:
            ids = list(lookup.find_each(connection, refs))
            taken = sharing.unshare_runs(connection, ids, whom)
    if as_json:
        say.json({"experiment": experiment, "runs": ids, "taken_back": taken})
    else:
        say.out(f"{share.named(ids, experiment)}: {words.counted(taken, 'share')} taken back")
