"""Run the benchmarks: ``python -m benchmarks [--output FILE] [--compare REVISION] [NAME ...]``.

Each module in the folders beside this one has ``measure()``, which yields `Result`s, and says in ``RESULTS``
what their names begin with. A result is judged by its ratio to a floor that was measured in the same run,
since machines are noisy; where the promise is absolute, by its value. With ``--compare`` the results are held
against those of another revision instead.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from benchmarks import compare
from benchmarks.result import Result

FOLDER = Path(__file__).parent


def modules() -> Iterator[ModuleType]:
    """Import the modules that measure something, in the order of their names."""
    for path in sorted(FOLDER.glob("*/*.py")):
        if path.stem != "__init__":
            yield importlib.import_module(f"benchmarks.{path.parent.name}.{path.stem}")


def discover(names: list[str]) -> Iterator[Result]:
    """Measure the results whose names begin with one of ``names`` (all, if empty)."""
    for module in modules():
        if names and not any(_overlap(name, begin) for name in names for begin in module.RESULTS):
            continue
        for result in module.measure():
            if not result.name.startswith(module.RESULTS):
                raise ValueError(f"{module.__name__}: {result.name} is not among its RESULTS")
            if not names or result.name.startswith(tuple(names)):
                yield result


def _overlap(name: str, begin: str) -> bool:
    return name.startswith(begin) or begin.startswith(name)


def main() -> int:
    """Measure or compare. The exit code is 1 if a target was missed, or a figure is worse than before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="only these, or a prefix such as stream.")
    parser.add_argument("--output", type=Path, help="also write the results as JSON")
    parser.add_argument("--compare", metavar="REVISION", help="measure this tree and a revision in turn")
    parser.add_argument("--rounds", type=int, default=5, help="with --compare: how often (default: 5)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends, too
    if arguments.compare:
        return _compare(arguments)
    print(f"{'benchmark':<44}{'value':>12} {'unit':<8}{'floor':>12}{'ratio':>8}  target")
    results = []
    for result in discover(arguments.names):
        results.append(result)
        print(result.line(), flush=True)
    _write(arguments.output, [result.record() for result in results])
    return 0 if all(result.met in (True, None) for result in results) else 1


def _compare(arguments: argparse.Namespace) -> int:
    comparisons = compare.compare(FOLDER.parent, arguments.compare, arguments.names, arguments.rounds)
    print(compare.heading(arguments.compare))
    for comparison in comparisons:
        print(comparison.line())
    _write(arguments.output, [comparison.record() for comparison in comparisons])
    return 1 if any(comparison.verdict is compare.Verdict.WORSE for comparison in comparisons) else 0


def _write(output: Path | None, records: list[dict[str, object]]) -> None:
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
