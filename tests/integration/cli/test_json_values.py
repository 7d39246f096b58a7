"""Lists and objects as values of metrics: every reader has them, each in its form."""

from __future__ import annotations

import csv
import json

import pytest

from hpctrack import Client
from hpctrack.script.journal_lines import Json
from tests.support.journals import Journal

LONG = list(range(1000))
VALUES = [[1, [2.5, "a b"]], {"x": None, "\u202e": "\x1b[31m"}, "text", 7.5]


@pytest.fixture(params=[None, "eval"])
def logged(request, ingest, run):
    """A run with JSON, a text and a number in one metric, and a long list in another; also as a series."""
    run_id = run()
    rows = [
        {"step": step, "boxes": Json(json.dumps(value)) if isinstance(value, list | dict) else value}
        for step, value in enumerate(VALUES)
    ]
    rows[2]["long"] = Json(json.dumps(LONG))
    ingest.store([Journal(run_id).rows(*rows, series=request.param)])
    return () if request.param is None else ("--series", request.param)


def test_tables_have_compact_json_cut_where_it_is_long(printed, logged):
    out = printed("metrics", "r1", *logged)
    assert '[1,[2.5,"a b"]]' in out
    assert "[0,1,2,3," in out
    assert "...]" in out
    assert "999" not in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "...]" in printed("metrics", "r1", "--last", *logged)


def test_csv_and_json_have_all_of_it(printed, logged):
    rows = list(csv.DictReader(printed("metrics", "r1", "--csv", *logged).splitlines()))
    assert [rows[0]["boxes"], rows[2]["boxes"], rows[3]["boxes"]] == ['[1,[2.5,"a b"]]', "text", "7.5"]
    assert json.loads(rows[1]["boxes"]) == VALUES[1]
    assert rows[2]["long"] == json.dumps(LONG, separators=(",", ":"))
    told = json.loads(printed("metrics", "r1", "--json", *logged))["rows"]
    assert [row["values"]["boxes"] for row in told] == VALUES
    assert told[2]["values"]["long"] == LONG
    last = json.loads(printed("metrics", "r1", "long", "--last", "--json", *logged))["last"]
    assert last["long"]["value"] == LONG


def test_python_has_lists_and_files_have_json(database, tmp_path, logged):
    with Client(settings=database) as client:
        run, series = client.run(1), logged[-1] if logged else None
        frame = run.metrics() if series is None else run.series(series)
        assert frame.boxes.tolist() == VALUES
        assert frame.long.tolist() == [None, None, LONG, None]
        table = run.metrics(format="arrow") if series is None else run.series(series, format="arrow")
        expected = [
            '[1,[2.5,"a b"]]',
            json.dumps(VALUES[1], ensure_ascii=False, separators=(",", ":")),
            "text",
            "7.5",
        ]
        assert table.column("boxes").to_pylist() == expected
        runs = client.runs(1)
        for ending in ("parquet", "csv", "jsonl"):
            runs.export(tmp_path / f"x.{ending}", series=series)
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "x.parquet").column("boxes").to_pylist() == expected
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert [row["boxes"] for row in rows][::2] == expected[::2]
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["boxes"] for line in lines] == VALUES
    assert lines[2]["long"] == LONG


def test_lists_show_that_there_is_one(printed, ingest, run):
    run_id = run()
    ingest.store([Journal(run_id).rows({"step": 0, "long": Json(json.dumps(LONG)), "short": Json("[1,2]")})])
    [told] = json.loads(printed("status", "--json"))["runs"]
    assert told["last"] == {"long": "[...]", "short": [1, 2]}
    lines = [line.split() for line in printed("show", "r1").splitlines()]
    assert ["long", "-", "[...]", "-", "-"] in lines
    assert ["short", "-", "[1,2]", "-", "-"] in lines
