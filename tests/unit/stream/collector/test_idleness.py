"""When a personal collector has had no live run for long enough."""

from __future__ import annotations

import pytest

from hpctrack.stream.collector import process


@pytest.mark.parametrize(
    ("last_end", "learnt_end", "ends"),
    [
        (1000.0, 1000.0, 1600.0),  # a command's end is known at once
        (1000.0, 1090.0, 1600.0),  # Slurm told of it late: the minutes began before
        (1000.0, 5000.0, 5030.0),  # nobody looked for an hour: what else is told of it is waited for
        (float("-inf"), 1000.0, 1030.0),  # no run has ever ended
    ],
)
def test_ten_minutes_are_counted_from_the_end(last_end, learnt_end, ends):
    assert process.end_of_idleness(last_end, learnt_end, 600.0) == ends


def test_a_short_wait_is_as_short_as_it_says():
    assert process.end_of_idleness(float("-inf"), 1000.0, 1.0) == 1001.0
