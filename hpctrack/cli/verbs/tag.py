"""``hpctrack tag``: put tags on runs."""

from __future__ import annotations

import click

from hpctrack import errors, settings
from hpctrack.cli import annotation, completers, options, sessions
from hpctrack.cli.terminal import render, say
from hpctrack.run.words import named
from hpctrack.slurm.sbatch import submission


@click.command()
@annotation.words_argument(shell_complete=completers.runs)
@annotation.tags_option
@options.config_path
def command(words: tuple[str, ...], tags: tuple[str, ...], config_path: str | None) -> None:
    """Tag runs: with a word (baseline) or with a name and its value (sweep=lr).

    The first word names a run, and so does each further id; then come the tags.

    \b
    hpctrack tag 14 baseline             all tasks of job array 14
    hpctrack tag r7 r8 sweep=lr good
    hpctrack tag r7 -T 2024
    """
    from hpctrack.store.read import lookup
    from hpctrack.store.write import changes

    refs, texts = annotation.split(words, tags)
    read = submission.tags(texts)
    if len(read) < len(set(texts)) and any(text.startswith("=") for text in texts):
        raise errors.UsageError("a tag has a name: write name or name=value")
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        ids = lookup.find_each(connection, refs)
        changes.tag(connection, ids, read)
    say.out(f"{named(ids)}: tagged {', '.join(map(render.clean, texts))}")
