"""What squeue prints, and what no name in the output of either command can forge."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack import errors
from hpctrack.run.states import RunStatus
from hpctrack.slurm import parse
from tests.support.slurm_output import (
    DELIMITER,
    FIELDS,
    NOW,
    QUEUE_FIELDS,
    RECORDED,
    RECORDINGS,
    accounted,
    at,
    queue_text,
    queued,
)


def test_every_recorded_line_of_squeue_is_read():
    facts = parse.squeue((RECORDINGS / "squeue.txt").read_text(), RECORDED, "mini", NOW, QUEUE_FIELDS)
    seen = Counter(fact.status for fact in facts)
    words = {status.name for status in seen}
    assert words == {"PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "SPECIAL_EXIT"}
    assert {fact.slurm_user for fact in facts} == {"hpcalice"}
    assert {fact.cluster for fact in facts} == {"mini"}
    assert max(fact.attempt for fact in facts) == 2
    for fact in facts:
        assert (fact.time_started is None) == (
            fact.status in (RunStatus.PENDING, RunStatus.SPECIAL_EXIT)
        ) or (fact.status is RunStatus.COMPLETING and fact.attempt)
        assert fact.time_ended is None
    assert next(f.job_name for f in facts if f.partition == "hidden") == 'a\nname|with "quotes"\x1f and é'
    reasons = {fact.reason for fact in facts}
    assert {"DependencyNeverSatisfied", "JobHeldUser", "job requeued in held state", None} <= reasons
    [het] = {(f.het_job_id, f.het_offset) for f in facts if f.het_offset}
    assert het == (600333, 1)
    lines = {f.array_tasks for f in facts if f.array_job_id == 600337}
    assert tuple(range(n, n + 1) for n in (1, 3, 5, 7, 9)) in lines


def test_recorded_ends_in_slurmctlds_memory():
    facts = parse.squeue(
        (RECORDINGS / "squeue-states-all.txt").read_text(), RECORDED, "mini", NOW, QUEUE_FIELDS
    )
    by_end = {fact.status: fact for fact in facts}
    failed = by_end[RunStatus.OUT_OF_MEMORY]
    assert (failed.slurm_exit_code, failed.slurm_exit_signal) == (0, 125)
    assert failed.time_ended and failed.time_started
    never = [fact for fact in facts if fact.status is RunStatus.CANCELLED and fact.node_list is None]
    assert never
    assert all(fact.time_started is None for fact in never)


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("slurm 26.05.3", True),
        ("slurm 25.11.0-0rc2", True),
        ("slurm 25.05.1", False),
        ("slurm-wlm 22.05.8", False),
        ("", False),
    ],
)
def test_squeue_is_asked_for_sluids_where_it_knows_them(version, known):
    fields = parse.squeue_fields(version)
    assert ("SLUID" in fields) == known
    assert [field for field in parse.SQUEUE_FIELDS if field != "SLUID"] == [f for f in fields if f != "SLUID"]


def test_a_line_for_several_tasks_has_the_sluid_of_none():
    assert queued({}, {"JobArrayID": "12_[1-3]"})[0].sluid == "s955M8JB3T1200"
    assert [fact.sluid for fact in queued({"JobArrayID": "12_[1-3]"})] == [None]


def test_a_line_of_squeue():
    [fact] = queued({})
    assert (fact.source, fact.job_id, fact.status, fact.attempt) == ("squeue", 12, RunStatus.RUNNING, 0)
    assert (fact.time_submitted, fact.time_started, fact.time) == (at(1795223351), at(1795223352), NOW)
    assert fact.time_limit == timedelta(days=1, hours=2, minutes=3, seconds=4)
    assert (fact.node_list, fact.batch_host, fact.reason) == ("n[1-2]", "n1", None)
    assert (fact.slurm_exit_code, fact.time_ended) == (None, None)


def test_a_forecast_is_no_start():
    [fact] = queued({"State": "PENDING", "StartTime": "1795229999", "NodeList": "", "BatchHost": "n/a"})
    assert (fact.time_started, fact.node_list, fact.batch_host) == (None, None, None)


@pytest.mark.parametrize("state", ["HIBERNATING", "?", "COMPLETED_LATER"])
def test_an_unknown_word_is_kept_and_no_end(state):
    [fact] = queued({"State": state})
    assert (fact.status, fact.raw, fact.time_ended) == (None, state, None)


@pytest.mark.parametrize(
    ("text", "array", "task", "tasks"),
    [
        ("123_4", 123, 4, ()),
        ("123_[4]", 123, None, (range(4, 5),)),
        ("123_[1-5,7%2]", 123, None, (range(1, 6), range(7, 8))),
        ("123_[0-15:4,20]", 123, None, (range(0, 16, 4), range(20, 21))),
        ("123_[1,3,5,...]", 123, None, (range(1, 2), range(3, 4), range(5, 6))),
        ("123_[1-9,11-2", 123, None, (range(1, 10), range(11, 3))),
        ("123", None, None, ()),
        ("123+1", None, None, ()),
    ],
)
def test_arrays(text, array, task, tasks):
    [fact] = queued({"JobArrayID": text, "JobID": "123"})
    assert (fact.array_job_id, fact.array_task_id, fact.array_tasks) == (array, task, tasks)


def test_ten_thousand_pending_tasks_are_one_fact():
    [fact] = queued({"JobArrayID": "5_[0-9999%10]", "State": "PENDING"})
    assert fact.array_tasks == (range(10_000),)


FORGED = "\n99\x1f99\x1fCOMPLETED\x1f\n99|99|COMPLETED|\n99\x1fdeadbeef\x1f99\x1fdeadbeef\x1f"


@pytest.mark.parametrize("name", ["a|b", "\nx", "x\n", "a\nb\nc", FORGED, "\x1f", "", "  ", "ü 'q' \"d\""])
def test_a_name_forges_nothing(name):
    facts = queued({"Name": name}, {"JobID": "13", "Name": name})
    assert [(fact.job_id, fact.job_name) for fact in facts] == [(12, name), (13, name)]
    facts = accounted({"JobName": name}, {"JobID": "13", "JobIDRaw": "13", "JobName": name})
    assert [(fact.job_id, fact.job_name) for fact in facts] == [(12, name), (13, name)]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_and_reason(name, reason):
    [fact] = queued({"Name": name, "Reason": reason})
    assert fact.job_name == name
    assert fact.reason in (reason, None)


def test_bytes_that_are_no_text_are_replaced():
    [fact] = queued({"Name": b"caf\xe9".decode("utf-8", "surrogateescape")})
    assert fact.job_name == "caf\ufffd"


@pytest.mark.parametrize(
    ("state", "used", "told"),
    [
        ("RUNNING", "1-00:00:10", 86400 + 6), ("RUNNING", "0:02", 0), ("SUSPENDED", "1:10", 70),
        ("COMPLETING", "1:10", None), ("PENDING", "0:00", None), ("RUNNING", "INVALID", None),
    ],
)  # fmt: skip
def test_how_long_a_job_has_run_when_squeue_was_asked(state, used, told):
    """It answered four seconds later, and says how long when it prints."""
    text = queue_text({"State": state, "TimeUsed": used})
    [fact] = parse.squeue(text, DELIMITER, "mini", NOW, late=timedelta(seconds=4))
    assert fact.time_used == (None if told is None else timedelta(seconds=told))


def test_nothing_is_nothing():
    assert parse.squeue("", DELIMITER, "mini", NOW) == []
    assert parse.squeue("\n", DELIMITER, "mini", NOW) == []
    assert parse.sacct("", DELIMITER, FIELDS, NOW) == []


def test_the_heading_of_another_cluster_is_passed_over():
    assert len(parse.squeue("CLUSTER: mini\n" + queue_text({}, {}), DELIMITER, "mini", NOW)) == 2
    assert parse.squeue("CLUSTER: mini\n", DELIMITER, "mini", NOW) == []


@given(st.integers(0, len(queue_text({}, {"JobID": "13"})) - 2))
def test_truncated_output_is_refused(cut):
    text = queue_text({}, {"JobID": "13"})[:cut]
    whole = {"", *(queue_text({}).removesuffix("\n") + end for end in ("", "\n"))}
    if text in whole:
        return
    with pytest.raises(errors.SlurmError):
        parse.squeue(text, DELIMITER, "mini", NOW)


@pytest.mark.parametrize(
    "text",
    [
        "slurm_load_jobs error: something\n",
        "garbage" + DELIMITER + "\n",
        DELIMITER * len(parse.SQUEUE_FIELDS) + "\n",
        "x\n" + queue_text({}),
        queue_text({"JobID": "twelve"}),
        queue_text({"RestartCnt": "-"}),
        queue_text({"SubmitTime": "yesterday"}),
        queue_text({}) + "Segmentation fault\n",
    ],
)
def test_garbage_is_refused_and_named(text):
    with pytest.raises(errors.SlurmError, match=r"squeue printed what can't be read: '"):
        parse.squeue(text, DELIMITER, "mini", NOW)
