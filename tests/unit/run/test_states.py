import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.run import states
from hpctrack.run.states import Ends, RunStatus, Stage
from tests.support.paths import DATA, DOCS


def test_compact_codes_are_different():
    codes = [status.code for status in RunStatus]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("status", RunStatus)
def test_words_and_codes_are_read_back(status):
    for text in (status.value, status.value.lower(), status.code, f"{status.value} by 1000"):
        assert states.status_of(text) is status


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("CANCELLED by 1000", RunStatus.CANCELLED),
        ("COMPLETED+", RunStatus.COMPLETED),
        ("CANCELLED+", RunStatus.CANCELLED),
        ("OUT_OF_ME+", RunStatus.OUT_OF_MEMORY),
        ("NODE_F+", RunStatus.NODE_FAIL),
        (" Running ", RunStatus.RUNNING),
        ("REQUEUE+", None),
        ("COMP+", None),
        ("HIBERNATING", None),
        ("?", None),
        ("", None),
        ("   ", None),
        ("+", None),
    ],
)
def test_odd_texts(text, status):
    assert states.status_of(text) is status


@given(st.text())
def test_no_other_text_is_an_end(text):
    status = states.status_of(text)
    if status is not None and status.ends is not Ends.NOTHING:
        word = text.split()[0].upper().rstrip("+")
        assert status.value.startswith(word) or status.code == word


def test_only_what_ended_ends_anything():
    for status in RunStatus:
        assert (status.stage is Stage.ENDED) == (status.ends is not Ends.NOTHING)


def test_what_slurm_starts_again_ends_no_run():
    attempt = {status for status in RunStatus if status.ends is Ends.ATTEMPT}
    assert attempt == {RunStatus.PREEMPTED, RunStatus.REQUEUED}
    assert RunStatus.REVOKED.ends is Ends.NOTHING


def test_the_table_agrees_with_what_was_recorded():
    """What squeue listed by itself is marked so; what accounting holds too."""
    folder = DATA / "slurm-22.05.8"
    words = {name: set(re.findall(r"\x1f#\x1f([A-Z_]{6,})\b", (folder / name).read_text())) for name in
             ("squeue.txt", "sacct.txt")}  # fmt: skip
    for status in RunStatus:
        assert status.squeue or status.value not in words["squeue.txt"]
        assert status.sacct or status.value not in words["sacct.txt"]
    assert {"PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "SPECIAL_EXIT"} <= words["squeue.txt"]
    assert {"PREEMPTED", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "REQUEUED"} <= words["sacct.txt"]


def test_the_documentation_has_the_same_table():
    rows = [line.split(" | ") for line in (DOCS / "states.md").read_text().splitlines()]
    told = {row[0].removeprefix("| "): row[1] for row in rows if len(row) == 6}
    assert told.items() >= {status.value: status.code for status in RunStatus}.items()
