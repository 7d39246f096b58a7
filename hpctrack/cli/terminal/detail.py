"""One run in full, for people and as JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from hpctrack.cli.common import counted
from hpctrack.cli.terminal import render, table, used
from hpctrack.model import RunStatus
from hpctrack.run import states
from hpctrack.run.states import Ends, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rich.console import RenderableType

    from hpctrack.model import Attempt, Transition
    from hpctrack.run.efficiency import Resources
    from hpctrack.store.metrics.series import Series
    from hpctrack.store.read.queries import Losses, Relative, Run, Submission, Usage

_INDENT = 2
#: Lines of a failure's stderr that are shown; the whole tail is in ``--json``.
_TAIL = 20


@dataclass(frozen=True)
class Story:
    """Everything that PostgreSQL knows about a run."""

    now: datetime
    run: Run
    submission: Submission | None
    transitions: list[Transition]
    attempts: list[Attempt]
    usage: list[Usage]
    resources: list[Resources]
    losses: Losses
    relatives: list[Relative]
    series: list[Series]

    def environment(self) -> dict[str, Any] | None:
        """Return the environment that the run began with; None where its owner keeps it to himself."""
        return None if self.submission is None else environment(self.run, self.submission)


def environment(run: Run, submission: Submission) -> dict[str, Any]:
    """Return the submission's environment with what differs on the node; a null there: not set."""
    told = [env for env in (submission.env, run.env) if isinstance(env, dict)]
    merged = {name: value for env in told for name, value in env.items()}
    return {name: value for name, value in sorted(merged.items()) if value is not None}


def sparkline_width(output: table.Output) -> int:
    """Return how many blocks a sparkline may have."""
    return 40 if output.width >= 110 else 20


def draw(story: Story, output: table.Output) -> list[RenderableType]:
    """Return what to print."""
    width = output.width - _INDENT
    parts: list[RenderableType] = [
        _headline(story, output),
        Text(),
        _indented(table.facts(_fact_rows(story))),
    ]
    for title, section in (
        ("Timeline", _timeline(story, output, width)),
        ("Attempts", _attempts(story, output, width)),
        ("Resources", used.draw(story.attempts, story.usage, story.resources)),
        ("Could have asked for less", used.hints(story.run, story.resources)),
        (_metrics_title(story), _metrics(story, output, width)),
        ("stderr, the last lines", _stderr(story)),
    ):
        if section is not None:
            parts += [Text(), Text(title, style="bold"), _indented(section)]
    return parts


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, _INDENT), expand=False)


def _headline(story: Story, output: table.Output) -> Text:
    run = story.run
    line = Text().append(f"r{run.id}", "bold")
    for word in (run.job and f"job {run.job}", run.job_name):
        if word:
            line.append("  ").append(render.clean(word), "bold")
    line.append("  ").append_text(render.state(run.status, plain=output.bare))
    notes = render.notes(run)
    return line.append("  " + render.clean(", ".join(notes))) if notes else line


def _fact_rows(story: Story) -> Iterator[tuple[str, Text | str | None]]:
    run, submission = story.run, story.submission
    yield "experiment", run.experiment
    yield "tags", render.words(run.tags)
    yield "note", run.comment
    yield "user", run.user_name + (f" on {run.cluster}" if run.cluster else "")
    named = {"partition": run.partition, "account": run.account, "qos": run.qos}
    yield "queue", render.pairs({name: value for name, value in named.items() if value})
    yield "submitted", render.moment(run.time_created)
    yield "started", _started(story)
    yield "ended", _ended(story)
    yield "nodes", run.node_list
    yield "exit", _exit(story)
    yield "args", _args(run.args)
    if submission is None and run.submission is not None:
        yield "details", f"args, script and environment are for {run.user_name} alone"
    if submission is not None:
        yield "command", submission.submit_line
        yield "work dir", submission.work_dir
        yield "git", _git(submission.git or {})
    yield "stdout", run.stdout_path
    yield (
        "stderr",
        run.stderr_path if run.stderr_path != run.stdout_path else run.stderr_path and "with stdout",
    )
    yield "links", ", ".join(_link(run.id, relative) for relative in story.relatives)


def _started(story: Story) -> str | None:
    run = story.run
    if run.time_started is None:
        return (
            f"not yet, waiting for {render.duration(story.now - run.time_created)}"
            if not run.time_ended
            else None
        )
    return f"{render.moment(run.time_started)}, waited {render.duration(run.time_started - run.time_created)}"


