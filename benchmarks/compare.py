"""Two revisions side by side: each figure as a ratio, with its spread over the rounds.

In each round both trees measure themselves, each with its own ``python -m benchmarks``: one right after the
other, and in every second round the other way round, so that a machine that becomes slower meanwhile hits
both. A figure is called better or worse only if every round says so, and by more than `NOTICEABLE`.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.result import ENVIRON

#: By how much the median ratio has to differ from 1.
NOTICEABLE = 0.03


class Verdict(enum.Enum):
    """What the rounds say together."""

    BETTER = "better"
    WORSE = "WORSE"
    NOISE = "within noise"
    ALONE = "not in both"


class Comparison(NamedTuple):
    """One figure in both trees, a value for each round; empty where a tree has no such figure."""

    name: str
    unit: str
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()

    @property
    def ratios(self) -> list[float]:
        """After over before, round by round."""
        return [after / before for before, after in zip(self.before, self.after, strict=False) if before]

    @property
    def verdict(self) -> Verdict:
        """Whether the figure has changed, as far as the rounds can tell."""
        ratios = self.ratios
        if not (self.before and self.after):
            return Verdict.ALONE
        if not ratios or abs(statistics.median(ratios) - 1) <= NOTICEABLE:
            return Verdict.NOISE
        if min(ratios) <= 1 <= max(ratios):
            return Verdict.NOISE
        more_is_better = self.unit.endswith("/s")
        return Verdict.BETTER if (min(ratios) > 1) is more_is_better else Verdict.WORSE

    def record(self) -> dict[str, object]:
        """Return what ``--output`` writes."""
        return {**self._asdict(), "ratios": self.ratios, "verdict": self.verdict.value}

    def line(self) -> str:
        """Return the line of the table."""
        before, after = (f"{statistics.median(side):.4g}" if side else "-" for side in self[2:])
        ratios = self.ratios
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
        figures = f"{before:>12}{after:>12} {self.unit:<8}{ratio:>8}  {spread:<16}"
        return f"{self.name:<44}{figures}{self.verdict.value}"


def heading(revision: str) -> str:
    """Return the first line of the table."""
    figures = f"{revision[:11]:>12}{'this tree':>12} {'unit':<8}{'ratio':>8}  {'spread':<16}"
    return f"{'benchmark':<44}{figures}verdict"


def compare(root: Path, revision: str, names: Sequence[str], rounds: int) -> list[Comparison]:
    """Measure the tree at ``root`` and a revision of it in turn, in so many rounds.

    Raises `subprocess.CalledProcessError` for a revision that git does not have, RuntimeError where a tree's
    benchmarks fail.
    """
    with _checkout(root, revision) as other:
        sides = {"before": other, "after": root}
        figures: dict[str, Comparison] = {}
        for number in range(rounds):
            for side in sorted(sides, reverse=number % 2 == 0):
                began = time.monotonic()
                for measured in _measure(sides[side], names):
                    figure = figures.setdefault(
                        measured["name"], Comparison(measured["name"], measured["unit"])
                    )
                    values = (*getattr(figure, side), measured["value"])
                    figures[figure.name] = figure._replace(**{side: values})
                spent = time.monotonic() - began
                print(f"round {number + 1} of {rounds}: {side}, {spent:.0f} s", file=sys.stderr, flush=True)
    return list(figures.values())


@contextlib.contextmanager
def _checkout(root: Path, revision: str) -> Iterator[Path]:
    """Unpack a revision into a folder that goes away afterwards."""
    packed = subprocess.run(
        ["git", "-C", str(root), "archive", revision], check=True, stdout=subprocess.PIPE
    ).stdout
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="hpctrack-compare-") as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
        yield Path(folder)


def _measure(tree: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Run a tree's benchmarks on its own package; return the records that they write."""
    with tempfile.NamedTemporaryFile(suffix=".json") as output:
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--output", output.name, *names],
            cwd=tree,
            env={**ENVIRON, "PYTHONPATH": os.fspath(tree)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,  # 1: a target was missed
        )
        written = output.read()
    if not written:
        raise RuntimeError(f"the benchmarks of {tree} failed:\n{run.stdout[-2000:]}")
    return list(json.loads(written))
