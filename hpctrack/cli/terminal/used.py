"""What a run used, and how well: for people and as JSON. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from hpctrack.cli.terminal import render
from hpctrack.model import RunStatus
from hpctrack.run import efficiency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpctrack.model import Attempt
    from hpctrack.run.efficiency import Resources
    from hpctrack.store.read.queries import Run, Usage


def draw(attempts: Sequence[Attempt], usage: Sequence[Usage], resources: Sequence[Resources]) -> Table | None:
    """Return Slurm's figures, our samples, and the shares that they make; None for nothing."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    several = len(attempts) > 1 or len(usage) > 1

    def add(name: str, attempt: int, line: Text | None) -> None:
        if line:
            grid.add_row(f"{name}, {render.attempt(attempt)}" if several else name, line)

    for one in attempts:
        add("Slurm", one.attempt, _accounted(one.resources))
    for sampled in usage:
        add("sampled", sampled.attempt, _sampled(sampled))
    for used in resources:
        add("efficiency", used.attempt, _shares(used))
    return grid if grid.row_count else None


def _accounted(resources: Mapping[str, Any]) -> Text | None:
    """Return what Slurm's accounting says an attempt used and was given."""
    requested, allocated = _tres(resources.get("req_tres")), _tres(resources.get("alloc_tres"))
    facts = {
        "cpu": _seconds(resources.get("cpu_s")),
        "memory": _bytes(resources.get("max_rss_bytes")),
        "requested": requested if requested != allocated else None,
        "allocated": allocated,
    }
    known = {name: value for name, value in facts.items() if value}
    return render.pairs(known) if known else None


def _tres(tres: Any) -> str | None:
    """Return trackable resources (TRES of slurm.conf(5)), memory with a unit; not what the site bills."""
    if not isinstance(tres, dict):
        return None
    counts = {
        name: _bytes(count) if name == "mem" else count for name, count in tres.items() if name != "billing"
    }
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _sampled(usage: Usage) -> Text:
    cpu = _seconds(usage.cpu_s)
    if cpu and usage.cores is not None:
        cpu += f" ({usage.cores:.{2 if usage.cores < 1 else 1}f} cores)"
    facts = {
        "cpu": cpu,
        "memory": _bytes(usage.memory_peak_bytes),
        "read": _bytes(usage.read_bytes),
        "written": _bytes(usage.write_bytes),
        "processes": usage.processes,
        "nodes": usage.nodes if usage.nodes > 1 else None,
        "samples": usage.samples,
    }
    return render.pairs({name: value for name, value in facts.items() if value is not None})


def _seconds(value: Any) -> str | None:
    return f"{value:.1f} s" if isinstance(value, int | float) else None


def _bytes(value: Any) -> str | None:
    return render.size(int(value)) if isinstance(value, int | float) else None


def _shares(used: Resources) -> Text | None:
    """Return the shares that seff and reportseff tell, each with what it is a share of."""
    limit = None if used.time_limit_s is None else timedelta(seconds=used.time_limit_s)
    facts = {
        "cpu": used.cpu is not None and f"{render.percent(used.cpu)} of {used.cpus}",
        "memory": used.memory is not None
        and f"{render.percent(used.memory)} of {render.size(used.memory_requested_bytes)}",
        "time": used.time is not None and f"{render.percent(used.time)} of {render.duration(limit)}",
    }
    known = {name: value for name, value in facts.items() if value}
    return render.pairs(known) if known else None


def sentences(run: Run, resources: Sequence[Resources]) -> list[str]:
    """Return what the latest attempt could have asked less of."""
    if not resources:
        return []
    return efficiency.hints(resources[-1], completed=run.status is RunStatus.COMPLETED)


def hints(run: Run, resources: Sequence[Resources]) -> Text | None:
    """Return `sentences`, a line each; None for none."""
    found = sentences(run, resources)
    return Text("\n".join(found)) if found else None


def to_object(used: Resources) -> dict[str, Any]:
    """Return resources as the object that ``--json`` prints."""
    fields = render.record_json(used, leave_out=("run_id", "attempt"))
    shares = {"cpu_efficiency": used.cpu, "memory_efficiency": used.memory, "time_efficiency": used.time}
    return {"restarts": used.attempt, **fields, **shares}
