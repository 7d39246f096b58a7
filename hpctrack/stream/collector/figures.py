"""What a collector counts and measures: one declaration for each figure, for everybody who tells of it.

The collector makes `Figures` for each heartbeat. `Figures.to_json` is what stands in ``collectors.stats`` and
what ``hpctrack collector --status --json`` prints; `Figures.from_json` reads it, whatever version wrote it.
The page of ``--status`` and the exporter for Prometheus `walk` the figures: a field that is added here is in
all of them. Pure.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hpctrack.stream.collector.reassembly import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Why a datagram is refused whose run nobody knows.
UNKNOWN_RUN = "unknown run"

_T = TypeVar("_T")


class FigureKind(enum.Enum):
    """What a figure is for Prometheus."""

    COUNTER = enum.auto()
    """It only grows, from the collector's start on."""
    GAUGE = enum.auto()
    """As of now."""
    PART = enum.auto()
    """Nothing by itself: it is told together with others."""


class Line(NamedTuple):
    """Where the page tells a figure that is not 0: on which line, and with which words after the number."""

    label: str
    words: str
    unit: str = ""
    """What is counted, if the words do not say it: in the singular."""


class Meaning(NamedTuple):
    """What a figure means."""

    kind: FigureKind
    help: str
    line: Line | None = None
    """None where the page says it in a sentence of its own, or does not."""
    name: str = ""
    """What Prometheus calls it, if it is not called like the field."""


class Told(NamedTuple):
    """A figure of a record, with its value; None where that is not known."""

    field: str
    meaning: Meaning
    value: Any


def counter(text: str, line: Line | None = None, name: str = "") -> Any:
    """Declare a field that only grows."""
    return _declare(Meaning(FigureKind.COUNTER, text, line, name))


def gauge(text: str, line: Line | None = None, name: str = "") -> Any:
    """Declare a field that tells how things are now."""
    return _declare(Meaning(FigureKind.GAUGE, text, line, name))


def part(text: str, line: Line | None = None) -> Any:
    """Declare a field that Prometheus gets together with others."""
    return _declare(Meaning(FigureKind.PART, text, line))


