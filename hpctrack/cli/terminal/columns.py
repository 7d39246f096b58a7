"""The named columns of ``status --format``, and runs as CSV and as sacct's parsable lines. Pure."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.text import Text

from hpctrack import errors
from hpctrack.cli.terminal import render, table
from hpctrack.run import conditions
from hpctrack.text import nearest, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from hpctrack.run.efficiency import Resources
    from hpctrack.store.read.queries import RunRow

DEFAULT = "run,job,user,experiment,name,state,elapsed,limit,nodes,step"
"""What CSV and parsable output have without ``--format``."""
_SPEC = re.compile(r"""((?:args|tags|metrics)\.(?:"[^"]+"|'[^']+')|[^,%]+)(?:%([0-9]{1,4}))?(?:,|\Z)""")


class Column(NamedTuple):
    """A column that can be asked for."""

    help: str
    value: Callable[[RunRow, datetime], Any]
    """What it holds, as `render.jsonable` takes it."""
    text: Callable[[Any], str] | None = None
    """How people read it, if not as it stands."""
    justify: Literal["left", "right"] = "left"
    resources: bool = False
    """Whether it needs the run's resources, which have to be asked for."""


class Chosen(NamedTuple):
    """A column of a list, in its place."""

    header: str
    column: Column
    width: int | None = None
    """Longer cells are cut."""


def _length(
    help_text: str, value: Callable[[RunRow, datetime], Any]
) -> Column:  # the one kind that several columns are of
    return Column(help_text, value, render.duration, "right")


def _used(
    help_text: str, value: Callable[[Resources], Any], text: Callable[[Any], str] | None = None
) -> Column:  # of the latest attempt
    def of_run(run: RunRow, _now: datetime) -> Any:
        return None if run.resources is None else value(run.resources)

    return Column(help_text, of_run, text, "right", resources=True)


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "run": Column("the run's own id, r7", lambda run, _: f"r{run.id}"),
        "job": Column("Slurm's job id: 14, 14_3", lambda run, _: run.job),
        "jobid": Column("raw job id", lambda run, _: run.slurm_job_id, justify="right"),
        "array": Column("id of the job array", lambda run, _: run.array_job_id, justify="right"),
        "task": Column("task of the job array", lambda run, _: run.array_task_id, justify="right"),
        "name": Column("the job's name", lambda run, _: run.job_name),
        "experiment": Column("the experiment's name", lambda run, _: run.experiment),
        "user": Column("whose run it is", lambda run, _: run.user_name),
        "cluster": Column("Slurm's ClusterName", lambda run, _: run.cluster),
        "partition": Column("Slurm's partition", lambda run, _: run.partition),
        "account": Column("Slurm's account", lambda run, _: run.account),
        "qos": Column("Slurm's quality of service", lambda run, _: run.qos),
        "nodes": Column("node list: n[1-4]", lambda run, _: run.node_list),
        "state": Column("Slurm's job state", lambda run, _: run.status),
        "reason": Column("Slurm's reason", lambda run, _: run.reason),
        "restarts": Column("0 for the first attempt", lambda run, _: run.attempt, justify="right"),
        "exit": Column(
            "how the script itself ended: 3, SIGSEGV",
            lambda run, _: (
                None
                if run.exit_code is None and not run.exit_signal
                else render.exit_text(run.exit_code, run.exit_signal)
            ),
        ),
        "submitted": Column("when it was submitted", lambda run, _: run.time_created, render.moment),
        "started": Column("when the latest attempt started", lambda run, _: run.time_started, render.moment),
        "ended": Column("when it was over", lambda run, _: run.time_ended, render.moment),
        "elapsed": _length("how long it has run, or ran", lambda run, now: run.elapsed(now)),
        "waited": _length("how long it waited for its start", lambda run, now: run.waited(now)),
        "limit": _length("time limit", lambda run, _: run.time_limit),
        "step": Column("step of the latest row of metrics", lambda run, _: run.last_step, justify="right"),
        "rows": Column("rows of metrics that arrived", lambda run, _: run.rows, justify="right"),
        "lost": Column("lines lost, torn or rejected", lambda run, _: run.lost, justify="right"),
        "cpus": _used("processors that it was given", lambda used: used.cpus),
        "cputime": _used("processor time that it used", lambda used: _seconds(used.cpu_s), render.duration),
        "cpueff": _used("share of its processors' time that it used", lambda used: used.cpu, render.percent),
        "reqmem": _used("memory that it asked for", lambda used: used.memory_requested_bytes, render.size),
        "maxmem": _used("most memory that it used", lambda used: used.memory_used_bytes, render.size),
        "memeff": _used("share of its memory that it used", lambda used: used.memory, render.percent),
        "timeeff": _used("share of its time limit that it used", lambda used: used.time, render.percent),
        "note": Column("what somebody noted about it", lambda run, _: run.comment),
        "remarks": Column(
            "what is worth saying beside the state", lambda run, _: ", ".join(render.notes(run)) or None
        ),
        "tags": Column("all tags", lambda run, _: run.tags),
        "args": Column("all arguments", lambda run, _: run.args),
        "latest": Column("latest value of each metric", lambda run, _: run.last),
    }
)


