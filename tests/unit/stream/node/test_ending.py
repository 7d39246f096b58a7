"""How long a relay waits when the script has ended."""

from types import SimpleNamespace

import pytest

from hpctrack.stream.node.ending import Ending

BEGAN, ENDED, FLUSH = 1000.0, 1100.0, 5.0


def voyage(**changes):
    """A voyage whose collector has not answered to what was sent at the end."""
    hurried = []
    outbox = SimpleNamespace(hurry=hurried.append)
    usual = {"by_spool": False, "answered": False, "first_sent": ENDED, "outbox": outbox}
    return SimpleNamespace(hurried=hurried, **{**usual, **changes})


@pytest.fixture
def ending():
    def of(began=BEGAN, record=""):
        return Ending(SimpleNamespace(record=record, flush=FLUSH), began, ENDED)

    return of


def seconds(ending, voyage):
    """Return for how many seconds after the script's end the relay waits."""
    return next(tenth for tenth in range(100) if ending.is_over(voyage, ENDED + tenth / 10)) / 10


def test_a_collector_that_has_answered_is_waited_for_until_the_flush_cap(ending):
    assert seconds(ending(), voyage(answered=True)) == FLUSH


def test_a_collector_that_never_answered_has_a_second_and_is_asked_more_often(ending):
    silent = voyage()
    assert seconds(ending(), silent) == 1.0
    assert set(silent.hurried) == {0.15}


def test_where_all_goes_by_the_spool_nobody_is_waited_for(ending):
    assert seconds(ending(), voyage(by_spool=True)) == 0


@pytest.mark.parametrize(("began", "expected"), [(BEGAN, 0), (ENDED - 1, 2.0)])
def test_a_submission_record_that_is_not_there_has_three_seconds_since_the_relay_began(
    ending, began, expected
):
    assert seconds(ending(began), None) == expected


def test_a_command_that_is_not_registered_yet_has_two_seconds(ending, tmp_path):
    record = tmp_path / "unregistered" / "record"
    record.parent.mkdir()
    record.touch()
    assert seconds(ending(record=str(record)), voyage()) == 2.0


def test_a_command_that_was_registered_long_ago_has_a_second(ending, tmp_path):
    gone = str(tmp_path / "unregistered" / "record")
    assert seconds(ending(record=gone), voyage()) == 1.0


def test_a_command_that_is_registered_at_last_has_a_little_more(ending, tmp_path):
    record = tmp_path / "unregistered" / "record"
    record.parent.mkdir()
    record.touch()
    waiting = ending(record=str(record))
    assert not waiting.is_over(voyage(), ENDED + 1.5)
    record.unlink()
    assert not waiting.is_over(voyage(), ENDED + 1.5)
    assert not waiting.is_over(voyage(), ENDED + 2.0)
    assert waiting.is_over(voyage(), ENDED + 2.1)
