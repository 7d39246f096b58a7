"""Single values as people read them."""

from datetime import timedelta

import pytest

from hpctrack.view import notation


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (0, "0:00"),
        (59.9, "0:59"),
        (62, "1:02"),
        (3600, "1:00:00"),
        (86399, "23:59:59"),
        (2 * 86400 + 3661, "2-01:01:01"),
        (-5, "0:00"),
    ],
)
def test_durations_are_squeues(seconds, expected):
    assert notation.duration(None if seconds is None else timedelta(seconds=seconds)) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (34567, "33.8 KiB"),
        (5 << 30, "5 GiB"),
        (1 << 60, "1 EiB"),
        ((1 << 20) - 1, "1 MiB"),
    ],
)
def test_sizes(count, expected):
    assert notation.size(count) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (True, "true"),
        (0.123456, "0.1235"),
        (3.0, "3"),
        (-0.0, "-0"),
        (1e22, "1e+22"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**63, "9223372036854775808"),
        ("warm up", "warm up"),
        ([1, "a"], '[1, "a"]'),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
    ],
)
def test_values(value, expected):
    assert notation.number(value) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(None, "-"), (0, "0%"), (1e-9, "<0.1%"), (0.005, "0.5%"), (0.5, "50%"), (2, "200%")],
)
def test_shares(ratio, expected):
    assert notation.percent(ratio) == expected
