"""What differs between runs. Pure."""

from __future__ import annotations

import difflib
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Variables that differ from job to job without anybody having changed anything.
_OF_THE_JOB = ("SLURM_", "SLURMD_", "SBATCH_", "HPCTRACK_", "PMI", "SSH_", "XDG_SESSION_")
_OF_THE_PROCESS = frozenset(
    ("_", "SHLVL", "OLDPWD", "HOSTNAME", "TMPDIR", "TMUX_PANE", "WINDOWID", "CUDA_VISIBLE_DEVICES")
)


class Side(NamedTuple):
    """One of the runs."""

    label: str
    facts: Mapping[str, Mapping[str, Any]]
    """By section, by name."""
    script: str | None


class Difference(NamedTuple):
    """A name whose values are not all equal."""

    name: str
    values: tuple[Any, ...]
    """Of each side; None where it is not there."""


class Section(NamedTuple):
    """A group of names."""

    name: str
    differences: tuple[Difference, ...]
    alike: int
    """Names whose values are all equal."""


def compare(sides: Sequence[Side]) -> list[Section]:
    """Return every section of these runs, in order, with what differs in it."""
    titles = dict.fromkeys(title for side in sides for title in side.facts)
    return [_section(title, [side.facts.get(title, {}) for side in sides]) for title in titles]


def _section(title: str, groups: Sequence[Mapping[str, Any]]) -> Section:
    names = dict.fromkeys(itertools.chain(*groups))
    rows = [Difference(name, tuple(group.get(name) for group in groups)) for name in names]
    known = [row for row in rows if any(value is not None for value in row.values)]
    differing = tuple(row for row in known if not _equal(row.values))
    return Section(title, differing, len(known) - len(differing))


def _equal(values: Sequence[Any]) -> bool:
    first = values[0]
    return all(value == first and isinstance(value, bool) == isinstance(first, bool) for value in values)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the elements of nested objects by their paths: ``model.depth``."""
    if not isinstance(value, dict):
        return {} if value is None and not prefix else {prefix: value}
    leaves: dict[str, Any] = {}
    for name, item in value.items():
        leaves.update(flat(item, f"{prefix}.{name}" if prefix else str(name)))
    return leaves


def is_of_the_job(variable: str) -> bool:
    """Whether an environment variable describes the job or process rather than what a user set up."""
    return variable.startswith(_OF_THE_JOB) or variable in _OF_THE_PROCESS


def script_changes(sides: Sequence[Side]) -> Iterator[list[str]]:
    """Yield the unified diff from the first script to each other one that differs."""
    first = sides[0]
    for side in sides[1:]:
        if side.script is None or first.script is None or side.script == first.script:
            continue
        lines = difflib.unified_diff(
            first.script.splitlines(), side.script.splitlines(), first.label, side.label, lineterm="", n=2
        )
        yield list(lines)