def _declare(meaning: Meaning) -> Any:
    return field(default=None, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Received:
    """What the thread that receives counts, all but `refused` by name."""

    datagrams: int | None = counter("Datagrams that arrived")
    bytes: int | None = counter("Bytes of datagrams that arrived")
    accepted: int | None = counter("Datagrams with data under the right key")
    pings: int | None = counter(
        "Pings under the right key, which are answered at once",
        Line("received", "of hpctrack doctor", "ping"),
    )
    overflow: int | None = counter(
        "Datagrams left out because the queue was full; they come again",
        Line("lost", "in a full queue", "datagram"),
    )
    refused: Mapping[str, int] = field(default_factory=dict)
    """Datagrams that changed nothing, by reason. In JSON they stand beside the others."""


@dataclass(frozen=True)
class Stored:
    """What the thread that stores counts."""

    committed: int | None = part("Datagrams whose data was in PostgreSQL already")
    joined: int | None = part("Datagrams whose data joined a batch")
    held: int | None = part(
        "Datagrams that waited for what was missing before them",
        Line("out of order", "held for what was missing before them"),
    )
    dropped: int | None = part(
        "Datagrams without room, or to be cut anew: they come again", Line("out of order", "asked for again")
    )
    ignored: int | None = part("Datagrams whose data was in a batch already")
    rows: int | None = counter("Rows of metrics that were committed")
    messages: int | None = counter("Messages that were committed")
    batches: int | None = counter("Transactions of data")
    pieces: int | None = part("Ranges of journals that were stored")
    refusals: int | None = part("How often PostgreSQL refused lines while those to blame were looked for")
    duplicates: int | None = counter("Ranges of journals that were in PostgreSQL already")
    replaced: int | None = counter("Rows of an earlier attempt that a later one replaced")
    rejected: int | None = counter("Rows that PostgreSQL refused for their content")
    torn: int | None = counter("Damaged lines of journals", Line("set aside", "lines damaged"))
    malformed: int | None = counter(
        "Messages that could not be understood", Line("set aside", "messages not understood")
    )
    homeless: int | None = counter(
        "Ranges of journals of runs that were deleted", Line("set aside", "for deleted runs")
    )
    put_off: int | None = counter("Ranges of journals of runs that another session held; they come again")

    def verdicts(self) -> dict[str, int]:
        """Return what became of datagrams with data."""
        names = [verdict.name.lower() for verdict in Verdict]
        return {name: getattr(self, name) or 0 for name in names}


@dataclass(frozen=True)
class Program:
    """What one of Slurm's programs was asked."""

    commands: int | None = counter("Commands sent to Slurm")
    failures: int | None = counter("Commands that failed")
    seconds: float | None = counter("Time that Slurm took to answer")
    longest_s: float | None = part("The longest time for one answer")


@dataclass(frozen=True)
class Figures:
    """What a collector did since it started, and how it is."""

    uptime_s: float | None = gauge("Since the collector started", name="uptime_seconds")
    unknown_runs: int | None = part("Datagrams that waited for runs that turned out not to exist")
    kernel_drops: int | None = counter(
        "Datagrams that the kernel dropped (SO_RXQ_OVFL)",
        Line("lost", "in the kernel (net.core.rmem_max)", "datagram"),
    )
    waiting: int | None = gauge("Datagrams that wait to be stored", name="queued_datagrams")
    lag_s: float | None = gauge("For how long the oldest of them has waited", name="lag_seconds")
    streams: int | None = gauge("Journals that are remembered", name="open_streams")
    held_bytes: int | None = gauge("Bytes held because something before them is missing")
    commit_s: float | None = part("Seconds from a complete batch to its commit, of the last one")
    commit_total_s: float | None = part("The same of all batches together")
    slurm_passes: int | None = counter("Comparisons with Slurm")
    slurm_interval_s: float | None = part("Seconds from one comparison to the next, as of now")
    received: Received = Received()
    stored: Stored = Stored()
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Rows set aside, by SQLSTATE."""
    slurm_commands: Mapping[str, Program] = field(default_factory=dict)
    """What Slurm was asked, by program."""
    reconciling: bool | None = None
    """Whether this collector is the one that asks Slurm."""
    trouble: str | None = None
    """What is wrong with PostgreSQL."""
    slurm_trouble: str | None = None
    """Why the last question to Slurm was not answered."""

    def refused(self) -> dict[str, int]:
        """Return why datagrams changed nothing, and how many; those of unknown runs come again."""
        refused = dict(self.received.refused)
        refused[UNKNOWN_RUN] = refused.get(UNKNOWN_RUN, 0) + (self.unknown_runs or 0)
        return refused

    def walk(self) -> Iterator[tuple[str, Told]]:
        """Yield each figure that stands for itself, after what Prometheus puts before its name."""
        for prefix, record in (("", self), ("received_", self.received), ("stored_", self.stored)):
            for figure in told(record):
                yield prefix, figure

    def to_json(self) -> dict[str, Any]:
        """Return the object of ``collectors.stats``. Numbers that are not known are left out."""
        return {
            **_known(self),
            "received": {**_known(self.received), **self.received.refused},
            "stored": _known(self.stored),
            "rejected": dict(self.rejected),
            "slurm_commands": {name: _known(program) for name, program in self.slurm_commands.items()},
            "reconciling": self.reconciling,
            "trouble": self.trouble,
            "slurm_trouble": self.slurm_trouble,
        }

    @classmethod
    def from_json(cls, stats: object) -> Figures:
        """Read what a collector of any version has put into ``collectors.stats``; never raises."""
        given = _object(stats)
        received = _numbers(given.get("received"))
        names = {figure.field for figure in told(Received())}
        commands = _object(given.get("slurm_commands"))
        return dataclasses.replace(
            of(cls, _numbers(given)),
            received=dataclasses.replace(
                of(Received, received),
                refused={reason: count for reason, count in received.items() if reason not in names},
            ),
            stored=of(Stored, _numbers(given.get("stored"))),
            rejected=_numbers(given.get("rejected")),
            slurm_commands={name: of(Program, _numbers(counts)) for name, counts in commands.items()},
            reconciling=_is(bool, given.get("reconciling")),
            trouble=_is(str, given.get("trouble")),
            slurm_trouble=_is(str, given.get("slurm_trouble")),
        )


def told(record: Any) -> Iterator[Told]:
    """Yield the figures of a record, in the order in which they are declared."""
    for declared in dataclasses.fields(record):
        if "meaning" in declared.metadata:
            yield Told(declared.name, declared.metadata["meaning"], getattr(record, declared.name))


def of(record: type[_T], numbers: Mapping[str, float]) -> _T:
    """Make a record of numbers by the names of its figures; others are left out."""
    names = {figure.field for figure in told(record())}
    return record(**{name: value for name, value in numbers.items() if name in names})


def _known(record: Any) -> dict[str, float]:
    return {figure.field: figure.value for figure in told(record) if figure.value is not None}


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(value: object) -> dict[str, Any]:
    """Return the numbers of an object; of anything else, and of what is none in it, nothing."""
    return {name: number for name, number in _object(value).items() if type(number) in (int, float)}


def _is(kind: type[_T], value: object) -> _T | None:
    return value if isinstance(value, kind) else None
