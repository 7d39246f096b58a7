"""What is said of an experiment. Pure.

Texts are not made visible yet: who shows them does that, see `hpctrack.text.visible`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack.run import words
from hpctrack.view import notation
from hpctrack.view.story import Fact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpctrack.store.write.experiments import Experiment, Link


def by_state(experiment: Experiment) -> list[tuple[str, int]]:
    """Return how many of its runs are in which state, the most first."""
    return sorted(experiment.counts.items(), key=lambda item: -item[1])


def states(experiment: Experiment) -> str:
    """Return the same in a line: ``7 COMPLETED, 1 FAILED``."""
    return ", ".join(f"{count} {state}" for state, count in by_state(experiment))


def link(found: Link) -> str:
    """Return how a link is read: ``origin kind target``."""
    return " ".join(found)


def goals(found: Mapping[str, str]) -> str:
    """Return goals as they are given: ``max:val/acc, min:loss``."""
    return ", ".join(f"{better}:{metric}" for metric, better in sorted(found.items()))


def _archived(experiment: Experiment) -> str:
    """Return what of an experiment is archived."""
    parts = ["the experiment"] if experiment.archived else []
    parts += [words.counted(experiment.archived_runs, "run")] if experiment.archived_runs else []
    return ", ".join(parts)


def facts(experiment: Experiment, links: Sequence[Link], rows: int) -> Iterator[Fact]:
    """Yield what is known of an experiment besides its name; it has so many rows of metrics."""
    span = f"{notation.moment(experiment.first)} to {notation.moment(experiment.newest)}"
    told = {
        "tags": notation.tags(experiment.tags),
        "note": experiment.comment,
        "user": experiment.user_name,
        "created": notation.moment(experiment.time_created),
        "submitted": span if experiment.newest else None,
        "runs": f"{experiment.runs}: {states(experiment)}" if experiment.runs else "none",
        "goals": goals(experiment.goals),
        "archived": _archived(experiment),
        "metrics": words.counted(rows, "row") if rows else None,
        "links": ", ".join(map(link, links)),
    }
    return (Fact(name, text) for name, text in told.items() if text)
