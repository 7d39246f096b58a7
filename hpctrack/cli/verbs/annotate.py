"""``hpctrack tag``, ``untag``, ``note`` and ``link``: what people add to their runs."""

from __future__ import annotations

import functools

import click

from hpctrack import errors, settings
from hpctrack.cli import common, completers
from hpctrack.cli.terminal import render, say
from hpctrack.run import runids
from hpctrack.run import words as reading
from hpctrack.slurm.sbatch import submission
from hpctrack.text import nearest

_words = functools.partial(click.argument, "words", nargs=-1, required=True, metavar="RUN... TAG...")
_tags = click.option(
    "-T", "--tag", "tags", multiple=True, metavar="TAG", help="A tag, also one that looks like a run's id."
)


def split(words: tuple[str, ...], tags: tuple[str, ...]) -> tuple[list[runids.RunRef], list[str]]:
    """Tell runs from tags: runs are the first word and all ids that follow it; with ``tags``, all words are.

    Raises `errors.UsageError` where no tag is left.
    """
    refs = list(reading.runs(words[0]))
    rest = list(words[1:])
    while rest and (tags or not reading.runs(rest[0])[0].named):
        refs += reading.runs(rest.pop(0))
    if not rest and not tags:
        raise errors.UsageError("no tag is given: write RUN... TAG..., or -T TAG for one like 2024 or r7")
    return refs, [*rest, *tags]


@click.command()
@_words(shell_complete=completers.runs)
@_tags
@common.config_option
def tag(words: tuple[str, ...], tags: tuple[str, ...], config_path: str | None) -> None:
    """Tag runs: with a word (baseline) or with a name and its value (sweep=lr).

    The first word names a run, and so does each further id; then come the tags.

    \b
    hpctrack tag 14 baseline             all tasks of job array 14
    hpctrack tag r7 r8 sweep=lr good
    hpctrack tag r7 -T 2024
    """
    from hpctrack.store.read import lookup
    from hpctrack.store.write import changes

    refs, texts = split(words, tags)
    found = submission.tags(texts)
    if len(found) < len(set(texts)) and any(text.startswith("=") for text in texts):
        raise errors.UsageError("a tag has a name: write name or name=value")
    with common.connected(settings.load(config_path=config_path)) as connection:
        ids = lookup.find_each(connection, refs)
        changes.tag(connection, ids, found)
    say.out(f"{common.named(ids)}: tagged {', '.join(map(render.clean, texts))}")


@click.command()
@_words(shell_complete=completers.runs_and_tags)
@_tags
@common.config_option
def untag(words: tuple[str, ...], tags: tuple[str, ...], config_path: str | None) -> None:
    """Take tags off runs, by their names.

    The first word names a run, and so does each further id; then come the tags.
    """
    from hpctrack.store.read import known_names, lookup
    from hpctrack.store.write import changes

    refs, texts = split(words, tags)
    names = [text.partition("=")[0] for text in texts]
    with common.connected(settings.load(config_path=config_path)) as connection:
        ids = lookup.find_each(connection, refs)
        known = known_names.tags(connection, ids)
        changes.untag(connection, ids, names)
    for name in (name for name in names if name not in known):
        say.note(f"{common.named(ids)} had no tag {name!r}: {nearest.hint(name, known)}")
    say.out(f"{common.named(ids)}: not tagged {', '.join(map(render.clean, names))} any more")


@click.command()
@common.some_runs_argument
@click.argument("text")
@common.config_option
def note(refs: tuple[runids.RunRef, ...], text: str, config_path: str | None) -> None:
    """Note something about a run, in place of what was noted before; an empty TEXT removes the note.

    Of a job array, each task gets the note.
    """
    from hpctrack.store.read import lookup
    from hpctrack.store.write import changes

    with common.connected(settings.load(config_path=config_path)) as connection:
        ids = lookup.find_each(connection, refs)
        changes.note(connection, ids, text.strip() or None)
    say.out(f"{common.named(ids)}: {'noted' if text.strip() else 'note removed'}")


@click.command()
@click.argument("origin", metavar="FROM", shell_complete=completers.runs)
@click.argument("kind")
@click.argument("target", metavar="TO", shell_complete=completers.runs)
@click.option("--remove", is_flag=True, help="Remove the link.")
@common.config_option
def link(*, origin: str, kind: str, target: str, remove: bool, config_path: str | None) -> None:
    """Link a run to another; KIND says in your words what the link means.

    \b
    hpctrack link r8 evaluates r7
    """
    from hpctrack.store.read import lookup
    from hpctrack.store.write import changes

    kind = " ".join(kind.split())
    if not kind:
        raise errors.UsageError("KIND says what the link means: hpctrack link r8 evaluates r7")
    refs = common.one_run(origin), common.one_run(target)
    with common.connected(settings.load(config_path=config_path)) as connection:
        from_id, to_id = (lookup.find_one(connection, ref) for ref in refs)
        if not remove:
            changes.link(connection, from_id, kind, to_id)
        elif not changes.unlink(connection, from_id, kind, to_id):
            raise errors.UsageError(
                f"no link r{from_id} {kind} r{to_id}: hpctrack show r{from_id} tells them"
            )
    say.out(f"r{from_id} {render.clean(kind)} r{to_id}" + (": removed" if remove else ""))
