"""The relay's timetable: who is due when."""

from hpctrack.stream.node.timetable import Timetable


def test_a_task_that_was_never_named_is_due_at_once_and_then_after_its_pause():
    timetable = Timetable()
    turns = [now for now in range(100, 110) if timetable.take_turn("look", now, 3.0)]
    assert turns == [100, 103, 106, 109]


def test_a_turn_that_comes_late_shifts_the_next_one():
    timetable = Timetable()
    assert timetable.take_turn("look", 100.0, 3.0)
    assert timetable.take_turn("look", 105.0, 3.0)
    assert not timetable.take_turn("look", 106.0, 3.0)


def test_tasks_know_nothing_of_each_other():
    timetable = Timetable()
    timetable.put_off("copy", 160.0)
    assert not timetable.is_due("copy", 159.9)
    assert timetable.is_due("copy", 160.0)
    assert timetable.is_due("look", 100.0)
