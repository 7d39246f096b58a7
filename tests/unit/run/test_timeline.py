"""Events stand in a run's timeline where they happened, states where they were learnt."""

from datetime import datetime, timedelta, timezone

from hpctrack.model import Transition
from hpctrack.run import timeline
from hpctrack.run.states import RunStatus

START = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


def row(word, seconds, source="relay", attempt=0):
    """A state if its name is in capitals, else an event."""
    status = RunStatus[word] if word.isupper() else None
    time = START + timedelta(seconds=seconds)
    return Transition(1, attempt, status, time, source, raw=None if status else word)


def told(*rows):
    return [transition.raw or transition.status.name for transition in timeline.arranged(rows)]


def test_an_event_that_is_learnt_late_is_told_where_it_happened():
    assert told(
        row("PENDING", 0, "submit"),
        row("RUNNING", 1),
        row("COMPLETING", 9),
        row("COMPLETED", 11, "sacct"),
        row("detour", 5),
        row("signal", 3),
    ) == ["PENDING", "RUNNING", "signal", "detour", "COMPLETING", "COMPLETED"]


def test_states_keep_their_order_whatever_the_clocks_say():
    rows = [row("PENDING", 0, "submit"), row("RUNNING", -300), row("COMPLETED", -100, "sacct")]
    assert timeline.arranged(rows) == rows


def test_an_event_keeps_to_the_states_of_its_own_clock():
    for skew in (-300, 300):
        assert told(
            row("PENDING", 0, "submit"),
            row("RUNNING", skew + 1),
            row("COMPLETING", skew + 9),
            row("COMPLETED", 11, "sacct"),
            row("signal", skew + 5),
        ) == ["PENDING", "RUNNING", "signal", "COMPLETING", "COMPLETED"]


def test_others_states_before_an_event_are_told_before_it():
    assert told(
        row("RUNNING", 1),
        row("SUSPENDED", 10, "squeue"),
        row("RUNNING", 20, "squeue"),
        row("COMPLETING", 40),
        row("signal", 15),
    ) == ["RUNNING", "SUSPENDED", "signal", "RUNNING", "COMPLETING"]


def test_an_event_stays_in_its_attempt():
    assert told(
        row("RUNNING", 1),
        row("REQUEUED", 8, "sacct"),
        row("RUNNING", 20, attempt=1),
        row("first", 7),
        row("second", 21, attempt=1),
        row("early", 19, attempt=1),
    ) == ["RUNNING", "first", "REQUEUED", "early", "RUNNING", "second"]


def test_an_event_without_states_of_its_own_goes_by_time():
    rows = [row("PENDING", 0, "submit"), row("RUNNING", 9, "squeue"), row("signal", 5)]
    assert told(*rows) == ["PENDING", "signal", "RUNNING"]
    assert told(rows[2]) == ["signal"]


def test_a_time_that_is_unknown_comes_last_in_its_attempt():
    lost = [row(word, 0)._replace(time=None) for word in ("signal", "detour")]
    assert told(row("RUNNING", 1), *lost, row("COMPLETING", 9), row("RUNNING", 20, attempt=1)) == [
        "RUNNING", "COMPLETING", "signal", "detour", "RUNNING",
    ]  # fmt: skip