def _ended(story: Story) -> str | None:
    run = story.run
    limit = f" of {render.duration(run.time_limit)}" if run.time_limit else ""
    elapsed = run.elapsed(story.now)
    if run.time_ended is None:
        return None if elapsed is None else f"not yet, {_so_far(run, render.duration(elapsed) + limit)}"
    ran = "" if elapsed is None else f", ran {render.duration(elapsed)}{limit}"
    return render.moment(run.time_ended) + ran


def _so_far(run: Run, ran: str) -> str:
    """Return what a run that started and is not over has done for how long."""
    stage = states.stage_of(run.status)
    if run.status is RunStatus.SUSPENDED:
        return f"suspended after {ran}"
    if stage is Stage.RUNNING:
        return f"running for {ran}"
    if stage < Stage.RUNNING:
        return f"ran for {ran} and waits to be started again"
    ends = stage is Stage.ENDED and states.ends(run.status) is Ends.ATTEMPT
    return f"ran for {ran} and may be started again" if ends else f"ending after {ran}"


def _exit(story: Story) -> str:
    """Return how the script itself ended and what Slurm's books say: they may differ."""
    run = story.run
    parts = []
    if run.exit_code is not None or run.exit_signal:
        parts.append(f"{render.exit_text(run.exit_code, run.exit_signal)} (the script's own)")
    if story.attempts and (slurm := _slurm_exit(story.attempts[-1])):
        parts.append(f"{slurm} (Slurm's)")
    if run.slurm_state and run.slurm_state != run.status.value:
        parts.append(f"Slurm says {run.slurm_state}")
    return ", ".join(parts)


def _slurm_exit(attempt: Attempt) -> str:
    """Return sacct's ``code:signal``."""
    if attempt.slurm_exit_code is None:
        return ""
    return f"{attempt.slurm_exit_code}:{attempt.slurm_exit_signal or 0}"


def _args(args: Any) -> Text | None:
    if isinstance(args, dict):
        return render.pairs(args)
    return None if args is None else Text(render.clean(args))


def _git(git: dict[str, Any]) -> str:
    if not git.get("commit"):
        return ""
    branch = f" on {git['branch']}" if git.get("branch") else ""
    dirty = {True: ", with uncommitted changes", None: ", files not compared"}.get(
        git.get("dirty", False), ""
    )
    return f"{str(git['commit'])[:12]}{branch}{dirty}"


def _link(run_id: int, relative: Relative) -> str:
    if relative.from_id == run_id:
        return f"{relative.kind} r{relative.to_id}"
    if relative.kind == "submitted":
        return f"submitted by r{relative.from_id}"
    return f"r{relative.from_id} {relative.kind} r{run_id}"


def _table(columns: Sequence[table.Column], width: int, empty: Sequence[str] = ()) -> Text:
    """Return a table without those columns of ``empty`` that hold nothing."""
    blank = Text(render.UNKNOWN, "dim")
    shown = [
        c for c in columns if c.header not in empty or any(cell.plain != blank.plain for cell in c.cells)
    ]
    return table.build(shown, width)


def _timeline(story: Story, output: table.Output, width: int) -> Text | None:
    rows = story.transitions
    if not rows:
        return None
    several = any(row.attempt for row in rows)
    columns = [
        table.column("time", [render.moment(row.time) for row in rows]),
        table.column("attempt", [str(row.attempt + 1) if several else "" for row in rows], justify="right"),
        table.column("state", [_word(row, output) for row in rows]),
        table.column("told by", [row.source for row in rows]),
        table.column("reason", [row.reason or _other_words(row) for row in rows], least=10),
    ]
    return _table(columns, width, empty=("attempt", "reason"))


def _word(row: Transition, output: table.Output) -> Text:
    """Return a state, one that is not in our list, or a signal; what the node tells in a sentence is none."""
    raw = None if _is_sentence(row) else row.raw
    return render.state(row.status, raw, plain=output.bare)


def _other_words(row: Transition) -> str:
    differs = row.status is not None and row.raw != row.status.value
    return row.raw if row.raw and (differs or _is_sentence(row)) else ""


def _is_sentence(row: Transition) -> bool:
    return row.status is None and row.raw is not None and " " in row.raw


def _attempts(story: Story, output: table.Output, width: int) -> Text | None:
    rows = story.attempts
    if not rows:
        return None
    columns = [
        table.column("attempt", [str(row.attempt + 1) for row in rows], justify="right"),
        table.column("state", [render.state(row.status, plain=output.bare) for row in rows]),
        table.column("started", [render.moment(row.time_started) for row in rows], drop=1),
        table.column("ran", [_ran(row, story.now) for row in rows], justify="right"),
        table.column("script", [_script_exit(row) for row in rows]),
        table.column("Slurm", [_slurm_exit(row) for row in rows]),
        table.column("nodes", [row.node_list or "" for row in rows], least=6),
        table.column("reason", [row.reason or "" for row in rows], least=10, drop=2),
    ]
    return _table(columns, width, empty=("reason",))


