"""Series of a run: rows apart from its metrics, with steps of their own, in every verb that reads rows."""

from __future__ import annotations

import csv
import json
import math

import pytest

from hpctrack import Client, errors
from hpctrack.store.read import completions
from tests.support.journals import A, B, Journal

EVAL = "eval %s"


@pytest.fixture
def logged(ingest, run):
    """A run with metrics and two series, one of which its second attempt resumed at step 2."""
    run_id = run(attempt=1)
    first, second = Journal(run_id, A, 0), Journal(run_id, B, 1)
    ingest.store(
        [
            first.rows(*({"step": step, "loss": 9.0 - step} for step in range(8))),
            first.rows(
                *({"step": step, "time": 1e9 + step, "acc": step / 10, "50%": step} for step in range(5)),
                {"step": 4, "only": 1.0},
                {"note": "x"},
                series=EVAL,
            ),
            first.rows({"step": 3, "progress": 0.5, "acc": math.nan, "label": "a"}, series="test"),
        ]
    )
    ingest.store([second.rows({"step": 2, "acc": 0.9}, {"step": 3, "acc": 0.8}, series=EVAL)])
    return run_id


def _rows(printed, *options):
    rows = json.loads(printed("metrics", "r1", "--json", *options))["rows"]
    return [(row["step"], row["values"]) for row in rows]


def test_metrics_prints_the_rows_of_a_series(printed, logged):
    assert _rows(printed) == [(step, {"loss": 9.0 - step}) for step in range(8)]
    expected = [
        (0, {"acc": 0.0, "50%": 0}), (1, {"acc": 0.1, "50%": 1}), (2, {"acc": 0.9, "50%": 2}),
        (3, {"acc": 0.8, "50%": 3}), (5, {"note": "x"}),
    ]  # fmt: skip
    assert _rows(printed, "--series", EVAL) == expected
    assert _rows(printed, "--series", EVAL, "--steps", "2:3", "-l", "1") == expected[3:4]
    assert _rows(printed, "--series", EVAL, "--all-attempts")[4] == (4, {"acc": 0.4, "50%": 4, "only": 1.0})
    assert _rows(printed, "--series", "test") == [(3, {"acc": "nan", "label": "a"})]
    assert [row[1] for row in _rows(printed, "a*", "--series", EVAL)] == [
        {"acc": value} for value in (0.0, 0.1, 0.9, 0.8)
    ]
    whole = json.loads(printed("metrics", "r1", "--json", "--series", EVAL))
    assert (whole["run"], whole["series"]) == ("r1", EVAL)


def test_metrics_of_a_series_as_table_and_csv(printed, logged):
    header, *lines = printed("metrics", "r1", "acc", "50%", "--series", EVAL).splitlines()
    assert header.split() == ["step", "attempt", "time", "acc", "50%"]
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3"]
    [row] = csv.DictReader(printed("metrics", "r1", "--series", "test", "--csv").splitlines())
    assert (row["step"], row["progress"], row["acc"], row["label"]) == ("3", "0.5", "nan", "a")
    last = json.loads(printed("metrics", "r1", "--series", EVAL, "--last", "--json"))["last"]
    assert {name: (value["step"], value["value"]) for name, value in last.items()} == {
        "50%": (3, 3), "acc": (3, 0.8), "note": (5, "x"),
    }  # fmt: skip


def test_unknown_series_and_metrics_are_said(cli, tmp_path, logged):
    for arguments in (
        ("metrics", "r1", "--series", "tets"),
        ("plot", "r1", "acc", "--series", "tets"),
        ("export", "r1", "-o", str(tmp_path / "x.csv"), "--series", "tets"),
    ):
        code, out, err = cli(*arguments)
        assert (code, out) == (errors.UsageError.exit_code, "")
        assert err == "hpctrack: no series 'tets' in r1: did you mean 'test'?\n"
    assert list(tmp_path.iterdir()) == []
    code, _, err = cli("metrics", "r1", "loss", "--series", "test")
    assert code == errors.UsageError.exit_code
    assert "no metric in series 'test' named 'loss': there are: acc, label" in err


