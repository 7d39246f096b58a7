"""A run that was requeued, resumed at an older step and ended earlier: every verb says the same of it."""

from __future__ import annotations

import csv
import json

import pytest

from hpctrack import Client, errors
from hpctrack.store.ingest import summaries
from tests.support.journals import A, B, Journal, one


@pytest.fixture
def resumed(connection, ingest, run):
    """A run whose second attempt resumed at step 200 and ended at 270; the first had come to 1,100."""
    run_id = run(attempt=1)
    first, second = Journal(run_id, A, 0), Journal(run_id, B, 1)
    steps = [{"step": step, "loss": float(step)} for step in range(0, 1101, 10)]
    steps += [{"step": 150, "acc": 0.5, "label": "a"}, {"step": 1100, "acc": 0.9, "label": "b", "top": 1.0}]
    ingest.store([first.rows(*steps)])
    ingest.store([second.rows(*({"step": step, "loss": step + 0.5} for step in range(200, 271, 10)))])
    assert summaries.renew(connection, run_id)
    return run_id


def test_all_verbs_say_one_truth(connection, printed, run, resumed):
    [in_list] = json.loads(printed("status", "--json"))["runs"]
    assert in_list["last"] == {"loss": 270.5, "acc": 0.5, "label": "a"}
    assert one(connection, "SELECT last_step FROM run_latest") == (270,)
    shown = json.loads(printed("show", "r1", "--json"))
    assert [(metric["name"], metric["last"], metric["maximum"]) for metric in shown["metrics"]] == [
        ("acc", 0.5, 0.5), ("loss", 270.5, 270.5),
    ]  # fmt: skip
    last = json.loads(printed("metrics", "r1", "--last", "--json"))["last"]
    assert {name: value["value"] for name, value in last.items()} == in_list["last"]
    run()
    compared = json.loads(printed("compare", "r1", "r2", "--json"))["metrics"]
    assert compared["loss"] == {"last": [270.5, None], "minimum": [0.0, None], "maximum": [270.5, None]}


def _exported(path, printed, *options):
    printed("export", "r1", "-o", str(path), *options)
    return list(csv.DictReader(path.read_text().splitlines()))


def test_all_attempts_are_told_on_demand(printed, tmp_path, resumed):
    steps = [row["step"] for row in json.loads(printed("metrics", "r1", "--json"))["rows"]]
    assert (len(steps), max(steps)) == (28, 270)
    every = json.loads(printed("metrics", "r1", "--json", "--all-attempts"))["rows"]
    assert (len(every), every[-1]["step"]) == (111, 1100)
    assert every[-1]["values"] == {"loss": 1100.0, "label": "b", "acc": 0.9, "top": 1.0}
    last = json.loads(printed("metrics", "r1", "top", "--last", "--json", "--all-attempts"))["last"]
    assert last["top"]["value"] == 1.0
    file = tmp_path / "metrics.csv"
    assert len(_exported(file, printed)) == 28
    every = _exported(file, printed, "--all-attempts")
    assert (len(every), every[-1]["top"]) == (111, "1.0")


def test_charts_go_by_what_stands(cli, printed, resumed):
    assert "1000" not in printed("plot", "r1", "loss")
    assert "1000" in printed("plot", "r1", "loss", "--all-attempts")
    assert cli("plot", "r1", "top")[0] == errors.UsageError.exit_code
    assert "top" in printed("plot", "r1", "top", "--all-attempts")


@pytest.mark.parametrize("names", [None, ["loss"]])
def test_python_reads_what_stands_or_all(database, tmp_path, resumed, names):
    with Client(settings=database) as client:
        run = client.run(resumed)
        for asked in (run, client.runs(resumed), client.experiment("digits")):
            assert asked.metrics(names).step.max() == 270
            every = asked.metrics(names, all_attempts=True)
            assert (len(every), every.step.max()) == (111, 1100)
            table = asked.metrics(names, all_attempts=True, format="arrow")
            assert table.num_rows == 111
        assert set(run.metrics()) >= {"loss", "acc", "label"}
        assert "top" not in run.metrics()
        assert run.metrics("top", all_attempts=True).top.tolist() == [1.0]
        assert client.runs(resumed).export(tmp_path / "x.csv") == 28


def test_what_stands_is_shown_also_in_columns_of_other_types(connection, ingest, run):
    connection.execute("ALTER TABLE metrics ADD COLUMN n bigint, ADD COLUMN ok boolean, ADD COLUMN d date")
    run_id = run(attempt=1)
    first, second = Journal(run_id, A, 0), Journal(run_id, B, 1)
    ingest.store([first.rows({"step": 1, "n": 1 << 60, "ok": True}, {"step": 9, "n": 2, "ok": False})])
    connection.execute("UPDATE metrics SET d = '2026-01-31'")
    connection.execute("UPDATE run_latest SET last = last || '{\"d\": 0}'")
    ingest.store([second.rows({"step": 2, "loss": 1.0})])
    assert summaries.renew(connection, run_id)
    assert one(connection, "SELECT last FROM run_latest") == (
        {"n": {"int": str(1 << 60)}, "ok": True, "loss": 1.0, "d": "2026-01-31"},
    )
