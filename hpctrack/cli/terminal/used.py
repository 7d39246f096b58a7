"""What a run used, and how well. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hpctrack.cli.terminal import render, table
from hpctrack.stream.wire import messages
from hpctrack.view import notation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table
    from rich.text import Text

    from hpctrack.model import Attempt
    from hpctrack.run.efficiency import Resources
    from hpctrack.store.read.queries import Usage


def draw(attempts: Sequence[Attempt], usage: Sequence[Usage], resources: Sequence[Resources]) -> Table | None:
    """Return Slurm's figures, our samples, and the shares that they make; None for nothing."""
    several = len(attempts) > 1 or len(usage) > 1
    lines = [
        *(("Slurm", attempt.attempt, _accounted(attempt.resources)) for attempt in attempts),
        *(("sampled", samples.attempt, _sampled(samples)) for samples in usage),
        *(("efficiency", used.attempt, _shares(used)) for used in resources),
    ]
    shown = [
        (f"{name}, {notation.attempt(attempt)}" if several else name, line) for name, attempt, line in lines
    ]
    facts = table.facts(shown)
    return facts if facts.row_count else None


def _accounted(resources: Mapping[str, Any]) -> Text:
    """Return what Slurm's accounting says an attempt used and was given."""
    requested, allocated = _tres(resources.get("req_tres")), _tres(resources.get("alloc_tres"))
    return _known(
        cpu=_seconds(resources.get("cpu_s")),
        memory=_bytes(resources.get("max_rss_bytes")),
        requested=requested if requested != allocated else None,
        allocated=allocated,
    )


def _known(**facts: object) -> Text:
    return render.pairs({name: value for name, value in facts.items() if value is not None})


def _tres(tres: Any) -> str | None:
    """Return trackable resources (TRES of slurm.conf(5)), memory with a unit; not what the site bills."""
    if not isinstance(tres, dict):
        return None
    amounts = {name: _bytes(count) if name == "mem" else count for name, count in tres.items()}
    return ", ".join(f"{name} {amount}" for name, amount in amounts.items() if name != "billing") or None


def _sampled(usage: Usage) -> Text:
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


def _shares(used: Resources) -> Text:
    """Return the shares that seff and reportseff tell, each with what it is a share of."""
    limit = None if used.time_limit_s is None else timedelta(seconds=used.time_limit_s)
    return _known(
        cpu=_share(used.cpu, str(used.cpus)),
        memory=_share(used.memory, notation.size(used.memory_requested_bytes)),
        time=_share(used.time, notation.duration(limit)),
    )


def _share(ratio: float | None, whole: str) -> str | None:
    return None if ratio is None else f"{notation.percent(ratio)} of {whole}"
