"""``hpctrack untag``: take tags off runs."""

from __future__ import annotations

import click

from hpctrack import settings
from hpctrack.cli import annotation, completers, options, sessions
from hpctrack.cli.terminal import render, say
from hpctrack.run.words import named
from hpctrack.text import nearest


@click.command()
@annotation.words_argument(shell_complete=completers.runs_and_tags)
@annotation.tags_option
@options.config_path
def command(words: tuple[str, ...], tags: tuple[str, ...], config_path: str | None) -> None:
    """Take tags off runs, by their names.

    The first word names a run, and so does each further id; then come the tags.
    """
    from hpctrack.store.read import known_names, lookup
    from hpctrack.store.write import changes

    refs, texts = annotation.split(words, tags)
    names = [text.partition("=")[0] for text in texts]
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        ids = lookup.find_each(connection, refs)
        known = known_names.tags(connection, ids)
        changes.untag(connection, ids, names)
    for name in (name for name in names if name not in known):
        say.note(f"{named(ids)} had no tag {name!r}: {nearest.hint(name, known)}")
    say.out(f"{named(ids)}: not tagged {', '.join(map(render.clean, names))} any more")
