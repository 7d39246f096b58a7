"""Whole commands on small and large databases: what a person waits for.

The large database takes minutes to fill: HPCTRACK_BENCH_RUNS says how many runs it has, a million by default.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import bigdata
from benchmarks.result import Result, processes, timed
from benchmarks.site import Site, personal
from hpctrack.run import conditions
from hpctrack.store import database
from hpctrack.store.read import filters, lists
from hpctrack.stream.collector import launch

#: What the names of its results begin with.
RESULTS = ("cli.help", "cli.status", "cli.plot", "cli.metrics")

SMALL = 10_000
LARGE = int(os.environ.get("HPCTRACK_BENCH_RUNS", "1000000"))
#: Many runs meet it; hardly any does, so that all have to be looked at.
_COMMON = "args.lr < 0.01 and metrics.val_loss < 0.6"
_RARE = "args.lr < 0.00002 and metrics.val_loss < 0.4925"
#: Of a metric's least value: one run meets it, one in a hundred, and most.
_SUMMARIES = (("one", "min.val_loss < 0.3"), ("few", "min.val_loss < 0.5"), ("many", "min.val_loss < 0.6"))
_MAIN = [sys.executable, "-c", "from hpctrack.cli.main import main; main()"]
_IMPORTS = "import click, psycopg"
_PAGE = lists.Look(filters.RunFilter(archived=False), lists.NEWEST_FIRST, None, True, (), 51)


def measure() -> Iterator[Result]:
    """Measure ``--help``, ``status`` and ``plot``, each beside what it can't do without."""
    bare, ours = processes([[sys.executable, "-c", "pass"], [*_MAIN, "--help"]])
    yield Result("cli.help", ours, "ms", bare, target=4)
    with contextlib.ExitStack() as stack:
        small, large = stack.enter_context(personal()), stack.enter_context(personal())
        for site, runs in ((small, SMALL), (large, LARGE)):
            with contextlib.closing(site.connect()) as connection:
                bigdata.fill(connection, bigdata.Counts.of(runs))
        yield from _status(small, large)
        yield from _conditions(large)
        yield from _summaries(large)
        yield from _plot(large)
        yield from _users(large)


def _status(small: Site, large: Site) -> Iterator[Result]:
    floor, few, many = processes([_floor(large), _command(small, "status"), _command(large, "status")])
    yield Result(
        "cli.status", many, "ms", floor, target=1.5, note=f"{LARGE} runs; floor: imports, bare query"
    )
    yield Result("cli.status.growth", many, "ms", few, target=1.2, note=f"floor: with {SMALL} runs")


def _users(site: Site) -> Iterator[Result]:
    """An ordinary user's commands beside the owner's, on the same million runs, with policies that hide."""
    few = ("--allusers", "--where", _SUMMARIES[1][1], "--sort", "min.val_loss")
    looks = (
        ("user", ()),
        ("user.all", ("--allusers",)),
        ("user.where", ("--where", _COMMON)),
        ("user.summary", few),
    )
    fellow, stranger = site.user("user07", "lab"), site.user("newcomer", "none")
    for name, options in looks:
        given = [word for word in options if word != "--allusers"]
        asked = [_command(place, "status", *options) for place in (fellow, stranger)]
        owner, users, new = processes([_command(site, "status", *given), *asked], rounds=7)
        yield Result(f"cli.status.{name}", users, "ms", owner, target=1.5, note="floor: the owner's")
        yield Result(f"cli.status.{name}.new", new, "ms", owner, note="of whom no run is to be seen")
    owner, users = processes(
        [_command(place, "metrics", f"r{LARGE}", "--last") for place in (site, fellow)], 7
    )
    yield Result("cli.metrics.user", users, "ms", owner, target=1.5, note=f"{bigdata.LONG_SERIES} rows")


def _conditions(site: Site) -> Iterator[Result]:
    for name, condition in (("common", _COMMON), ("rare", _RARE)):
        (only,) = processes([_command(site, "status", "--where", condition)], rounds=5)
        yield Result(f"cli.status.where.{name}", only, "ms", target=1000, note=condition)


def _summaries(site: Site) -> Iterator[Result]:
    """Ask for the page alone, in the order of what the condition looks at."""
    order = filters.Sort.parse("min.val_loss")
    with contextlib.closing(site.connect()) as connection:
        for name, condition in _SUMMARIES:
            which = filters.RunFilter(where=conditions.parse(condition), archived=False)
            times = timed(lambda which=which: lists.fetch_page(connection, which, sort=order), 15)  # type: ignore[misc]
            page = lists.fetch_page(connection, which, sort=order)
            yield Result(
                f"cli.status.summary.{name}", statistics.median(times) / 1000, "ms", target=300,
                note=f"{condition}: {page.total} runs{'' if page.counted else ' or more'}; without imports",
            )  # fmt: skip


def _plot(site: Site) -> Iterator[Result]:
    (only,) = processes([_command(site, "plot", f"r{LARGE}", "val_loss")], rounds=5)
    yield Result("cli.plot", only, "ms", target=1500, note=f"{bigdata.LONG_SERIES} steps")


def _command(site: Site, *arguments: str) -> list[str]:
    environ = (f"{name}={value}" for name, value in launch.environment(site.settings).items())
    return ["env", *environ, *_MAIN, *arguments]


def _floor(site: Site) -> list[str]:
    """Return a program that imports the libraries and asks for the page, and no more."""
    parameters: dict[str, Any] = {**database.conninfo(site.settings), "options": "-c search_path=hpctrack"}
    query, values = lists.page_query(_PAGE, newest=True)
    with contextlib.closing(site.connect()) as connection:
        text = query.as_string(connection)
    ask = f"psycopg.connect(**{parameters!r}).execute({text!r}, {values!r}).fetchall()"
    return [sys.executable, "-c", f"{_IMPORTS}; {ask}"]
