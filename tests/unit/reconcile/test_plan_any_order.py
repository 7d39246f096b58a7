"""The plan: what must hold for any job, in any order of facts."""

from __future__ import annotations

import itertools
import random
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrack.reconcile.plan import Survey, plan
from hpctrack.run.states import Ends, Stage
from tests.support.facts import ALL, QUEUE, S, at, decide, relay, row, run, squeue

FINAL = [S.COMPLETED, S.FAILED, S.CANCELLED, S.TIMEOUT, S.NODE_FAIL, S.OUT_OF_MEMORY, S.DEADLINE, S.PREEMPTED]
BETWEEN = [S.PREEMPTED, S.REQUEUED, S.NODE_FAIL, S.FAILED]


@st.composite
def lives(draw):
    """A job from its submission to its end: squeue's lines in order, sacct's rows, the relay's messages."""
    lines, rows, messages = [], [], []
    clock, restarts = 0, draw(st.integers(0, 3))
    for attempt in range(restarts + 1):
        submitted = at(clock)
        line = {"attempt": attempt, "time_submitted": submitted}
        lines.append(squeue("PENDING", reason="Priority", **line, time=at(clock + 1)))
        started = clock + draw(st.integers(2, 20))
        begun = {**line, "start": started}
        for state in draw(st.lists(st.sampled_from(["RUNNING", "SUSPENDED"]), max_size=3)):
            lines.append(squeue(state, **begun, time=at(started + 1 + len(lines))))
        ended = started + draw(st.integers(20, 99))
        if draw(st.booleans()):
            completing = {**begun, "attempt": attempt + (attempt < restarts)}
            lines.append(squeue("COMPLETING", **completing, time=at(ended)))
        end = draw(st.sampled_from(BETWEEN if attempt < restarts else FINAL))
        rows.append(
            row(end.value, start=started, end=ended, time_submitted=submitted, slurm_exit_code=attempt)
        )
        if draw(st.booleans()):
            messages.append(relay("hello", attempt, started + 1, node="n1"))
            messages.append(relay("start", attempt, started + 2, stdout="/o"))
            if draw(st.booleans()):
                messages.append(relay("fin", attempt, ended - 1, exit_code=attempt, stderr_tail="tail"))
        clock = ended + draw(st.integers(1, 5))
    return lines, rows, messages, clock


def essence(stored):
    """What must not depend on the order: all but what the reconciler saw when."""
    attempts = tuple(a._replace(resources={}) for a in stored.attempts)
    return stored._replace(time_seen=None, attempts=attempts, slurm_state=None, job_name=None)


def finished(stored, rows, clock):
    """Let squeue not list the job any more, until nothing can follow any more."""
    for now in (clock + 3600, clock + 7200):
        stored, _ = decide(stored, *rows, now=now)
    return stored


@given(lives(), st.randoms(use_true_random=False))
def test_the_order_of_facts_and_repetition_do_not_matter(life, shuffle):
    lines, rows, messages, clock = life
    facts = [*lines[-1:], *rows, *messages]
    expected = plan(facts, [run()], at(clock), survey=ALL)
    mixed = facts + shuffle.choices(facts, k=3)
    shuffle.shuffle(mixed)
    assert plan(mixed, [run()], at(clock), survey=ALL) == expected


