"""What is said beside a run's state."""

from dataclasses import replace
from datetime import timedelta

import pytest

from hpctrack.run.words import UNKNOWN_TO_SLURM
from hpctrack.store.read.queries import Cluster
from hpctrack.view import remarks
from tests.support.a_run import NOW, RUN


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"exit_code": 0, "reason": "None"}, []),
        ({"exit_code": 3, "reason": "NonZeroExitCode"}, ["exit 3"]),
        ({"exit_signal": 11}, ["SIGSEGV"]),
        ({"reason": "Resources"}, ["Resources"]),
        ({"attempt": 2}, ["attempt 3"]),
        ({"lost": 12, "waiting": 2048}, ["12 lost", "2,048 rows waiting in spool"]),
    ],
)
def test_notes_say_what_is_not_as_usual(changes, expected):
    assert remarks.of_run(replace(RUN, **changes)) == expected


def test_a_job_that_slurm_has_forgotten_is_noted_until_it_is_over():
    assert remarks.of_run(replace(RUN, missing_since=NOW)) == [], "accounting may know it"
    missing = replace(RUN, missing_since=NOW, reason=UNKNOWN_TO_SLURM)
    assert remarks.of_run(missing)[0].startswith("unknown to Slurm since 20")
    assert len(remarks.of_run(missing)) == 1
    assert remarks.of_run(replace(missing, time_ended=NOW)) == [UNKNOWN_TO_SLURM]


def test_a_machine_that_is_silent_is_noted():
    assert remarks.of_run(replace(RUN, silent_since=NOW))[0].startswith("not heard from since 20")


def test_a_silent_slurm_is_told_with_since_when():
    cluster = Cluster("demo", NOW, NOW - timedelta(minutes=5), "connection\nrefused")
    line = remarks.on_cluster(cluster, NOW)
    assert line is not None
    assert "cluster demo" in line
    assert "(5:00 ago)" in line
    assert "connection\\nrefused" in line
    assert remarks.on_cluster(replace(cluster, unreachable_since=None), NOW) is None
