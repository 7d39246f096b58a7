"""The plan: whatever accounting says, in whatever order and division, a run tells what was executed.

A history is what really happened to a job. Its rows are text as sacct prints it: with the count of restarts
one too high for executions that were requeued, of older releases without it, divided where the job changed
its size, late, alone, twice. Squeue's lines and the relay's messages come in time, late, or never.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hpctrack.model import JobFacts
from hpctrack.reconcile.plan import Survey
from hpctrack.run.states import RunStatus, Stage
from hpctrack.slurm import parse
from tests.support.facts import ALL, QUEUE, T0, S, at, decide, relay, run, squeue

REQUEUED = [S.REQUEUED, S.PREEMPTED, S.NODE_FAIL]
FINAL = [S.COMPLETED, S.FAILED, S.CANCELLED, S.TIMEOUT, S.NODE_FAIL, S.OUT_OF_MEMORY, S.REQUEUED, S.PREEMPTED]
DELIMITER = "\x1f#\x1f"
FIELDS = [name for name in parse.SACCT_FIELDS if name != "Restarts"]


@dataclass
class Execution:
    """One execution, and what Slurm and its relay say of it."""

    submitted: int
    started: int
    ended: int
    status: RunStatus
    code: int
    rows: list[dict[str, str]] = field(default_factory=list)
    lines: list[JobFacts] = field(default_factory=list)
    messages: list[JobFacts] = field(default_factory=list)
    cpu: float = 0.0
    rss: int = 0

    @property
    def told(self):
        """What an attempt is to say of it."""
        times = at(self.submitted), at(self.started), at(self.ended)
        return self.status, *times, self.code, self.cpu, self.rss


def clock(seconds):
    return str(int(T0.timestamp()) + seconds)


def record(job, state, submitted, started, ended, **fields):
    """One row of sacct; ``ended`` None: it goes on."""
    return {
        "JobID": job, "JobIDRaw": job, "Cluster": "mini", "State": state, "Submit": clock(submitted),
        "Start": clock(started), "End": "Unknown" if ended is None else clock(ended), "ExitCode": "0:0",
        "User": "alice", "Partition": "main", "NodeList": "n1", "JobName": "train",
        "ElapsedRaw": str((ended or started) - started), **fields,
    }  # fmt: skip


def read(rows, *, counted):
    """Read rows as the backend does."""
    names = [*FIELDS, "Restarts"] if counted else FIELDS
    text = "".join("".join(row.get(name, "") + DELIMITER for name in names) + "\n" for row in rows)
    return parse.sacct(text, DELIMITER, names, at(100_000))


@st.composite
def histories(draw):
    """Executions of one job, in order."""
    restarts = draw(st.integers(0, 3))
    history, now = [], 0
    for number in range(restarts + 1):
        again = number < restarts
        started = now + draw(st.integers(0, 9))
        ended = started + draw(st.integers(20, 60))
        status = draw(st.sampled_from(REQUEUED if again else FINAL))
        execution = Execution(now, started, ended, status, number)
        word = number + (again and draw(st.booleans()))  # slurmctld was started anew while it completed
        draw_rows(draw, execution, str(word))
        draw_lines(draw, execution, number, again=again)
        if draw(st.booleans()):
            execution.messages += [relay("hello", number, started, node="n1")]
            execution.messages += [relay("fin", number, ended, exit_code=number)] * draw(st.integers(0, 1))
        history.append(execution)
        now = ended + draw(st.integers(1, 5))
    return history


def draw_rows(draw, execution, word):
    """Divide an execution where the job changes its size; its steps hang on any of the parts."""
    cuts = sorted(draw(st.sets(st.integers(execution.started + 1, execution.ended - 1), max_size=2)))
    begins, parts = [execution.submitted, *cuts], []
    for begin, end in zip(begins, [*cuts, execution.ended], strict=True):
        state = execution.status.value if end == execution.ended else "RESIZING"
        start = execution.started if begin == execution.submitted else begin
        parts.append(record("10", state, begin, start, end, Restarts=word, TotalCPU="00:00:00"))
    parts[-1]["ExitCode"] = f"{execution.code}:0"
    at_part = draw(st.integers(0, len(parts) - 1))
    execution.cpu, execution.rss = float(7 + execution.code), 1024 * (9 + execution.code)
    parts[at_part] |= {"TotalCPU": f"00:00:0{7 + execution.code}"}
    step = record("10.batch", "COMPLETED", 0, execution.started, execution.ended, MaxRSS=f"{execution.rss}")
    execution.rows = [*parts[: at_part + 1], step, *parts[at_part + 1 :]]


def draw_lines(draw, execution, number, *, again):
    """What squeue says of it in passing."""
    line = {"attempt": number, "time_submitted": at(execution.submitted)}
    begun = {**line, "start": execution.started}
    execution.lines = [squeue("PENDING", **line, time=at(execution.submitted))]
    for state in draw(st.lists(st.sampled_from(["RUNNING", "SUSPENDED", "RESIZING"]), max_size=3)):
        execution.lines.append(squeue(state, **begun, time=at(execution.started + len(execution.lines))))
    if draw(st.booleans()):
        completing = {**begun, "attempt": number + again}
        execution.lines.append(squeue("COMPLETING", **completing, time=at(execution.ended)))


def _asked_about(draw, lines, seen, *, counted):
    """Yield a pass for some of the lines of squeue, with or without what sacct has by then."""
    for line in lines:
        if draw(st.booleans()):
            rows = read(seen, counted=counted) if draw(st.booleans()) else []
            yield [line, *rows], ALL if rows else QUEUE


def passes_of(draw, history, *, counted):
    """Divide what is said into passes: pairs of facts and what was asked."""
    passes = []
    blind = draw(st.booleans())
    for number, execution in enumerate(history):
        kept = [earlier for earlier in history[:number] if draw(st.integers(0, 3))]
        seen = [row for earlier in kept for row in earlier.rows]
        if not blind:
            passes += _asked_about(draw, execution.lines, seen, counted=counted)
        for message in execution.messages:
            passes.insert(draw(st.integers(0, len(passes))), ([message], Survey()))
        if blind and draw(st.booleans()):  # its row comes alone, or with some of those before
            passes.append((read([*seen, *execution.rows], counted=counted), ALL))
    return passes


def end(stored, history, *, counted):
    """Let accounting tell all, twice over, until nothing can follow any more."""
    rows = [row for execution in history for row in execution.rows]
    for now in (history[-1].ended + 1, *(history[-1].ended + 1000 * n for n in (1, 2, 3))):
        stored, _ = decide(stored, *read(rows, counted=counted), *read(rows, counted=counted), now=now)
    return stored


@pytest.mark.parametrize("counted", [True, False], ids=["Restarts", "without Restarts"])
@given(data=st.data())
@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_a_run_tells_what_was_executed(counted, data):
    history = data.draw(histories())
    stored = run()
    for facts, survey in passes_of(data.draw, history, counted=counted):
        stored, _ = decide(stored, *facts, now=history[-1].ended, survey=survey)
    stored = end(stored, history, counted=counted)
    assert [attempt.attempt for attempt in stored.attempts] == list(range(len(history)))
    assert [told(attempt) for attempt in stored.attempts] == [execution.told for execution in history]
    assert (stored.status, stored.time_ended) == (history[-1].status, at(history[-1].ended))
    assert all(attempt.status.stage is Stage.ENDED for attempt in stored.attempts)
    assert end(stored, history, counted=counted) == stored


def told(attempt):
    used = attempt.resources.get("cpu_s"), attempt.resources.get("max_rss_bytes")
    times = attempt.time_submitted, attempt.time_started, attempt.time_ended
    return attempt.status, *times, attempt.slurm_exit_code, *used