def _seconds(count: float | None) -> timedelta | None:
    return None if count is None else timedelta(seconds=count)


def need_resources(chosen: Sequence[Chosen] | None) -> bool:
    """Whether any of the columns shows resources."""
    return any(one.column.resources for one in chosen or ())


def parse(text: str) -> tuple[Chosen, ...]:
    """Read ``run,name%20,args.lr``; a number behind % bounds the width. Raises `errors.UsageError`."""
    found = []
    position = 0
    while position < len(text):
        match = _SPEC.match(text, position)
        if match is None:
            raise errors.UsageError(f"{text!r} is no list of columns: write run,name%20,args.lr")
        found.append(_choose(match[1].strip(), None if match[2] is None else max(int(match[2]), 1)))
        position = match.end()
    if not found:
        raise errors.UsageError("--format needs names of columns: --format help lists them")
    return tuple(found)


def _choose(name: str, width: int | None) -> Chosen:
    lowered = name.lower()
    if lowered in COLUMNS:
        return Chosen(lowered, COLUMNS[lowered], width)
    scope, dot, _ = lowered.partition(".")
    if not dot or scope not in conditions.SCOPES:
        hint = nearest.of_ours(name, conditions.alike(name, COLUMNS), *conditions.SCOPED)
        raise errors.UsageError(f"{name!r} is no column: {hint}")
    key = conditions.field(name).name
    attribute = {"metrics": "last"}.get(scope, scope)
    column = Column(name, lambda run, _: conditions.element(getattr(run, attribute), key), justify="right")
    return Chosen(name, column, width)


def explain() -> str:
    """Return the list of columns for ``--format help``."""
    lines = [f"{name:<12}{column.help}" for name, column in COLUMNS.items()]
    lines += ["args.NAME   one argument", "tags.NAME   one tag", "metrics.NAME  latest value of one metric"]
    return "\n".join([*lines, "", "A number behind % bounds the width: name%20"])


def build(
    chosen: Sequence[Chosen], runs: Sequence[RunRow], now: datetime, *, plain: bool
) -> list[table.Column]:
    """Return the columns of a table."""
    return [
        table.Column(
            render.clean(one.header), [_cell(one, run, now, plain=plain) for run in runs], one.column.justify
        )
        for one in chosen
    ]


def _cell(one: Chosen, run: RunRow, now: datetime, *, plain: bool) -> Text:
    cell = render.state(run.status, plain=plain) if one.header == "state" else Text(_text(one, run, now))
    if one.width is not None and cell.cell_len > one.width and plain:
        cell.truncate(one.width - 1, overflow="crop")
        cell.append("+")  # as sacct does
    elif one.width is not None:
        cell.truncate(one.width, overflow="ellipsis")
    return cell


def _text(one: Chosen, run: RunRow, now: datetime) -> str:
    value = one.column.value(run, now)
    if value is None:
        return render.UNKNOWN
    if one.column.text is not None:
        return render.clean(one.column.text(value))
    return render.number(value)


def csv_lines(chosen: Sequence[Chosen], runs: Iterable[RunRow], now: datetime) -> Iterator[str]:
    """Yield runs as RFC 4180 has them: times in ISO 8601 in UTC, lengths in seconds, unknown is empty."""
    yield _csv([one.header for one in chosen])
    for run in runs:
        yield _csv([_machine(one.column.value(run, now)) for one in chosen])


def _csv(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(visible.cell, cells))
    return text.getvalue()


def _machine(value: object) -> object:
    found = render.jsonable(value)
    if isinstance(found, dict | list):
        return json.dumps(found, ensure_ascii=False)
    if isinstance(found, bool):
        return "true" if found else "false"
    return found


def parsable_lines(chosen: Sequence[Chosen], runs: Iterable[RunRow], now: datetime) -> Iterator[str]:
    """Yield runs as ``sacct --parsable2`` does: cells as people read them, parted by ``|``."""
    yield "|".join(one.header for one in chosen) + "\n"
    for run in runs:
        cells = (_cell(one, run, now, plain=True).plain.replace("|", "\\x7c") for one in chosen)
        yield "|".join("" if cell == render.UNKNOWN else cell for cell in cells) + "\n"
