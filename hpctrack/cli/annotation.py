"""What ``hpctrack tag`` and ``untag`` share: runs and tags in one row of words."""

from __future__ import annotations

import functools

import click

from hpctrack import errors
from hpctrack.cli import options
from hpctrack.run import runids
from hpctrack.run import words as reading

words_argument = functools.partial(click.argument, "words", nargs=-1, required=True, metavar="RUN... TAG...")
tags_option = options.tags("A tag, also one that looks like a run's id.", metavar="TAG")


def split(words: tuple[str, ...], tags: tuple[str, ...]) -> tuple[list[runids.RunRef], list[str]]:
    """Split words into runs and tags.

    Runs are the first word and the ids that follow it; with ``tags``, which are tags anyway, all words are
    runs. Raises `errors.UsageError` where no tag is left.
    """
    refs = list(reading.runs(words[0]))
    rest = list(words[1:])
    while rest and (tags or not reading.runs(rest[0])[0].named):
        refs += reading.runs(rest.pop(0))
    if not rest and not tags:
        raise errors.UsageError("no tag is given: write RUN... TAG..., or -T TAG for one like 2024 or r7")
    return refs, [*rest, *tags]
