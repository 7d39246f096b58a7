"""What was submitted once, to be submitted again, with other arguments or options. Pure.

The stored submit line is read as it was when it was typed. Secrets in it are masked: a masked word that is
not given anew is an error, never an argument.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.run import arguments
from hpctrack.slurm.sbatch import batch_script, options, preparation, submission
from hpctrack.text.redact import MASK

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


_SHELL = re.compile(rb"#![^\n]*\b(?:ba|da|k|z)?sh\b")
_ARGUMENTS = re.compile(rb"\$\{?[@*1-9]|\bgetopts\b|\bshift\b")


class Original(NamedTuple):
    """What was submitted."""

    #: How to call it in messages: ``r7``.
    name: str
    #: The submit line's words; secrets are masked.
    line: Sequence[str]
    #: As it was, without masks.
    script: bytes
    #: File that it was read from; empty where there is none.
    path: str
    work_dir: str
    experiment: str
    #: The tasks of the array that are wanted, as --array takes them; None for all there were.
    tasks: str | None = None


class Changes(NamedTuple):
    """What is to be different."""

    own: submission.Own = submission.Own()
    #: Names and values of the script's arguments.
    assignments: Sequence[tuple[str, str]] = ()
    #: Options of sbatch's.
    options: Sequence[str] = ()


class Again(NamedTuple):
    """How to submit it again."""

    own: submission.Own
    #: sbatch's arguments.
    argv: list[str]
    #: None for ``--wrap``, whose command stands in ``argv``.
    script: preparation.Script | None

    @property
    def line(self) -> list[str]:
        """The whole command, as somebody would have typed it."""
        return ["hpctrack", "sbatch", *submission.own_words(self.own), *self.argv]


def plan(original: Original, changes: Changes, listed: Mapping[str, int]) -> Again:
    """Return how to submit it again; ``listed`` are the options of `options.parse_help`.

    Raises `errors.UsageError` for changes that can't be made, `errors.BadInput` for masked words.
    """
    own, words = submission.parse_own(list(original.line[2:]))
    before, after = options.parse(words, listed), options.parse(changes.options, listed)
    _check(original, before, after, changes)
    if MASK in original.work_dir:
        raise errors.BadInput(
            f"the folder of {original.name} held a secret in its name, which was not stored "
            f"({original.work_dir}): submit it there with hpctrack sbatch"
        )
    given, path = list(words), before.script
    head = given if path is None else given[:path]
    tail = [] if path is None else _arguments(original, given[path + 1 :], changes.assignments)
    if path is None and changes.assignments:
        raise errors.UsageError(f"{original.name} has no script with arguments that --set could change")
    kept = _options(original, head, before, after)
    new = [*_implied(original, before, after), *changes.options]
    _refuse_masks(original, [*kept, *new])
    argv = [*kept, *new]
    script = None
    if not before.has("wrap"):
        place = None if path is None else len(argv)
        name = os.path.basename(original.path) if path is not None else "sbatch"  # noqa: PTH119
        script = preparation.Script(original.script, name, original.path, place, consumed=True)
    if path is not None:
        argv += [given[path], *tail]
    # Experiments may be renamed, and runs moved, since.
    own = changes.own.over(own._replace(experiment=original.experiment))
    return Again(own, argv, script)


def _check(
    original: Original, before: options.CommandLine, after: options.CommandLine, changes: Changes
) -> None:
    if before.unknown is not None:
        raise errors.BadInput(
            f"{original.name} was submitted with {before.unknown}, which sbatch does not know here"
        )
    if after.unknown is not None:
        raise errors.UsageError(f"sbatch has no option {after.unknown}, or it lacks its value")
    if after.script is not None:
        word = changes.options[after.script]
        raise errors.UsageError(
            f"{word!r} is too much: write RUN, --set NAME=VALUE for arguments, and options of sbatch's"
        )
    if changes.options and max(before.components, after.components) > 1:
        raise errors.UsageError(
            f"{original.name} is a heterogeneous job: its options can't be changed, only its arguments"
        )
    if after.has("wrap"):
        raise errors.UsageError("--wrap is another job, not a rerun")


def _options(
    original: Original, head: Sequence[str], before: options.CommandLine, after: options.CommandLine
) -> list[str]:
    """Return the words of the old options without those that are given anew."""
    anew = {option.name for option in after.options}
    anew |= {"chdir"} if _moved(original, before) else set()
    anew |= {"array"} if original.tasks is not None else set()
    dropped = _places(before, anew)
    return [word for place, word in enumerate(head) if place not in dropped and word != "--"]


def _places(line: options.CommandLine, names: Collection[str]) -> set[int]:
    """Return the places of these options, where no other stands in the same word."""
    given = [option for option in line.options if option.name in names and _alone(line, option)]
    return {place for option in given for place in option.places}


def _alone(line: options.CommandLine, option: options.Option) -> bool:
    """Whether no other option stands in the same word (``-Hn4``)."""
    return not any(other is not option and set(other.places) & set(option.places) for other in line.options)


def _implied(original: Original, before: options.CommandLine, after: options.CommandLine) -> list[str]:
    """Return options that say what the old ones, or where they were typed, meant."""
    words = []
    if _moved(original, before) and not after.has("chdir"):
        words.append(f"--chdir={original.work_dir}")
    if original.tasks is not None and not after.has("array"):
        words.append(f"--array={original.tasks}{_throttle(original, before)}")
    return words


def _throttle(original: Original, before: options.CommandLine) -> str:
    """Return how many tasks may run at once, as the array had it (``%4``); empty for one, or for no limit."""
    said = before.value("array")
    if said is None:
        said = _directives(original, before).value("array") or ""
    _, percent, limit = said.rpartition("%")
    several = set(original.tasks or "") & set(",-")
    return percent + limit if several and limit.isdecimal() else ""


def _moved(original: Original, before: options.CommandLine) -> bool:
    """Whether the job ran elsewhere than where it was submitted."""
    return before.has("chdir") or _directives(original, before).has("chdir")


def _directives(original: Original, before: options.CommandLine) -> options.CommandLine:
    """Return the options in the script; for ``--wrap`` those of the command line, for it has no others."""
    block = [os.fsdecode(text) for text in batch_script.leading_block(original.script)]
    return options.parse(options.directives(block), {}) if not before.has("wrap") else before


def _arguments(original: Original, argv: list[str], assignments: Sequence[tuple[str, str]]) -> list[str]:
    for name, value in assignments:
        replaced = arguments.replace(argv, name, value)
        if replaced is None:
            if not argv and _takes_no_arguments(original.script):
                raise errors.UsageError(
                    f"the script of {original.name} reads no arguments ($1, $@): --set would change nothing"
                )
            replaced = arguments.add(argv, name, value)
        argv = replaced
    masked = next((word for word in argv if MASK in word), None)
    if masked is not None:
        raise errors.BadInput(
            f"an argument of {original.name} held a secret, which was not stored ({masked}): "
            "give it again with --set NAME=VALUE"
        )
    return argv


def _takes_no_arguments(script: bytes) -> bool:
    """Whether it is a shell script that does not mention its arguments."""
    return bool(_SHELL.match(script)) and not _ARGUMENTS.search(script)


def _refuse_masks(original: Original, words: Sequence[str]) -> None:
    for word in words:
        if MASK in word:
            raise errors.BadInput(
                f"an option of {original.name} held a secret, which was not stored ({word}): "
                "give that option again"
            )
