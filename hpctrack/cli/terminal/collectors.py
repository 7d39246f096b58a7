"""What collectors say of themselves, for people. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from hpctrack.cli.common import counted
from hpctrack.cli.terminal import render, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

    from hpctrack.store.write.collectors import CollectorRow

#: What the receiving thread counts beside its reasons to refuse a datagram.
_NO_REASONS = frozenset(("datagrams", "bytes", "accepted", "pings", "overflow"))
#: Counters that stay 0 while all is well, with their words.
_DISORDER = {"held": "held for what was missing before them", "dropped": "asked for again"}
_SET_ASIDE = {
    "torn": "lines damaged",
    "malformed": "messages not understood",
    "homeless": "for deleted runs",
}


def draw(row: CollectorRow) -> list[RenderableType]:
    """Return what to print of a collector."""
    head = Text(f"{render.clean(row.host)}, process {row.pid}", "bold").append(": ")
    if row.live:
        head.append("live", "not bold")
    else:
        head.append(f"silent for {_span(row.silent)}", render.WARNING)
    if row.reconciles:
        head.append(", reconciles", "not bold")
    return [head, Padding(table.facts(_rows(row)), (0, 0, 0, 2), expand=False)]


def _rows(row: CollectorRow) -> Iterator[tuple[str, Text | str | None]]:
    stats = row.stats
    up = row.heartbeat - row.started + timedelta(seconds=row.silent)
    yield "since", f"{render.moment(row.started)}, for {render.duration(up)}"
    yield "listens on", " ".join(row.addresses)
    yield "trouble", _warning(stats.get("trouble"))
    yield "received", _received(stats)
    yield "refused", _named(_refused(stats))
    yield "stored", _stored(stats)
    yield "a commit", _commit(stats)
    yield "waiting", _waiting(stats)
    yield "out of order", _worded(stats.get("stored"), _DISORDER)
    yield "repeated", _repeated(stats)
    yield "set aside", _set_aside(stats)
    yield "lost", _lost(stats)
    yield "Slurm", _slurm(stats)
    yield "", _warning(stats.get("slurm_trouble"))
    for program, asked in sorted(_mapping(stats.get("slurm_commands")).items()):
        yield program, _asked(asked)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _warning(trouble: Any) -> Text | None:
    return Text(render.clean(trouble), render.WARNING) if trouble else None


def _span(seconds: float) -> str:
    """Return a wait: milliseconds, seconds, or as squeue writes it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else render.duration(timedelta(seconds=seconds))


def _received(stats: Mapping[str, Any]) -> str:
    received = _mapping(stats.get("received"))
    pings = received.get("pings", 0)
    said = f"{counted(received.get('datagrams', 0), 'datagram')}, {render.size(received.get('bytes', 0))}"
    return said + (f", {counted(pings, 'ping')} of hpctrack doctor" if pings else "")


def _refused(stats: Mapping[str, Any]) -> dict[str, int]:
    """Return why datagrams changed nothing, and how many; those of unknown runs come again."""
    found = {
        reason: count
        for reason, count in _mapping(stats.get("received")).items()
        if reason not in _NO_REASONS
    }
    found["unknown run"] = found.get("unknown run", 0) + stats.get("unknown_runs", 0)
    return {reason: count for reason, count in found.items() if count}


def _stored(stats: Mapping[str, Any]) -> str:
    stored = _mapping(stats.get("stored"))
    kinds = ", ".join(counted(stored.get(f"{what}s", 0), what) for what in ("row", "message"))
    return f"{kinds}; {counted(stats.get('streams', 0), 'journal')} open"


def _commit(stats: Mapping[str, Any]) -> str | None:
    batches = _mapping(stats.get("stored")).get("batches", 0)
    if not batches:
        return None
    mean, last = stats.get("commit_total_s", 0.0) / batches, stats.get("commit_s", 0.0)
    return f"{_span(mean)} on average of {batches:,}, the last {_span(last)}"


def _waiting(stats: Mapping[str, Any]) -> str:
    found = []
    if waiting := stats.get("waiting"):
        found.append(f"{counted(waiting, 'datagram')} for PostgreSQL, {_span(stats.get('lag_s', 0.0))}")
    if held := stats.get("held_bytes"):
        found.append(f"{render.size(held)} for what is missing before them")
    return "; ".join(found)


def _repeated(stats: Mapping[str, Any]) -> str:
    """Return what came again although it had arrived: acknowledgements take their time, or are lost."""
    stored = _mapping(stats.get("stored"))
    twice = stored.get("committed", 0) + stored.get("ignored", 0)
    return f"{counted(twice, 'datagram')}, to no effect" if twice else ""


def _set_aside(stats: Mapping[str, Any]) -> str:
    rejected = _mapping(stats.get("rejected"))
    rows = [f"{counted(sum(rejected.values()), 'row')} refused by PostgreSQL ({_named(rejected)})"]
    others = _worded(stats.get("stored"), _SET_ASIDE)
    return ", ".join([*(rows if rejected else ()), *([others] if others else ())])


def _lost(stats: Mapping[str, Any]) -> str:
    """Return what there was no room for; it is sent again."""
    kernel, queue = stats.get("kernel_drops", 0), _mapping(stats.get("received")).get("overflow", 0)
    found = [
        f"{counted(count, 'datagram')} {where}"
        for count, where in (
            (kernel, "in the kernel (net.core.rmem_max)"),
            (queue, "in a full queue"),
        )
        if count
    ]
    return ", ".join(found) + ("; sent again" if found else "")


def _slurm(stats: Mapping[str, Any]) -> str | None:
    passes = stats.get("slurm_passes")
    if passes is None:
        return "left to others (--no-reconcile)" if stats.get("reconciling") is False else None
    return f"asked {counted(passes, 'time')}, every {_span(stats.get('slurm_interval_s', 0.0))} or early"


def _asked(asked: Mapping[str, Any]) -> str:
    times, failures = int(asked.get("commands", 0)), int(asked.get("failures", 0))
    mean = asked.get("seconds", 0.0) / times if times else 0.0
    said = f"{counted(times, 'time')}, {_span(mean)} on average, {_span(asked.get('longest_s', 0.0))} at most"
    return said + (f", failed {counted(failures, 'time')}" if failures else "")


def _named(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _worded(counts: Any, words: Mapping[str, str]) -> str:
    known = _mapping(counts)
    return ", ".join(f"{known[name]:,} {said}" for name, said in words.items() if known.get(name))
