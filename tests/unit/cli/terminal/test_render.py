"""Records to text and JSON."""

import io
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.cli.terminal import render, table
from hpctrack.model import RunStatus
from hpctrack.run.words import UNKNOWN_TO_SLURM
from hpctrack.store.metrics.series import Bucket, Series
from hpctrack.store.read.queries import Cluster, RunRow

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)
RUN = RunRow(
    id=7, experiment="digits", status=RunStatus.RUNNING, time_created=NOW - timedelta(minutes=10),
    time_started=NOW - timedelta(minutes=9), time_ended=None, tags=None, args=None, user_name="alice",
    cluster="demo", slurm_job_id=17, array_job_id=14, array_task_id=3, het_job_id=None, job_name="train.sh",
    partition="main", account=None, qos=None, comment=None, time_limit=timedelta(hours=1), attempt=0,
    exit_code=None, exit_signal=None, reason=None, node_list="n1", slurm_state="RUNNING", missing_since=None,
    silent_since=None, last_step=3, last={}, rows=3, lost=0, waiting=0,
)  # fmt: skip


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
    assert render.duration(None if seconds is None else timedelta(seconds=seconds)) == expected


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
    assert render.size(count) == expected


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
    assert render.number(value) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(None, "-"), (0, "0%"), (1e-9, "<0.1%"), (0.005, "0.5%"), (0.5, "50%"), (2, "200%")],
)
def test_shares(ratio, expected):
    assert render.percent(ratio) == expected


@pytest.mark.parametrize(
    ("code", "signal", "expected"),
    [
        (None, None, "-"),
        (0, None, "0"),
        (3, 0, "3"),
        (None, 11, "SIGSEGV"),
        (1, 9, "SIGKILL"),
        (None, 250, "signal 250"),
    ],
)
def test_exits(code, signal, expected):
    assert render.exit_text(code, signal) == expected


@given(st.text())
def test_no_text_can_command_the_terminal(text):
    line = render.clean(text)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line)
    for one in render.clean_lines(text):
        assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in one)
    for one in (render.harmless(text), render.to_json({text: text})):
        assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in one.replace("\n", ""))
    assert json.loads(render.to_json({text: text})) == {text: text}


@pytest.mark.parametrize("terminal", [False, True])
def test_csv_is_as_it_is_but_on_a_terminal(monkeypatch, terminal):
    output = io.StringIO()
    output.isatty = lambda: terminal
    monkeypatch.setattr("sys.stdout", output)
    table.ForPrograms().writelines(["a,\x1b[2J\n", "\u202eb,\x9b2J\n"])
    expected = "a,\\u001b[2J\n\\u202eb,\\u009b2J\n" if terminal else "a,\x1b[2J\n\u202eb,\x9b2J\n"
    assert output.getvalue() == expected


def test_output_of_programs_loses_colours_and_overwritten_progress():
    text = "\x1b[31mError\x1b[0m: no\r\n 10%|#  |\r 20%|## |\n\tlast\x07\n"
    assert render.clean_lines(text) == ["Error: no", " 20%|## |", "        last\\x07"]


@pytest.mark.parametrize("status", RunStatus)
def test_every_state_is_written_out_beside_its_glyph(status):
    assert render.state(status).plain.split()[1] == status.value
    assert render.state(status, plain=True).plain == status.value


def test_a_state_that_we_do_not_know_is_slurms_word():
    assert render.state(None, "QUANTUM").plain == "QUANTUM"


def test_families_of_states_differ_in_glyph_and_colour():
    looks = [
        render.state(status)
        for status in (
            RunStatus.PENDING,
            RunStatus.RUNNING,
            RunStatus.COMPLETED,
            RunStatus.CANCELLED,
            RunStatus.FAILED,
        )
    ]
    assert len({look.plain[0] for look in looks}) == len({str(look.style) for look in looks}) == 5


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
    assert render.notes(replace(RUN, **changes)) == expected


def test_a_job_that_slurm_has_forgotten_is_noted_until_it_is_over():
    assert render.notes(replace(RUN, missing_since=NOW)) == [], "accounting may know it"
    missing = replace(RUN, missing_since=NOW, reason=UNKNOWN_TO_SLURM)
    assert render.notes(missing)[0].startswith("unknown to Slurm since 20")
    assert len(render.notes(missing)) == 1
    assert render.notes(replace(missing, time_ended=NOW)) == [UNKNOWN_TO_SLURM]


def test_a_machine_that_is_silent_is_noted():
    assert render.notes(replace(RUN, silent_since=NOW))[0].startswith("not heard from since 20")


def test_elapsed_stands_still_when_the_run_has_ended():
    assert RUN.elapsed(NOW) == timedelta(minutes=9)
    assert replace(RUN, time_ended=NOW - timedelta(minutes=4)).elapsed(NOW) == timedelta(minutes=5)
    assert replace(RUN, time_started=None).elapsed(NOW) is None


def test_a_silent_slurm_is_told_with_since_when():
    cluster = Cluster("demo", NOW, NOW - timedelta(minutes=5), "connection\nrefused")
    line = render.cluster_warning(cluster, NOW)
    assert line is not None
    assert "cluster demo" in line
    assert "(5:00 ago)" in line
    assert "connection\\nrefused" in line
    assert render.cluster_warning(replace(cluster, unreachable_since=None), NOW) is None


def series(*values: float | tuple[float, float]) -> Series:
    pairs = [value if isinstance(value, tuple) else (value, value) for value in values]
    buckets = tuple(Bucket(float(x), 1, low, high) for x, (low, high) in enumerate(pairs))
    return Series(
        "loss", "step", len(pairs), 0, pairs[0][0], pairs[-1][1],
        min(low for low, _ in pairs), max(high for _, high in pairs), buckets,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 1, 2, 3, 4, 5, 6, 7), "▁▂▃▄▅▆▇█"),
        ((5, 5, 5), "▄▄▄"),
        ((1.0,), "▄"),
        ((-1.7e308, 1.7e308), "▁█"),
        ((0, (0, 100), 0, (50, 50)), "▁█▁▅"),
        ((100, (0, 100), 100, (50, 50)), "███▅"),
    ],
)
def test_sparklines_keep_the_peaks(values, expected):
    assert render.sparkline(series(*values), 40) == expected


def test_a_sparkline_of_nothing_finite_is_empty():
    assert render.sparkline(replace(series(1.0), minimum=None, maximum=None, buckets=()), 40) == ""


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60), st.integers(1, 50)
)
def test_a_sparkline_is_never_wider_than_asked(values, width):
    assert 1 <= len(render.sparkline(series(*values), width)) <= width


def test_json_is_json_whatever_the_values_are():
    run = replace(
        RUN,
        last={"a": float("nan"), "b": float("-inf"), "c": 2**70, "d": "x\x1b", "e": None},
        tags={"t": None},
    )
    found = json.loads(render.to_json(render.run_json(run, NOW)), parse_constant=pytest.fail)
    assert found["last"] == {"a": "nan", "b": "-inf", "c": 2**70, "d": "x\x1b", "e": None}
    assert found["run"] == "r7"
    assert found["job_id"] == "14_3"
    assert found["state"] == "RUNNING"
    assert found["elapsed_s"] == 540
    assert found["time_limit_s"] == 3600
    assert found["time_created"] == "2026-01-31T11:50:00+00:00"
    assert found["time_ended"] is None