@given(lives(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_whenever_messages_arrive_the_end_is_the_same(life, shuffle):
    """Messages of the relay before, between and after the passes, late ones and repeated ones."""
    lines, rows, messages, clock = life
    expected = finished(decide(run(), *messages, now=clock, survey=Survey())[0], rows, clock)
    events = [(line, QUEUE) for line in lines]
    for message in messages + shuffle.choices(messages, k=2) if messages else []:
        events.insert(shuffle.randrange(len(events) + 1), (message, Survey()))
    late = [event for event in events if event[1] != QUEUE and shuffle.random() < 0.3]
    stored = run()
    for fact, survey in [event for event in events if event not in late]:
        stored, _ = decide(stored, fact, now=clock, survey=survey)
    stored = finished(stored, rows, clock)
    for fact, survey in late:
        stored, _ = decide(stored, fact, now=clock + 9999, survey=survey)
    assert essence(stored) == essence(expected)
    assert (stored.status, stored.time_ended) == (rows[-1].status, rows[-1].time_ended)
    assert [(a.status, a.time_started, a.time_ended, a.slurm_exit_code) for a in stored.attempts] == [
        (r.status, r.time_started, r.time_ended, r.slurm_exit_code) for r in rows
    ]


@given(lives(), st.randoms(use_true_random=False))
def test_what_was_applied_is_not_applied_again(life, shuffle):
    lines, rows, messages, clock = life
    for survey, facts in ((QUEUE, [shuffle.choice(lines)]), (Survey(), messages), (ALL, rows), (ALL, [])):
        stored, _ = decide(run(), *facts, now=clock, survey=survey)
        assert plan(facts, [stored], at(clock), survey=survey) == []


@given(lives(), st.randoms(use_true_random=False))
def test_nothing_ends_while_squeue_lists_it(life, shuffle):
    lines, rows, messages, clock = life
    stored = run()
    for line in lines:
        known = [r for r in rows if r.time_submitted <= line.time_submitted]
        stored, _ = decide(stored, line, *known, *shuffle.sample(messages, len(messages) // 2), now=clock)
        assert stored.time_ended is None
        assert stored.status.ends is Ends.NOTHING


@given(lives(), st.randoms(use_true_random=False))
def test_transitions_go_forward(life, shuffle):
    lines, rows, messages, clock = life
    stored, noted = run(), []
    passes = [((line,), QUEUE) for line in lines]
    for message in messages:
        passes.insert(shuffle.randrange(len(passes) + 1), ((message,), Survey()))
    for facts, survey in [*passes, (rows, ALL)]:
        stored, moves = decide(stored, *facts, now=clock, survey=survey)
        noted += [(attempt, status) for attempt, status, _ in moves]
    for number in {attempt for attempt, _ in noted}:
        own = [status for attempt, status in noted if attempt == number]
        stages = [status.stage for status in own]
        assert stages == sorted(stages)
        assert all(before is not after for before, after in itertools.pairwise(own))
    assert noted[-1][1] is stored.status
    assert len([s for _, s in noted if s.stage is Stage.ENDED]) == len(rows)


def test_many_runs_are_told_apart():
    count = 20_000
    stored = [run(run_id=n, slurm_job_id=n) for n in range(1, count + 1)]
    facts = [squeue("RUNNING", job_id=n, node=f"n{n}") for n in range(1, count + 1)]
    random.Random(1).shuffle(facts)
    changes = plan(facts, stored, at(1000), survey=QUEUE)
    assert [change.run.node_list for change in changes] == [f"n{n}" for n in range(1, count + 1)]
    assert plan(facts, [change.run for change in changes], at(1000), survey=QUEUE) == []


@given(lives(), st.sampled_from([S.FAILED, S.CANCELLED, S.TIMEOUT, S.NODE_FAIL]), st.integers(0, 9))
def test_the_last_word_of_accounting_counts(life, first, seconds):
    """Whatever it said of the end at first, if it was no success."""
    _, rows, messages, clock = life
    last = rows[-1]
    early = last.time_ended - timedelta(seconds=seconds)
    wrong = last._replace(status=first, raw=first.value, slurm_exit_signal=9, time_ended=early)
    stored, _ = decide(run(), *messages, now=clock, survey=Survey())
    stored, _ = decide(stored, *rows[:-1], wrong, now=clock + 1)
    assert stored.time_ended == early
    for later in (30, 60, 600, 1200):
        stored, _ = decide(stored, *rows, now=clock + later)
    assert (stored.status, stored.time_ended, stored.recheck_after) == (last.status, last.time_ended, None)
    top = stored.attempts[-1]
    assert (top.status, top.slurm_exit_code, top.slurm_exit_signal) == (last.status, last.slurm_exit_code, 0)