def test_a_run_that_has_only_series_says_so(printed, ingest, run):
    run_id = run()
    ingest.store([Journal(run_id).rows({"step": 1, "x": 1.0}, series="only")])
    assert "series (--series): only" in printed("metrics", "r1")


def test_series_are_exported(printed, tmp_path, ingest, run, logged):
    other = run()
    ingest.store([Journal(other).rows({"step": 7, "acc": 0.7, "new": True}, series=EVAL)])
    file = tmp_path / "eval.csv"
    told = json.loads(printed("export", "r1", "r2", "-o", str(file), "--series", EVAL, "--json"))
    assert (told["rows"], told["runs"]) == (6, 2)
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(row["run"], row["step"], row["acc"]) for row in rows] == [
        ("1", "0", "0.0"), ("1", "1", "0.1"), ("1", "2", "0.9"), ("1", "3", "0.8"), ("1", "5", ""),
        ("2", "7", "0.7"),
    ]  # fmt: skip
    assert [row["new"] for row in rows][-1] == "true"


def test_charts_of_series(printed, logged):
    chart = printed("plot", "r1", "acc", "--series", EVAL)
    assert "acc" in chart
    assert "0.8" in chart


def test_show_names_the_series(printed, logged):
    told = json.loads(printed("show", "r1", "--json"))
    assert told["series"] == [{"name": EVAL, "rows": 9}, {"name": "test", "rows": 1}]
    assert [metric["name"] for metric in told["metrics"]] == ["loss"]
    [line] = [line.split(maxsplit=1) for line in printed("show", "r1").splitlines() if "series" in line]
    assert line == ["series", f"{EVAL}: 9 rows, test: 1 row"]


def test_series_in_python(database, tmp_path, logged):
    with Client(settings=database) as client:
        run = client.run(logged)
        assert run.series_names() == [EVAL, "test"]
        frame = run.series(EVAL)
        assert list(frame) == ["step", "progress", "time", "50%", "acc", "note", "only"]
        assert frame.step.tolist() == [0, 1, 2, 3, 5]
        assert frame.acc.tolist()[:4] == [0.0, 0.1, 0.9, 0.8]
        assert math.isnan(frame.acc.tolist()[4])
        assert frame.time[0].timestamp() == 1e9
        assert run.series(EVAL, "acc").step.tolist() == [0, 1, 2, 3]
        assert run.series(EVAL, ["only"], all_attempts=True).only.tolist() == [1.0]
        assert run.series("test", format="arrow").column("label").to_pylist() == ["a"]
        with pytest.raises(errors.UsageError, match="did you mean 'test'"):
            run.series("tests")
        with pytest.raises(errors.BadInput, match="no metric 'loss'"):
            run.series(EVAL, "loss")
        assert client.runs(logged).export(tmp_path / "x.jsonl", series=EVAL) == 5
        assert run.metric_names() == ["loss"]


def test_series_and_their_metrics_are_completed(connection, logged):
    source = completions.Source(connection)
    assert [(word.text, word.help) for word in source.series(["r1"], "")] == [
        (EVAL, "9 rows"), ("test", "1 row"),
    ]  # fmt: skip
    assert [word.text for word in source.series(["r1"], "t")] == ["test"]
    assert [word.text for word in source.metrics(["r1"], "", "test")] == ["acc", "label"]


def test_names_of_series_command_no_terminal(cli, ingest, run, tmp_path):
    evil = "\x1b[31m\u202ex"
    ingest.store([Journal(run()).rows({"step": 1, "acc": 1.0, evil: 2.0}, series=evil)])
    of_series = ("r1", "--series", evil)
    for arguments in (
        ("show", "r1"), ("show", "r1", "--json"), ("metrics", "r1"), ("metrics", *of_series),
        ("metrics", *of_series, "--json"), ("metrics", *of_series, "--last"), ("metrics", *of_series, "q"),
        ("plot", *of_series, "acc"), ("metrics", "r1", "--series", "y"),
        ("export", "r1", "--series", "y", "-o", str(tmp_path / "x.csv")),
    ):  # fmt: skip
        _, out, err = cli(*arguments)
        assert not {"\x1b", "\u202e"} & {*out, *err}, arguments
