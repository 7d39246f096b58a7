"""What a benchmark yields, and the few ways in which it measures."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

#: With bytecode caches, as an installation has them.
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Result:
    """One figure. ``target`` bounds ``ratio`` if there is a floor, else ``value``; None: only reported."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Value over floor."""
        return self.value / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        judged = self.value if self.ratio is None else self.ratio
        return judged >= self.target if self.at_least else judged <= self.target

    def record(self) -> dict[str, object]:
        """Return the record for ``build/bench.json``."""
        fields = asdict(self)
        return {
            **{key: fields[key] for key in ("name", "value", "unit", "floor")},
            "ratio": self.ratio,
            "target": self.target,
            "met": self.met,
            "note": self.note,
        }

    def line(self) -> str:
        """Return the line of the table."""
        floor = "" if self.floor is None else f"{self.floor:.4g}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        target = "" if self.target is None else f"{'>=' if self.at_least else '<='} {self.target:g}"
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        figures = f"{self.value:>12.4g} {self.unit:<8}{floor:>12}{ratio:>8}"
        return f"{self.name:<44}{figures}  {target} {verdict} {self.note}".rstrip()


def timed(call: Callable[[], object], count: int) -> list[float]:
    """Return the microseconds of each of ``count`` calls."""
    clock = time.perf_counter_ns
    times = []
    for _ in range(count):
        begin = clock()
        call()
        times.append((clock() - begin) / 1000)
    return times


def processes(commands: Sequence[Sequence[str]], rounds: int = 15) -> list[float]:
    """Run whole processes in turn, round by round, so that drift hits all; return the median ms of each."""
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(rounds + 1):
        for index, command in enumerate(commands):
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=ENVIRON)
            times[index].append((time.perf_counter() - begin) * 1000)
    return [statistics.median(column[1:]) for column in times]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
