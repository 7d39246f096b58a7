"""``hpctrack status``: the runs, their states and latest metrics, as PostgreSQL knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from hpctrack import errors, settings
from hpctrack.cli import common, completion, render, table
from hpctrack.store import lookup, queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from hpctrack.model import RunStatus
    from hpctrack.runids import RunRef
    from hpctrack.store.database import Connection

Drawn = Table | Text

#: Latest values that a line shows; all of them are in ``hpctrack show``.
_METRICS = 6


@dataclass(frozen=True)
class Question:
    """What to list."""

    refs: tuple[RunRef, ...]
    statuses: tuple[RunStatus, ...]
    users: tuple[str, ...]
    mine: bool
    experiment: str | None
    since: datetime | None
    limit: int

    @property
    def filtered(self) -> bool:
        """Whether anything narrows the list."""
        return bool(
            self.refs or self.statuses or self.users or self.mine or self.experiment or self.since is not None
        )


@dataclass(frozen=True)
class Answer:
    """What PostgreSQL says; runs in the order of their ids."""

    now: datetime
    runs: list[queries.RunRow]
    counts: dict[RunStatus, int]
    clusters: list[queries.Cluster]


def ask(connection: Connection, question: Question) -> Answer:
    """Ask PostgreSQL. Raises `errors.RunNotFound` for an id that names no run."""
    session = queries.session(connection)
    mine = lookup.my_names(connection) if question.mine else ()
    which = queries.RunFilter(
        ids=lookup.find_all(connection, question.refs) if question.refs else None,
        statuses=question.statuses or None,
        users=(*question.users, *mine) or None,
        experiment=question.experiment,
        since=question.since,
    )
    return Answer(
        session.now,
        queries.list_runs(connection, which, question.limit)[::-1],
        queries.count_runs(connection, which),
        queries.clusters(connection),
    )


def draw(answer: Answer, question: Question, width: int, *, plain: bool) -> list[Drawn]:
    """Return what to print for an answer."""
    if not answer.runs:
        return [*_warnings(answer), Text(_nothing(question))]
    return [
        table.build(columns(answer.runs, answer.now, plain=plain), width),
        *_warnings(answer),
        Text(summary(answer), style="dim"),
    ]


def columns(runs: Sequence[queries.RunRow], now: datetime, *, plain: bool) -> list[table.Column]:
    """Return the table's columns; in a pipe always all of them, so that they keep their places."""

    def column(header: str, cells: list[Any], **how: Any) -> table.Column:
        texts = [cell if isinstance(cell, Text) else Text(render.clean(cell)) for cell in cells]
        return table.Column(header, [text or Text(render.UNKNOWN, "dim") for text in texts], **how)

    users = column("user", [run.user_name for run in runs], least=6, drop=4)
    notes = column("note", [", ".join(render.notes(run)) for run in runs], least=12, drop=6)
    several = plain or len({run.user_name for run in runs}) > 1
    noted = plain or any(map(render.notes, runs))
    return [
        column("run", [f"r{run.id}" for run in runs]),
        column("job", [run.job or "" for run in runs]),
        *([users] if several else []),
        column("experiment", [run.experiment for run in runs], least=8, drop=3),
        column("name", [run.job_name or "" for run in runs], least=8),
        column("state", [render.state(run.status, plain=plain) for run in runs]),
        column("elapsed", [render.duration(run.elapsed(now)) for run in runs], justify="right"),
        column("limit", [render.duration(run.time_limit) for run in runs], justify="right", drop=1),
        column("nodes", [run.node_list or "" for run in runs], least=6, drop=2),
        column("step", ["" if run.last_step is None else run.last_step for run in runs], justify="right"),
        *([notes] if noted else []),
        column("latest", [_latest(run) for run in runs], least=22, drop=5),
    ]


def summary(answer: Answer) -> str:
    """Return the line that counts the runs by state."""
    total = sum(answer.counts.values())
    counts = ", ".join(f"{count} {status.value}" for status, count in answer.counts.items())
    shown = f" (the newest {len(answer.runs)} are shown, see --limit)" if len(answer.runs) < total else ""
    return f"{total} {'run' if total == 1 else 'runs'}: {counts}{shown}"


def _latest(run: queries.RunRow) -> Text:
    text = render.pairs(dict(sorted(run.last.items())[:_METRICS]))
    return text.append(" ...", "dim") if len(run.last) > _METRICS else text


def _warnings(answer: Answer) -> list[Text]:
    lines = (render.cluster_warning(cluster, answer.now) for cluster in answer.clusters)
    return [Text(line, style=render.WARNING) for line in lines if line is not None]


def _nothing(question: Question) -> str:
    if question.filtered:
        return "No run matches. hpctrack status without filters lists all runs."
    return (
        "No runs yet. Submit one: hpctrack sbatch train.sh, or run one here: hpctrack run -- python train.py"
    )


@click.command()
@common.optional_runs_argument
@click.option("--me", "mine", is_flag=True, help="My runs only.")
@click.option("--user", "users", multiple=True, help="Runs of this user (several: repeat).")
@click.option(
    "-t", "--state", "statuses", multiple=True, callback=common.states, metavar="STATES",
    shell_complete=completion.states, help="Slurm's states, any case, also compact: --state PD,R.",
)  # fmt: skip
@click.option("-E", "--experiment", shell_complete=completion.experiments, help="Runs of this experiment.")
@click.option(
    "--since", callback=common.since, metavar="TIME", help="Submitted since: 2d, 3h, 30min, 2026-01-31."
)
@click.option(
    "-l",
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="So many runs at most, the newest.",
)
@common.json_option
@click.option(
    "-w", "--watch", is_flag=True, help="Redraw until q is pressed, or until all runs asked for have ended."
)
@click.option(
    "--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between redraws."
)
@common.config_option
def command(*, as_json: bool, watch: bool, interval: float, config_path: str | None, **asked: Any) -> None:
    """List runs, the newest last.

    RUN is a Slurm job id (14, an array with all its tasks; 14_3, one task), a run's own id (r7), or the
    beginning of its job's name. What is shown comes from PostgreSQL; Slurm is not asked.
    """
    if as_json and watch:
        raise errors.UsageError("--json and --watch do not go together: ask again whenever you like")
    question = Question(**asked)
    configuration = settings.load(config_path=config_path)
    if watch:
        from hpctrack.cli import watching

        watching.watch(configuration, question, interval)
        return
    with common.connected(configuration) as connection:
        answer = ask(connection, question)
    if as_json:
        click.echo(render.to_json(to_object(answer)))
        return
    output = table.Output()
    output.print(*draw(answer, question, output.width, plain=output.plain))


def to_object(answer: Answer) -> dict[str, Any]:
    """Return an answer as the object that ``--json`` prints."""
    return {
        "time": answer.now,
        "runs": [render.run_json(run, answer.now) for run in answer.runs],
        "counts": {status.value: count for status, count in answer.counts.items()},
        "clusters": [render.record_json(cluster) for cluster in answer.clusters],
    }
