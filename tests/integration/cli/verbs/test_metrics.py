"""hpctrack metrics and hpctrack plot on real PostgreSQL."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from hpctrack.store.metrics import curves
from tests.support.paths import DOCS

T0 = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)
DOCUMENTED = DOCS / "json.md"


@pytest.fixture
def logged(connection, insert, run):
    """Insert a run with ten rows: loss in a column, the rest in extra."""
    connection.execute("ALTER TABLE metrics ADD COLUMN loss double precision")
    run_id = run(latest={"rows": 10, "last": {"loss": 9, "train/acc %": 1, "label": "x", "odd": 1}})
    for step in range(10):
        extra = {"train/acc %": step / 10}
        if step == 4:
            extra |= {"label": "four", "odd": {"float": "nan"}}
        if step == 5:
            extra |= {"loss": {"int": str(2**60)}}
        insert(
            "metrics", run_id=run_id, step=step, time=T0 + timedelta(minutes=step), attempt=0, extra=extra,
            loss=None if step == 5 else 10.5 - step,
        )  # fmt: skip
    return f"r{run_id}"


def rows(out):
    return list(csv.reader(io.StringIO(out)))


def test_a_table_has_a_row_for_each_step(cli, logged):
    code, out, err = cli("metrics", logged, "loss", "label")
    header, *lines = out.splitlines()
    assert (code, err) == (0, "")
    assert header.split() == ["step", "time", "loss", "label"]
    assert len(lines) == 10
    assert lines[4].split()[0] == "4"
    assert lines[4].split()[-2:] == ["6.5", "four"]
    assert lines[5].split()[-2:] == [str(2**60), "-"]


def test_names_may_be_patterns_and_rows_without_any_are_left_out(cli, logged):
    _, out, _ = cli("metrics", logged, "o*", "--csv")
    assert rows(out) == [
        ["step", "progress", "time", "restarts", "odd"],
        ["4", "0.0", "2026-01-31T12:04:00+00:00", "0", "nan"],
    ]
    _, out, _ = cli("metrics", logged, "train/*", "--csv")
    assert [row[-1] for row in rows(out)] == ["train/acc %", *(str(step / 10) for step in range(10))]
    _, out, _ = cli("metrics", logged, "--csv")
    assert rows(out)[0][4:] == ["label", "loss", "odd", "train/acc %"]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--steps", "3:5"], [3, 4, 5]),
        (["--steps", "8:"], [8, 9]),
        (["--steps", ":1"], [0, 1]),
        (["--steps", "4"], [4]),
        (["--steps", "20:"], []),
        (["--since", "2026-01-31T12:07+00:00"], [7, 8, 9]),
        (["--until", "2026-01-31T12:02+00:00"], [0, 1]),
        (["--limit", "2"], [8, 9]),
        (["--limit", "2", "--steps", ":4"], [3, 4]),
    ],
)
def test_windows(cli, logged, options, steps):
    code, out, _ = cli("metrics", logged, "--csv", *options)
    assert code == 0
    assert [int(row[0]) for row in rows(out)[1:]] == steps


def test_the_last_values(cli, logged):
    _, out, _ = cli("metrics", logged, "--last", "--csv", "--steps", ":6")
    found = {name: (value, step) for name, value, step, *_ in rows(out)[1:]}
    assert found == {
        "label": ("four", "4"),
        "loss": ("4.5", "6"),
        "odd": ("nan", "4"),
        "train/acc %": ("0.6", "6"),
    }
    _, out, _ = cli("metrics", logged, "loss", "--last")
    assert out.splitlines()[1].split()[:3] == ["loss", "1.5", "9"]


def documented_keys(heading):
    text = DOCUMENTED.read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
    return {
        word
        for line in text.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`(\w+)`", line.split("|")[1])
    }


def test_json_has_the_documented_keys(cli, logged):
    _, out, _ = cli("metrics", logged, "odd", "loss", "--steps", "4:5", "--json")
    told = json.loads(out, parse_constant=pytest.fail)
    assert told["run"] == logged
    assert [row["values"] for row in told["rows"]] == [{"odd": "nan", "loss": 6.5}, {"loss": 2**60}]
    _, out, _ = cli("metrics", logged, "odd", "--last", "--json")
    last = json.loads(out, parse_constant=pytest.fail)
    assert last["last"]["odd"]["value"] == "nan"
    keys = documented_keys("`hpctrack metrics RUN --json`")
    assert {*told, *told["rows"][0], *last, *last["last"]["odd"]} == keys


def test_a_run_without_metrics_says_so(cli, run):
    run()
    assert cli("metrics", "r1") == (0, "r1 has logged no metrics.\n", "")
    assert json.loads(cli("metrics", "r1", "--json")[1]) == {"run": "r1", "series": None, "rows": []}


def test_a_table_stops_at_fifty_rows(cli, connection, run):
    run(latest={"rows": 60, "last": {"x": 1}})
    connection.execute(
        "INSERT INTO metrics (run_id, step, extra) SELECT 1, i, '{\"x\": 1}' FROM generate_series(1, 60) i"
    )
    _, out, _ = cli("metrics", "r1")
    assert out.splitlines()[1].split()[0] == "11"
    assert out.splitlines()[-1] == "the last 50 rows; --limit, --csv and --json print more"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["metrics", "r9"], 3, "no run r9"),
        (["metrics", "r1", "acc"], 2, "r1 has no metric 'acc': there are: label, loss, odd, train/acc %"),
        (["metrics", "r1", "--csv", "--json"], 2, "do not go together"),
        (["metrics", "r1", "--steps", "a:b"], 2, "'a:b' is no range of steps"),
        (["metrics", "r1", "--steps", ":"], 2, "':' is no range of steps"),
        (["metrics", "r1", "--steps", "9" * 30], 2, "is no range of steps"),
        (["plot", "r9", "loss"], 3, "no run r9"),
        (["plot", "r1"], 2, "name a metric of r1: label, loss"),
        (
            ["plot", "r1", "acc"],
            2,
            "'acc' is neither a metric of r1 nor a run: there are: label, loss",
        ),
        (["plot", "r1", "loss", "acc"], 2, "no metric 'acc' in r1"),
        (["plot", "r1", "label"], 2, "nothing to draw: no numbers of label in r1"),
        (["plot", "r1", "loss", "-o", "x.gif"], 2, "x.gif: charts are written as .png"),
        (["plot", "r1", "loss", "-o", "/nowhere/x.svg"], 65, "/nowhere/x.svg: No such file or directory"),
    ],
)
def test_failures_are_one_line(cli, logged, arguments, code, said):
    exit_code, out, err = cli(*arguments)
    assert (exit_code, out) == (code, "")
    assert err.startswith("hpctrack: ")
    assert said in err
    assert err.count("\n") == 1


def test_several_runs_are_drawn_into_one_chart(cli, insert, run, logged):
    other = run(job_name="other.sh", latest={"last": {"loss": 1}})
    for step in range(10):
        insert("metrics", run_id=other, step=step, loss=step)
    code, out, _ = cli("plot", logged, f"r{other}", "loss", "train/*")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].strip() == "loss"
    assert f"  ⠤⠤ {logged} train.sh" in lines
    assert f"  ●● r{other} other.sh" in lines
    assert any(line.strip() == f"{logged} train.sh: train/acc %" for line in lines)


def test_a_run_may_be_named_between(cli, insert, run, logged):
    other = run(job_name="other.sh", latest={"last": {"loss": 1}})
    insert("metrics", run_id=other, step=1, loss=3)
    code, out, _ = cli("plot", logged, "other", "loss")
    assert code == 0
    assert f"  ●● r{other} other.sh" in out.splitlines()


@pytest.fixture
def spiky(connection, run):
    """Insert a run of 30,000 steps, all 0 but one."""
    connection.execute("ALTER TABLE metrics ADD COLUMN loss double precision")
    run_id = run(latest={"rows": 30000, "last": {"loss": 0}})
    connection.execute(
        "INSERT INTO metrics (run_id, step, loss) SELECT %s, i, CASE WHEN i = 12345 THEN 77 ELSE 0 END"
        " FROM generate_series(1, 30000) i",
        (run_id,),
    )
    return run_id


def test_a_spike_of_one_step_stays_visible(cli, connection, spiky):
    (only,) = curves.fetch(connection, spiky, ["loss"], buckets=100)
    assert len(only.buckets) == 100
    assert [bucket.maximum for bucket in only.buckets if bucket.maximum] == [77]
    _, out, _ = cli("plot", f"r{spiky}", "loss")
    # The line goes up to the spike: through all rows of the chart.
    assert sum(bool(re.search("[⠁-⣿]", line)) for line in out.splitlines()) >= 12


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf", "html"])
def test_charts_go_into_files(cli, tmp_path, spiky, suffix):
    path = tmp_path / f"chart.{suffix}"
    code, out, err = cli("plot", f"r{spiky}", "loss", "--output", str(path))
    assert (code, out, err) == (0, "", "")
    content = path.read_bytes()
    begins = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "html": b"<!doctype html>"}
    assert content.startswith(begins[suffix])
    if suffix == "html":
        assert b"train.sh: loss" in content


def test_a_missing_library_is_named(cli, logged, tmp_path):
    hiding = "import sys; sys.modules['matplotlib'] = sys.modules['plotly'] = None\nimport importlib.util\n"
    hiding += "from hpctrack.cli.main import main; main()"
    for suffix, library in (("png", "matplotlib"), ("html", "plotly")):
        done = subprocess.run(
            [sys.executable, "-c", hiding, "plot", logged, "loss", "-o", str(tmp_path / f"x.{suffix}")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 69, done.stderr
        assert f".{suffix} files need {library}: pip install 'hpctrack[plot]'" in done.stderr
        assert done.stderr.count("\n") == 1


def test_what_is_read_depends_on_no_setting_of_the_server(printed, logged, monkeypatch, caplog):
    asked = [["metrics", "r1", "--csv"], ["metrics", "r1", "--json"], ["metrics", "r1", "--last", "--json"]]
    before = [printed(*arguments) for arguments in asked]
    odd = [
        "extra_float_digits=-5", "intervalstyle=iso_8601", "datestyle=German", "bytea_output=escape",
        "timezone=<+05>-5",
    ]  # fmt: skip
    monkeypatch.setenv("PGOPTIONS", " ".join(f"-c {setting}" for setting in odd))
    assert [printed(*arguments) for arguments in asked] == before
    assert not caplog.records  # psycopg warns of zones that it does not know
