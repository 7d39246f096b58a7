"""``hpctrack unarchive``: list again what was archived."""

from __future__ import annotations

import click

from hpctrack.cli import options
from hpctrack.cli.verbs import archive
from hpctrack.run import runids


@click.command()
@options.optional_runs
@options.experiment("This experiment, with your runs in it.")
@options.as_json
@options.config_path
def command(
    *, refs: tuple[runids.RunRef, ...], experiment: str | None, as_json: bool, config_path: str | None
) -> None:
    """List archived runs, or an archived experiment with your runs in it, again.

    \b
    hpctrack unarchive r7
    hpctrack unarchive -E pilot
    """
    archive.change(refs, experiment, archived=False, as_json=as_json, config_path=config_path)
