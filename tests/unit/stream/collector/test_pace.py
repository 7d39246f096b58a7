"""How often Slurm is asked."""

from hpctrack.stream.collector import pace


def test_regular_passes_become_rarer_as_slurm_slows():
    pacer = pace.Pace(30.0)
    pacer.note(0.2, answered=True)
    assert pacer.interval == 30.0
    pacer.note(6.0, answered=True)
    assert pacer.interval == 60.0
    pacer.note(59.0, answered=True)
    assert pacer.interval == pace.LONGEST
    pacer.note(1.0, answered=True)
    assert pacer.interval == 30.0


def test_a_silent_slurm_is_asked_ever_more_rarely_and_at_once_normally_when_it_answers():
    pacer = pace.Pace(30.0)
    waits = []
    for _ in range(4):
        pacer.note(60.0, answered=False)
        waits.append(pacer.interval)
    assert waits == [60.0, 120.0, 180.0, 180.0]
    assert pacer.silent
    pacer.note(0.1, answered=True)
    assert (pacer.interval, pacer.silent) == (30.0, False)


def test_who_wants_longer_waits_gets_them():
    pacer = pace.Pace(600.0)
    pacer.note(1.0, answered=False)
    assert pacer.interval == 600.0


def test_the_first_look_is_prompt_and_the_others_are_taken_together():
    looks = pace.Looks()
    looks.add([1], 100.0)
    assert looks.due(100.0) == []
    assert looks.due(102.0) == [1]
    looks.looked([1], [], 102.0)
    for run_id in range(2, 500):
        looks.add([run_id], 102.0 + run_id / 100)
    assert [looks.due(102.0 + second) for second in range(10)] == [[]] * 10
    assert looks.due(112.0) == list(range(2, 500)), "one question for all, ten seconds after the last"


def test_a_slow_slurm_is_looked_at_more_rarely():
    looks = pace.Looks()
    looks.add([1], 0.0)
    looks.looked([1], [1], 10.0, seconds=5.0)
    assert looks.due(59.0) == []
    assert looks.due(60.0) == [1]


def test_what_is_not_over_is_looked_at_again_and_then_left_to_the_regular_passes():
    looks, now, seen = pace.Looks(), 0.0, 0
    looks.add([7], now)
    while now < 3600.0:
        now += 1.0
        if looks.due(now):
            seen += 1
            looks.looked([7], [7], now)
    assert seen == 7


def test_who_does_not_lead_keeps_what_may_still_be_of_use():
    looks = pace.Looks()
    looks.add([1], 0.0)
    looks.add([2], 50.0)
    looks.forget(70.0)
    assert looks.due(70.0) == [2]
