"""What a run used, and how well: in lines of names with values. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hpctrack.stream.wire import messages
from hpctrack.view import notation
from hpctrack.view.story import Fact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpctrack.run.efficiency import Resources
    from hpctrack.store.read.queries import Usage
    from hpctrack.view.story import Story


def facts(story: Story) -> Iterator[Fact]:
    """Yield Slurm's figures, our samples, and the shares that they make, of each attempt."""
    several = len(story.attempts) > 1 or len(story.usage) > 1
    lines = [
        *(("Slurm", attempt.attempt, _accounted(attempt.resources)) for attempt in story.attempts),
        *(("sampled", samples.attempt, sampled(samples)) for samples in story.usage),
        *(("efficiency", used.attempt, _shares(used)) for used in story.resources),
    ]
    for name, attempt, told in lines:
        if told:
            yield Fact(f"{name}, {notation.attempt(attempt)}" if several else name, told)


def _accounted(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Slurm's accounting says an attempt used and was given."""
    requested, allocated = _tres(resources.get("req_tres")), _tres(resources.get("alloc_tres"))
    return _known(
        cpu=_seconds(resources.get("cpu_s")),
        memory=_bytes(resources.get("max_rss_bytes")),
        requested=requested if requested != allocated else None,
        allocated=allocated,
    )


def _known(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _tres(tres: Any) -> str | None:
    """Return trackable resources (TRES of slurm.conf(5)), memory with a unit; not what the site bills."""
    if not isinstance(tres, dict):
        return None
    amounts = {name: _bytes(count) if name == "mem" else count for name, count in tres.items()}
    return ", ".join(f"{name} {amount}" for name, amount in amounts.items() if name != "billing") or None


def sampled(usage: Usage) -> dict[str, Any]:
    """Return what samples say that an attempt used, by the labels of `messages.TOTALS`."""
    totals = {figure.label: _with_unit(usage.totals[figure.name], figure.unit) for figure in messages.TOTALS}
    if totals["cpu"] and usage.cores is not None:
        totals["cpu"] += f" ({usage.cores:.{2 if usage.cores < 1 else 1}f} cores)"
    return _known(**totals, nodes=usage.nodes if usage.nodes > 1 else None, samples=usage.samples)


def _seconds(value: Any) -> str | None:
    return f"{value:.1f} s" if isinstance(value, int | float) else None


def _bytes(value: Any) -> str | None:
    return notation.size(int(value)) if isinstance(value, int | float) else None


def _with_unit(value: Any, unit: str) -> Any:
    if unit == "s":
        return _seconds(value)
    return _bytes(value) if unit == "bytes" else value


def _shares(used: Resources) -> dict[str, Any]:
    """Return the shares that seff and reportseff tell, each with what it is a share of."""
    limit = None if used.time_limit_s is None else timedelta(seconds=used.time_limit_s)
    return _known(
        cpu=_share(used.cpu, str(used.cpus)),
        memory=_share(used.memory, notation.size(used.memory_requested_bytes)),
        time=_share(used.time, notation.duration(limit)),
    )


def _share(ratio: float | None, whole: str) -> str | None:
    return None if ratio is None else f"{notation.percent(ratio)} of {whole}"
