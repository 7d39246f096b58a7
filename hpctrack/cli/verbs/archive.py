"""``hpctrack archive``: leave runs, or an experiment with its runs, out of lists."""

from __future__ import annotations

import click

from hpctrack import settings
from hpctrack.cli import options, sessions
from hpctrack.cli.terminal import render, say
from hpctrack.run import runids, words


@click.command()
@options.optional_runs
@options.experiment("This experiment, with your runs in it.")
@options.as_json
@options.config_path
def command(
    *, refs: tuple[runids.RunRef, ...], experiment: str | None, as_json: bool, config_path: str | None
) -> None:
    """Leave runs, or an experiment, out of lists.

    What is archived stays as it is, is tracked as ever, and is found by its id. hpctrack status --archived
    lists it, too; hpctrack unarchive lists it everywhere again.

    \b
    hpctrack archive r7-19 24
    hpctrack archive -E pilot
    """
    change(refs, experiment, archived=True, as_json=as_json, config_path=config_path)


def change(
    refs: tuple[runids.RunRef, ...],
    experiment: str | None,
    *,
    archived: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Archive what is named, or take it back. Raises `errors.UsageError` unless one of both is given."""
    from hpctrack.store.read import lookup
    from hpctrack.store.write import changes, experiments

    options.check_runs_or_experiment(refs, experiment)
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        if experiment is None:
            ids = list(lookup.find_each(connection, refs))
            changes.archive(connection, ids, archived=archived)
        else:
            ids = experiments.archive(connection, experiments.get(connection, experiment), archived=archived)
    if as_json:
        say.json({"experiment": experiment, "runs": ids, "archived": archived})
        return
    named = ([f"experiment {render.clean(experiment)}"] if experiment is not None else []) + (
        [words.named(ids)] if ids else []
    )
    say.out(f"{', '.join(named)}: {'archived' if archived else 'not archived any more'}")
