"""Shares of what was asked for, as seff and reportseff reckon them, and what is said of little use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.run import efficiency
from hpctrack.run.efficiency import Resources

GIB = 1 << 30
#: Half of everything.
HALF = Resources(7, 0, True, 3600.0, 7200.0, 4, 7200.0, 16 * GIB, 8 * GIB)


def test_shares():
    assert (HALF.cpu, HALF.memory, HALF.time) == (0.5, 0.5, 0.5)


def test_the_shares_are_those_of_seff():
    """CPU Utilized 02:53:20 of 8 cores in 00:26:00; Memory Utilized 1.50 GB of 12.00 GB."""
    used = Resources(1, 0, True, 1560.0, 3600.0, 8, 10400.0, 12 * GIB, 3 * GIB // 2)
    assert used.cpu == pytest.approx(0.8333, abs=1e-4)
    assert used.memory == 0.125
    assert used.time == pytest.approx(0.4333, abs=1e-4)


@pytest.mark.parametrize(
    ("unknown", "share"),
    [
        ({"elapsed_s": None}, "cpu"),
        ({"cpus": None}, "cpu"),
        ({"cpu_s": None}, "cpu"),
        ({"elapsed_s": 0.0}, "cpu"),
        ({"cpus": 0}, "cpu"),
        ({"memory_used_bytes": None}, "memory"),
        ({"memory_requested_bytes": None}, "memory"),
        ({"memory_requested_bytes": 0}, "memory"),
        ({"time_limit_s": None}, "time"),
        ({"elapsed_s": None}, "time"),
    ],
)
def test_what_is_unknown_stays_unknown(unknown, share):
    assert getattr(HALF._replace(**unknown), share) is None
    assert efficiency.hints(HALF._replace(**unknown), completed=True) == []


def test_good_use_is_not_commented():
    assert efficiency.hints(HALF, completed=True) == []


def test_a_tenth_of_everything_is():
    used = HALF._replace(cpu_s=1440.0, memory_used_bytes=1 * GIB, time_limit_s=36000.0)
    assert efficiency.hints(used, completed=True) == [
        "kept 0.4 of 4 processors busy: fewer would have done (-c, -n)",
        "used 6 % of its memory: --mem=2G would have done",
        "took 10 % of its time limit: a shorter --time starts sooner",
    ]
    assert len(efficiency.hints(used, completed=False)) == 2, "who failed may have needed the time"


@pytest.mark.parametrize(
    "changes",
    [
        {"over": False},
        {"elapsed_s": 50.0, "cpu_s": 1.0, "time_limit_s": 5000.0, "memory_used_bytes": 1},
        {"cpus": 1, "cpu_s": 1.0},
        {"memory_requested_bytes": GIB // 2, "memory_used_bytes": 1},
        {"time_limit_s": 590.0, "elapsed_s": 59.0, "cpu_s": 118.0},
    ],
    ids=["still running", "too short", "one processor", "little memory", "little time"],
)
def test_little_of_little_is_no_waste(changes):
    assert efficiency.hints(HALF._replace(**changes), completed=True) == []


@pytest.mark.parametrize(
    ("peak", "text"),
    [
        (0, "100M"),
        (1 << 20, "100M"),
        (90 << 20, "200M"),
        (800 << 20, "1000M"),
        (900 << 20, "2G"),
        (4 * GIB, "5G"),
    ],
)
def test_enough_memory(peak, text):
    assert efficiency.enough(peak) == text


@given(st.integers(0, 1 << 45))
def test_enough_leaves_a_fifth(peak):
    text = efficiency.enough(peak)
    wanted = int(text[:-1]) * {"M": 1 << 20, "G": GIB}[text[-1]]
    assert 1.2 * peak <= wanted <= max(1.2 * peak + GIB, 100 << 20)
