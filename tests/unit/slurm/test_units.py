"""Slurm's notations: exits, times, spans, sizes, trackable resources."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest

from hpctrack.slurm import units
from tests.support.slurm_output import (
    at,
    queued,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:0", (0, 0)),
        ("3:0", (3, 0)),
        ("0:125", (0, 125)),
        ("0:11", (0, 11)),
        ("59136", (231, 0)),
        ("11", (0, 11)),
        ("", (None, None)),
    ],
)
def test_exits(text, expected):
    [fact] = queued({"State": "FAILED", "exit_code": text})
    assert (fact.slurm_exit_code, fact.slurm_exit_signal) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1795223351", at(1795223351)),
        ("0", at(0)),
        ("Unknown", None),
        ("None", None),
        ("N/A", None),
        ("", None),
    ],
)
def test_times(text, expected):
    assert units.time(text) == expected


def test_local_times_where_slurm_knows_no_epoch(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert units.time("2026-01-31T12:00:00") == datetime(2026, 1, 31, 11, tzinfo=timezone.utc)
        assert units.time("2026-07-31T12:00:00") == datetime(2026, 7, 31, 10, tzinfo=timezone.utc)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00.002", 0.002), ("01:02", 62), ("1:00", 60), ("10:00:00", 36000), ("2-03:04:05", 183845),
        ("365-00:00:00", 31536000), ("UNLIMITED", None), ("NOT_SET", None), ("Partition_Limit", None),
        ("", None),
    ],
)  # fmt: skip
def test_spans(text, seconds):
    assert units.seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("216K", 216 << 10),
        ("0", 0),
        ("1.5G", 3 << 29),
        ("4000Mc", 4000 << 20),
        ("2Tn", 2 << 40),
        ("", None),
        ("x", None),
    ],
)
def test_sizes(text, size):
    assert units.size(text) == size


def test_trackable_resources():
    expected = {"cpu": 2, "mem": 500 << 20, "gres/gpu": 1, "gres/gpu:a100": 1}
    assert units.tres("cpu=2,mem=500M,gres/gpu=1,gres/gpu:a100=1") == expected
    assert units.tres("") == {}


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_change_of_clocks_makes_no_hour_ambiguous(monkeypatch, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        hours = [1792890000 + 1800 * n for n in range(8)]  # the night of October 25, 2026, and more
        read = [units.time(str(hour)) for hour in hours]
        assert [moment.timestamp() for moment in read] == hours
        assert {later - earlier for earlier, later in pairwise(read)} == {timedelta(minutes=30)}
    finally:
        monkeypatch.undo()
        time.tzset()
