"""Rows and lines recorded with newer releases: what the reconciler makes of them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from hpctrack.slurm import parse
from tests.support.facts import T0, S, decide, run
from tests.support.paths import DATA

RECORDED = DATA / "slurm-26.05.3"
NOW = datetime(2026, 11, 29, 3, tzinfo=timezone.utc)
DELIMITER = "\x1f#\x1f"


@pytest.fixture(scope="module")
def rows():
    fields = parse.sacct_fields((RECORDED / "sacct-helpformat.txt").read_text())
    return parse.sacct((RECORDED / "sacct.txt").read_text(), DELIMITER, fields, NOW)


@pytest.fixture(scope="module")
def lines():
    fields = parse.squeue_fields("slurm 26.05.3")
    return parse.squeue((RECORDED / "squeue.txt").read_text(), DELIMITER, "mini", NOW, fields)


def named(rows, name):
    """The rows of the job of this name, and nothing of others."""
    ours = [row for row in rows if row.job_name == name]
    assert len({row.job_id for row in ours}) == 1
    return ours


def judged(*rows):
    """A run after accounting has told these rows, and squeue nothing."""
    first = rows[0]
    known = run(
        slurm_job_id=first.job_id,
        cluster=None,
        slurm_user=None,
        time_submitted=first.time_submitted - timedelta(seconds=1),
    )
    stored, _ = decide(known, *rows, now=(NOW - T0).total_seconds())
    return stored


def test_every_execution_has_a_sluid_of_its_own(rows, lines):
    assert all(row.sluid for row in rows)
    assert len({row.sluid for row in rows}) == len(rows)
    assert {line.sluid for line in lines} & {row.sluid for row in rows}


def test_both_executions_are_said_to_be_the_second(rows):
    """slurmctld was reconfigured, or started anew, while the first one completed for its requeue."""
    jobs = {row.job_id for row in rows if row.job_name in ("watched", "stopped", "late")}
    assert len(jobs) == 6
    for job in jobs:
        first, second = (row for row in rows if row.job_id == job)
        assert (first.attempt, second.attempt) == (1, 1), "as recorded"
        stored = judged(first, second)
        assert [(attempt.attempt, attempt.status) for attempt in stored.attempts] == [
            (0, S.REQUEUED),
            (1, S.FAILED),
        ]
        assert (stored.status, stored.attempt) == (S.FAILED, 1)
        assert [attempt.attempt for attempt in judged(first).attempts] == [0]


def test_executions_are_told_one_after_the_other(rows):
    """Also in a storm, in which slurmctld was started anew."""
    for job in {row.job_id for row in rows if row.status is S.REQUEUED}:
        own = [row for row in rows if row.job_id == job]
        stored = judged(*own)
        assert [(attempt.attempt, attempt.status) for attempt in stored.attempts] == list(
            enumerate(row.status for row in own)
        )


@pytest.mark.parametrize("name", ["NumNodes", "MinMemoryNode"])
def test_a_job_that_changed_its_size_is_one_execution(rows, name):
    [row] = named(rows, name)
    assert row.status is S.COMPLETED
    assert row.resources["elapsed_s"] == (row.time_ended - row.time_started).total_seconds()
    assert 2.5 < row.resources["cpu_s"] < 4
    assert 40e6 < row.resources["max_rss_bytes"] < 100e6


def test_an_expedited_requeue_is_one(rows):
    stored = judged(*named(rows, "expedited"))
    assert [attempt.status for attempt in stored.attempts] == [S.REQUEUED, S.COMPLETED]
    assert [attempt.slurm_exit_code for attempt in stored.attempts] == [3, 0]


def test_a_component_without_a_script_is_a_component(rows):
    first, external = named_het(rows)
    assert (first.het_offset, external.het_offset) == (0, 1)
    assert (first.status, first.slurm_exit_code) == (S.FAILED, 3)


def named_het(rows):
    """The components of the one heterogeneous job."""
    return sorted((row for row in rows if row.job_name == "mixed.sh"), key=lambda row: row.het_offset)
