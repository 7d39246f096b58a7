import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack import errors
from hpctrack.model import RunStatus
from hpctrack.slurm import parse, units
from tests.support.paths import DATA

RECORDINGS = DATA / "slurm-22.05.8"
RECORDED = "\x1f#\x1f"
D = "\x1fd3adb33f\x1f"
NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)
FIELDS = parse.sacct_fields((RECORDINGS / "sacct-helpformat.txt").read_text())
#: What squeue was asked for when it was recorded.
QUEUE_FIELDS = [field for field in parse.SQUEUE_FIELDS if field not in ("TimeUsed", "SLUID")]

QUEUED = {
    "JobID": "12", "JobArrayID": "12", "HetJobID": "N/A", "HetJobOffset": "N/A", "State": "RUNNING",
    "RestartCnt": "0", "SubmitTime": "1795223351", "StartTime": "1795223352", "EndTime": "N/A",
    "exit_code": "0", "UserName": "alice", "Partition": "main", "Account": "lab", "QOS": "normal",
    "TimeLimit": "1-02:03:04", "TimeUsed": "1-00:00:10", "BatchHost": "n1", "NodeList": "n[1-2]",
    "Reason": "None", "SLUID": "s955M8JB3T1200", "Name": "train",
}  # fmt: skip
ROW = {
    "JobID": "12", "JobIDRaw": "12", "Cluster": "mini", "State": "COMPLETED", "Submit": "1795223351",
    "Start": "1795223352", "End": "1795223362", "ExitCode": "0:0", "DerivedExitCode": "0:0",
    "User": "alice", "Partition": "main", "Account": "lab", "QOS": "normal", "TimelimitRaw": "60",
    "NodeList": "n1", "ElapsedRaw": "10", "TotalCPU": "00:01.500", "MaxRSS": "",
    "ReqTRES": "billing=1,cpu=1,mem=250M,node=1", "AllocTRES": "", "ConsumedEnergyRaw": "",
    "Restarts": "", "JobName": "train",
}  # fmt: skip


def at(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc)


def queue_text(*lines):
    records = [QUEUED | line for line in lines]
    return "".join("".join(record[f] + D for f in parse.SQUEUE_FIELDS) + "\n" for record in records)


def queued(*lines):
    return parse.squeue(queue_text(*lines), D, "mini", NOW)


def row_text(*rows):
    return "".join("".join((ROW | row)[f] + D for f in FIELDS) + "\n" for row in rows)


def accounted(*rows):
    return parse.sacct(row_text(*rows), D, FIELDS, NOW, {1000: "carol"}.get)


def recorded_rows():
    text = (RECORDINGS / "sacct.txt").read_text()
    return parse.sacct(text, RECORDED, FIELDS, NOW, lambda uid: f"user{uid}")


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


def test_components_of_a_het_job():
    facts = accounted({"JobID": "15+0", "JobIDRaw": "15"}, {"JobID": "15+1", "JobIDRaw": "16"})
    assert [(f.job_id, f.het_job_id, f.het_offset) for f in facts] == [(15, 15, 0), (16, 15, 1)]


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
    [fact] = parse.squeue(text, D, "mini", NOW, late=timedelta(seconds=4))
    assert fact.time_used == (None if told is None else timedelta(seconds=told))


def test_nothing_is_nothing():
    assert parse.squeue("", D, "mini", NOW) == []
    assert parse.squeue("\n", D, "mini", NOW) == []
    assert parse.sacct("", D, FIELDS, NOW) == []


def test_the_heading_of_another_cluster_is_passed_over():
    assert len(parse.squeue("CLUSTER: mini\n" + queue_text({}, {}), D, "mini", NOW)) == 2
    assert parse.squeue("CLUSTER: mini\n", D, "mini", NOW) == []


@given(st.integers(0, len(queue_text({}, {"JobID": "13"})) - 2))
def test_truncated_output_is_refused(cut):
    text = queue_text({}, {"JobID": "13"})[:cut]
    whole = {"", *(queue_text({}).removesuffix("\n") + end for end in ("", "\n"))}
    if text in whole:
        return
    with pytest.raises(errors.SlurmError):
        parse.squeue(text, D, "mini", NOW)


@pytest.mark.parametrize(
    "text",
    [
        "slurm_load_jobs error: something\n",
        "garbage" + D + "\n",
        D * len(parse.SQUEUE_FIELDS) + "\n",
        "x\n" + queue_text({}),
        queue_text({"JobID": "twelve"}),
        queue_text({"RestartCnt": "-"}),
        queue_text({"SubmitTime": "yesterday"}),
        queue_text({}) + "Segmentation fault\n",
    ],
)
def test_garbage_is_refused_and_named(text):
    with pytest.raises(errors.SlurmError, match=r"squeue printed what can't be read: '"):
        parse.squeue(text, D, "mini", NOW)


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
    text = "".join(ROW[field] + D for field in fields) + "\n"
    [fact] = parse.sacct(text, D, fields, NOW)
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