def _ran(attempt: Attempt, now: datetime) -> str:
    started = attempt.time_started
    return "" if started is None else render.duration((attempt.time_ended or now) - started)


def _script_exit(attempt: Attempt) -> str:
    if attempt.exit_code is None and not attempt.exit_signal:
        return ""
    return render.exit_text(attempt.exit_code, attempt.exit_signal)


def _metrics_title(story: Story) -> str:
    run, losses = story.run, story.losses
    facts = [counted(run.rows, "row")] if run.rows else []
    why = f" ({', '.join(render.clean(reason) for reason, _ in losses.reasons)})" if losses.reasons else ""
    counts = {"lost": losses.lost, "torn": losses.torn, "rejected" + why: losses.rejected}
    facts += [f"{count} {word}" for word, count in counts.items() if count]
    if losses.replaced:
        facts.append(f"{losses.replaced} of an earlier attempt replaced")
    return "Metrics" + (f": {', '.join(facts)}" if facts else "")


def _metrics(story: Story, output: table.Output, width: int) -> Text | None:
    others = {
        name: value for name, value in story.run.last.items() if name not in {s.name for s in story.series}
    }
    if not story.series and not others:
        return Text("none has arrived") if any(story.losses[:4]) else None
    names = [*(one.name for one in story.series), *others]
    fill = [""] * len(others)

    def numbers(attribute: str) -> list[str]:
        return [render.number(getattr(one, attribute)) for one in story.series]

    blocks = sparkline_width(output)
    drawn = [Text(render.sparkline(one, blocks) if output.unicode else "", "#56b4e9") for one in story.series]
    columns = [
        table.column("metric", names, least=12),
        table.column("course", [*drawn, *fill], drop=4),
        table.column("first", [*numbers("first"), *fill], justify="right", drop=1),
        table.column(
            "last",
            [*numbers("last"), *(Text(render.number(value)) for value in others.values())],
            justify="right",
            least=10,
        ),
        table.column("min", [*numbers("minimum"), *fill], justify="right", drop=3),
        table.column("max", [*numbers("maximum"), *fill], justify="right", drop=2),
        table.column(
            "nan/inf", [*(str(one.nonfinite or "") for one in story.series), *fill], justify="right"
        ),
    ]
    return _table(columns, width, empty=("course", "nan/inf"))


def _stderr(story: Story) -> Text | None:
    tail = next((attempt.stderr_tail for attempt in reversed(story.attempts) if attempt.stderr_tail), None)
    return None if tail is None else Text("\n".join(render.clean_lines(tail)[-_TAIL:]))


def to_object(story: Story) -> dict[str, Any]:
    """Return a run in full as the object that ``--json`` prints."""
    run = story.run
    more = {
        "note": run.comment,
        "account": run.account,
        "qos": run.qos,
        "kind": run.kind,
        "stdout": run.stdout_path,
        "stderr": run.stderr_path,
        "time_seen": run.time_seen,
        "submission": story.submission and render.record_json(story.submission, leave_out=("env",)),
        "transitions": [_transition_object(row) for row in story.transitions],
        "attempts": [_attempt_object(row) for row in story.attempts],
        "usage": [_usage_object(row) for row in story.usage],
        "resources": [used.to_object(row) for row in story.resources],
        "hints": used.sentences(story.run, story.resources),
        "losses": {**story.losses._asdict(), "reasons": dict(story.losses.reasons)},
        "links": [f"r{row.from_id} {row.kind} r{row.to_id}" for row in story.relatives],
        "metrics": [render.record_json(one, leave_out=("buckets",)) for one in story.series],
    }
    return {**render.run_json(run, story.now), **more}


def _usage_object(row: Usage) -> dict[str, Any]:
    return {"restarts": row.attempt, **render.record_json(row, leave_out=("attempt",))}


def _transition_object(row: Transition) -> dict[str, Any]:
    fields = render.record_json(row, leave_out=("run_id", "attempt", "status"))
    return {"restarts": row.attempt, "state": row.status, **fields}


def _attempt_object(row: Attempt) -> dict[str, Any]:
    fields = render.record_json(row, leave_out=("attempt", "status"))
    return {"restarts": row.attempt, "state": row.status, **fields}
