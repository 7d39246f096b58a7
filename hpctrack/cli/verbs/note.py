"""``hpctrack note``: a remark on a run."""

from __future__ import annotations

import click

from hpctrack import settings
from hpctrack.cli import options, sessions
from hpctrack.cli.terminal import say
from hpctrack.run import runids
from hpctrack.run.words import named


@click.command()
@options.some_runs
@click.argument("text")
@options.config_path
def command(refs: tuple[runids.RunRef, ...], text: str, config_path: str | None) -> None:
    """Note something about a run, in place of what was noted before; an empty TEXT removes the note.

    For a job array, each task gets the note.
    """
    from hpctrack.store.read import lookup
    from hpctrack.store.write import changes

    with sessions.connected(settings.load(config_path=config_path)) as connection:
        ids = lookup.find_each(connection, refs)
        changes.note(connection, ids, text.strip() or None)
    say.out(f"{named(ids)}: {'noted' if text.strip() else 'note removed'}")
