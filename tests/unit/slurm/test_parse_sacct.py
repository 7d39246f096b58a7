"""What sacct prints: executions, what they used, and their parts where a job changed its size."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from hpctrack import errors
from hpctrack.run.states import RunStatus
from hpctrack.slurm import parse, units
from tests.support.slurm_output import (
    DELIMITER,
    NOW,
    ROW,
    accounted,
    at,
    queued,
    recorded_rows,
)


def test_recorded_executions():
    facts = recorded_rows()
    ends = Counter(fact.status for fact in facts)
    assert ends[RunStatus.REQUEUED] == 5
    assert ends[RunStatus.PREEMPTED] == 2
    assert ends[RunStatus.NODE_FAIL] == 2
    assert ends[RunStatus.PENDING] == 0, "a start that Slurm took back is no execution"
    by_job = {}
    for fact in facts:
        by_job.setdefault(fact.job_id, []).append(fact)
    assert [fact.status.name for fact in by_job[600325]] == ["REQUEUED", "REQUEUED", "FAILED"]
    assert [fact.slurm_exit_code for fact in by_job[600325]] == [111, 111, 5]


def test_the_start_that_slurm_wiped_comes_from_the_steps():
    [wiped, _] = [fact for fact in recorded_rows() if fact.job_id == 600327]
    assert (wiped.status, wiped.time_started) == (RunStatus.REQUEUED, at(1795227922))
    assert wiped.resources["elapsed_s"] == 0


def test_resources_have_units():
    [fact] = [fact for fact in recorded_rows() if fact.job_id == 600332]
    assert fact.resources["derived_exit_code"] == 7
    assert fact.resources["req_tres"] == {"billing": 2, "cpu": 2, "mem": 500 << 20, "node": 1}
    assert fact.resources["elapsed_s"] == 2
    assert fact.resources["max_rss_bytes"] > 1024
    assert 0 < fact.resources["cpu_s"] < 10


def test_energy_is_told_where_slurm_measures_it():
    joules = {word: accounted({"ConsumedEnergyRaw": word})[0].resources for word in ("1234", "0", "")}
    assert [resources.get("energy_j") for resources in joules.values()] == [1234, None, None]


def test_resources_belong_to_each_attempt():
    first, second = accounted(
        {"State": "PREEMPTED", "ElapsedRaw": "10", "AllocTRES": "cpu=1,mem=1G,gres/gpu=2"},
        {"JobIDRaw": "12.0", "MaxRSS": "3M"},
        {"Submit": "1795223370", "ElapsedRaw": "20", "AllocTRES": "cpu=1,mem=1G"},
        {"JobIDRaw": "12.0", "MaxRSS": "2M"},
    )
    assert (first.resources["elapsed_s"], first.resources["max_rss_bytes"]) == (10, 3 << 20)
    assert first.resources["alloc_tres"] == {"cpu": 1, "mem": 1 << 30, "gres/gpu": 2}
    assert (second.resources["elapsed_s"], second.resources["max_rss_bytes"]) == (20, 2 << 20)


def test_tasks_cancelled_together_are_one_fact():
    [fact] = [fact for fact in recorded_rows() if fact.job_id == 600338]
    assert (fact.array_job_id, fact.array_tasks, fact.time_started) == (600338, (range(4),), None)
    assert fact.reason == "CANCELLED by user1001"


def test_never_started_has_no_start():
    [fact] = [fact for fact in recorded_rows() if fact.job_id == 600324]
    assert (fact.status, fact.time_started, fact.node_list) == (RunStatus.CANCELLED, None, None)


def test_components_of_a_het_job():
    facts = accounted({"JobID": "15+0", "JobIDRaw": "15"}, {"JobID": "15+1", "JobIDRaw": "16"})
    assert [(f.job_id, f.het_job_id, f.het_offset) for f in facts] == [(15, 15, 0), (16, 15, 1)]


@pytest.mark.parametrize(
    "row", [{"JobIDRaw": "x"}, {"Submit": "9" * 20}, {"Submit": "soon"}, {"End": "1795223362.5x"}]
)
def test_garbage_of_sacct_is_refused(row):
    with pytest.raises(errors.SlurmError, match="sacct printed what can't be read"):
        accounted(row)


def test_fields_are_chosen_from_what_sacct_offers():
    few = "jobid JobIDRaw State Submit Start End User NodeList ExitCode Planned"
    fields = parse.sacct_fields(few)
    assert fields == ["JobID", "JobIDRaw", "State", "Submit", "Start", "End", "ExitCode", "User", "NodeList"]
    text = "".join(ROW[field] + DELIMITER for field in fields) + "\n"
    [fact] = parse.sacct(text, DELIMITER, fields, NOW)
    assert (fact.status, fact.node_list, fact.resources) == (RunStatus.COMPLETED, "n1", {})
    assert fact.time_started == at(1795223352)


def test_too_few_fields_are_an_error():
    with pytest.raises(errors.SlurmError, match="no field End, NodeList, Submit"):
        parse.sacct_fields("JobID JobIDRaw State Start User")


def test_memory_of_the_hungriest_step():
    [fact] = accounted(
        {},
        {"JobIDRaw": "12.batch", "MaxRSS": "216K"},
        {"JobIDRaw": "12.extern", "MaxRSS": ""},
        {"JobIDRaw": "12.0", "MaxRSS": "1.5G"},
    )
    assert fact.resources["max_rss_bytes"] == 3 << 29


def test_memory_that_was_never_sampled_is_unknown():
    [alone] = accounted({"MaxRSS": "0"}, {"JobIDRaw": "12.batch", "MaxRSS": "0"})
    [one_was] = accounted({}, {"JobIDRaw": "12.batch", "MaxRSS": "0"}, {"JobIDRaw": "12.0", "MaxRSS": "3M"})
    assert "max_rss_bytes" not in alone.resources and one_was.resources["max_rss_bytes"] == 3 << 20


@pytest.mark.parametrize(
    ("word", "unlimited"),
    [("UNLIMITED", True), ("365-00:00:00", True), ("1:00:00", False), ("NOT_SET", False), ("INVALID", False)],
)
def test_no_time_limit_is_told_from_one_that_is_not_known(word, unlimited):
    assert queued({"TimeLimit": word})[0].unlimited is unlimited
    in_books = {"365-00:00:00": "525600", "1:00:00": "60", "INVALID": "Partition_Limit"}.get(word, word)
    assert accounted({"TimelimitRaw": in_books})[0].unlimited is unlimited


def test_a_year_stands_for_no_time_limit():
    words = {
        "1440": timedelta(days=1),
        "525600": None,
        "UNLIMITED": None,
        "525601": timedelta(days=365, minutes=1),
    }
    assert {word: accounted({"TimelimitRaw": word})[0].time_limit for word in words} == words
    assert units.span("365-00:00:00") is None and units.span("364-00:00:00") == timedelta(days=364)


def test_steps_belong_to_their_own_execution():
    first, second = accounted(
        {"State": "REQUEUED", "Start": "None"},
        {"JobIDRaw": "12.batch", "MaxRSS": "1K", "Start": "1795223355"},
        {"Submit": "1795223370"},
        {"JobIDRaw": "12.batch", "MaxRSS": "2K"},
    )
    assert (first.resources["max_rss_bytes"], first.time_started) == (1024, at(1795223355))
    assert first.resources["elapsed_s"] == 7
    assert second.resources["max_rss_bytes"] == 2048


def test_a_resized_job_is_one_execution():
    [fact] = accounted(
        {"State": "RESIZING", "End": "1795223360"},
        {"Submit": "1795223360", "Start": "1795223360", "NodeList": "n[1-2]"},
    )
    assert (fact.status, fact.time_submitted, fact.time_started) == (
        RunStatus.COMPLETED, at(1795223351), at(1795223352),
    )  # fmt: skip


def test_what_a_resized_job_used_hangs_on_any_of_its_parts():
    """26.05 hangs all steps on the first row."""
    later = {"TotalCPU": "00:00:00", "ElapsedRaw": "1"}
    second = {"State": "RESIZING", "Submit": "1795223360", "Start": "1795223360", "End": "1795223361"}
    last = {"Submit": "1795223361", "Start": "1795223361", "AllocTRES": "cpu=2,mem=1G"}
    [fact] = accounted(
        {"State": "RESIZING", "End": "1795223360", "ElapsedRaw": "8", "TotalCPU": "00:07"},
        {"JobIDRaw": "12.batch", "JobID": "12.batch", "MaxRSS": "252M"},
        later | second,
        later | last,
    )
    assert fact.resources["cpu_s"] == 7
    assert fact.resources["max_rss_bytes"] == 252 << 20
    assert fact.resources["elapsed_s"] == 10
    assert fact.resources["alloc_tres"] == {"cpu": 2, "mem": 1 << 30}
    assert fact.time_submitted == at(1795223351)


def test_parts_that_have_the_same_start():
    """Seen with 22.05.8: one of two nodes was given up after four seconds of fifteen."""
    [fact] = accounted(
        {"State": "RESIZING", "Submit": "1795900860", "Start": "1795900860", "End": "1795900864",
         "ElapsedRaw": "4", "NodeList": "n[1-2]", "TimelimitRaw": "525600"},
        {"JobIDRaw": "12.batch", "JobID": "12.batch", "State": "RESIZING", "Start": "1795900860"},
        {"Submit": "1795900864", "Start": "1795900860", "End": "1795900875", "ElapsedRaw": "15"},
    )  # fmt: skip
    assert (fact.time_submitted, fact.time_started) == (at(1795900860), at(1795900860))
    assert (fact.time_ended, fact.resources["elapsed_s"], fact.node_list) == (at(1795900875), 15, "n1")


def test_what_slurm_did_not_measure_of_a_resized_job_is_not_known():
    """25.11 closes the steps with the first part, and measures nothing more."""
    parts = {"TotalCPU": "00:00:00", "State": "RESIZING", "End": "1795223360"}
    [fact] = accounted(
        {**parts, "ElapsedRaw": "3"},
        {**parts, "JobIDRaw": "12.batch", "JobID": "12.batch"},
        {"Submit": "1795223360", "Start": "1795223360", "TotalCPU": "00:00:00", "ElapsedRaw": "2"},
    )
    assert fact.resources["elapsed_s"] == 5
    assert not {"cpu_s", "max_rss_bytes"} & fact.resources.keys()


def test_a_job_that_was_resized_in_the_second_of_its_submission():
    [fact] = accounted({"State": "RESIZING", "End": "1795223351"}, {})
    assert (fact.status, fact.time_ended) == (RunStatus.COMPLETED, at(1795223362))


def test_who_cancelled():
    by_name, by_id = accounted(
        {"State": "CANCELLED by 1000"}, {"State": "CANCELLED by 77", "Submit": "1795223370"}
    )
    assert (by_name.reason, by_name.raw) == ("CANCELLED by carol", "CANCELLED by 1000")
    assert by_id.reason == "CANCELLED by 77"
