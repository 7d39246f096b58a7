"""What collectors say of themselves, for people. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.text import Text

from hpctrack.cli.terminal import render, table
from hpctrack.run.words import counted
from hpctrack.stream.collector.figures import Figures
from hpctrack.view import notation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from hpctrack.store.write.collectors import CollectorRow
    from hpctrack.stream.collector.figures import Program


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
    figures = Figures.from_json(row.stats)
    lines = _lines(figures)
    up = row.heartbeat - row.started + timedelta(seconds=row.silent)
    yield "since", f"{notation.moment(row.started)}, for {notation.duration(up)}"
    yield "listens on", " ".join(row.addresses)
    yield "trouble", _warning(figures.trouble)
    yield "received", ", ".join([*_received(figures), *lines.pop("received", ())])
    yield "refused", _named(figures.refused())
    yield "stored", _stored(figures)
    yield "a commit", _commit(figures)
    yield "waiting", _waiting(figures)
    yield "out of order", ", ".join(lines.pop("out of order", ()))
    yield "repeated", _repeated(figures)
    yield "set aside", ", ".join([*_rejected(figures), *lines.pop("set aside", ())])
    yield "lost", _lost(lines.pop("lost", ()))
    for label, said in lines.items():
        yield label, ", ".join(said)
    yield "Slurm", _slurm(figures)
    yield "", _warning(figures.slurm_trouble)
    for program, asked in sorted(figures.slurm_commands.items()):
        yield program, _asked(asked)


def _lines(figures: Figures) -> dict[str, list[str]]:
    """Return what the figures say of themselves, by the line of the page that has it."""
    lines: dict[str, list[str]] = {}
    for _, (_, meaning, value) in figures.walk():
        if meaning.line is not None and value:
            label, words, unit = meaning.line
            number = counted(value, unit) if unit else f"{value:,}"
            lines.setdefault(label, []).append(f"{number} {words}")
    return lines


def _warning(trouble: str | None) -> Text | None:
    return Text(render.clean(trouble), render.WARNING) if trouble else None


def _span(seconds: float) -> str:
    """Return a wait: milliseconds, seconds, or as squeue writes it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else notation.duration(timedelta(seconds=seconds))


def _received(figures: Figures) -> list[str]:
    received = figures.received
    return [counted(received.datagrams or 0, "datagram"), notation.size(received.bytes or 0)]


def _stored(figures: Figures) -> str:
    rows, messages = (
        counted(figures.stored.rows or 0, "row"),
        counted(figures.stored.messages or 0, "message"),
    )
    return f"{rows}, {messages}; {counted(figures.streams or 0, 'journal')} open"


def _commit(figures: Figures) -> str | None:
    batches = figures.stored.batches
    if not batches:
        return None
    mean, last = (figures.commit_total_s or 0.0) / batches, figures.commit_s or 0.0
    return f"{_span(mean)} on average of {batches:,}, the last {_span(last)}"


def _waiting(figures: Figures) -> str:
    said = []
    if figures.waiting:
        said.append(f"{counted(figures.waiting, 'datagram')} for PostgreSQL, {_span(figures.lag_s or 0.0)}")
    if figures.held_bytes:
        said.append(f"{notation.size(figures.held_bytes)} for what is missing before them")
    return "; ".join(said)


def _repeated(figures: Figures) -> str:
    """Return what came again although it had arrived: acknowledgements take their time, or are lost."""
    twice = (figures.stored.committed or 0) + (figures.stored.ignored or 0)
    return f"{counted(twice, 'datagram')}, to no effect" if twice else ""


def _rejected(figures: Figures) -> list[str]:
    rejected = figures.rejected
    rows = counted(sum(rejected.values()), "row")
    return [f"{rows} refused by PostgreSQL ({_named(rejected)})"] if rejected else []


def _lost(said: Sequence[str]) -> str:
    """Return what there was no room for; it is sent again."""
    return ", ".join(said) + ("; sent again" if said else "")


def _slurm(figures: Figures) -> str | None:
    passes = figures.slurm_passes
    if passes is None:
        return "left to others (--no-reconcile)" if figures.reconciling is False else None
    return f"asked {counted(passes, 'time')}, every {_span(figures.slurm_interval_s or 0.0)} or early"


def _asked(program: Program) -> str:
    times, failures = program.commands or 0, program.failures or 0
    mean = (program.seconds or 0.0) / times if times else 0.0
    said = f"{counted(times, 'time')}, {_span(mean)} on average, {_span(program.longest_s or 0.0)} at most"
    return said + (f", failed {counted(failures, 'time')}" if failures else "")


def _named(counts: Mapping[str, int]) -> str:
    """Return counts with their names; those that are 0 are left out."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)
