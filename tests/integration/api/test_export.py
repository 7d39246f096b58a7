"""hpctrack export: Parquet, CSV and JSON Lines; whole files or none."""

import csv
import datetime
import json
import math
import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from hpctrack import Client
from hpctrack.cli import main
from hpctrack.store.metrics import copy_out
from tests.support.waiting import eventually

T0 = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)


@pytest.fixture
def config(database, tmp_path, monkeypatch):
    """A configuration file of the test's database."""
    path = tmp_path / "hpctrack.conf"
    lines = [f"{key} = {value}" for key, value in database.dsn.items()]
    path.write_text("\n".join([*lines, f"data_dir = {database.data_dir}"]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def hpctrack(config, capsys):
    """Run a command; returns its exit code, output and errors."""

    def run(*words):
        code = main.run([words[0], "-c", str(config), *map(str, words[1:])])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def logged(run, insert, connection):
    """Two runs with rows of all kinds of values; returns their ids."""
    connection.execute("ALTER TABLE metrics ADD loss double precision, ADD epoch integer, ADD best boolean")
    one, other = run(), run()
    insert(
        "metrics", run_id=one, step=1, time=T0, attempt=0, loss=0.5, epoch=3, best=True, extra={"word": "ä,b"}
    )
    insert("metrics", run_id=one, step=2, progress=0.5, attempt=1, loss=math.nan, extra={"acc": 1})
    insert("metrics", run_id=other, step=1, attempt=0, extra={"acc": 0.25, "epoch": 3.5, "mixed": "a"})
    insert("metrics", run_id=other, step=2, attempt=0, extra={"mixed": {"int": str(1 << 70)}})
    return one, other


ROWS = [
    {
        "step": 1,
        "progress": 0.0,
        "time": T0,
        "restarts": 0,
        "loss": 0.5,
        "epoch": 3.0,
        "best": True,
        "word": "ä,b",
    },
    {"step": 2, "progress": 0.5, "restarts": 1, "loss": math.nan, "acc": 1.0},
    {"step": 1, "progress": 0.0, "restarts": 0, "acc": 0.25, "epoch": 3.5, "mixed": "a"},
    {"step": 2, "progress": 0.0, "restarts": 0, "mixed": str(1 << 70)},
]
COLUMNS = ["run", "step", "progress", "time", "restarts", "acc", "best", "epoch", "loss", "mixed", "word"]


def expected(logged):
    one, other = logged
    return [{"run": run, **row} for run, row in zip((one, one, other, other), ROWS, strict=True)]


def test_parquet_has_types(hpctrack, logged, tmp_path):
    path = tmp_path / "runs.parquet"
    code, out, _ = hpctrack("export", *(f"r{run}" for run in logged), "--to", path)
    assert (code, out) == (0, f"{path}: 4 rows of 2 runs\n")
    table = pq.read_table(path)
    assert table.column_names == COLUMNS
    types = dict(zip(table.schema.names, map(str, table.schema.types), strict=True))
    assert types == {
        "run": "int64", "step": "int64", "progress": "double", "time": "timestamp[us, tz=UTC]",
        "restarts": "int64", "acc": "double", "best": "bool", "epoch": "double", "loss": "double",
        "mixed": "string", "word": "string",
    }  # fmt: skip
    found = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
    assert found[0].pop("time") == T0
    wanted = expected(logged)
    del wanted[0]["time"]
    assert repr(sorted_(found)) == repr(sorted_(wanted))


def sorted_(rows):
    return [dict(sorted(row.items())) for row in rows]


def test_csv(hpctrack, logged, tmp_path):
    path = tmp_path / "runs.csv"
    assert hpctrack("export", "--experiment", "digits", "-o", path)[0] == 0
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == COLUMNS
    first = dict(zip(header, rows[0], strict=True))
    assert first == {
        "run": str(logged[0]), "step": "1", "progress": "0.0", "time": "2026-01-31T12:00:00.000000+00:00",
        "restarts": "0", "acc": "", "best": "true", "epoch": "3.0", "loss": "0.5", "mixed": "", "word": "ä,b",
    }  # fmt: skip
    assert dict(zip(header, rows[1], strict=True))["loss"] == "nan"


def test_json_lines_leave_out_what_is_missing(hpctrack, logged, tmp_path):
    path = tmp_path / "runs.jsonl"
    code, out, _ = hpctrack("export", f"r{logged[0]}", f"r{logged[1]}", "--to", path, "--json")
    assert code == 0
    assert json.loads(out) == {"file": str(path), "runs": 2, "rows": 4, "bytes": path.stat().st_size}
    told = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wanted = expected(logged)
    wanted[0]["time"] = "2026-01-31T12:00:00.000000+00:00"
    wanted[1]["loss"] = "nan"
    wanted[3]["mixed"] = 1 << 70
    assert sorted_(told) == sorted_(wanted)


def test_the_api_exports_too(database, logged, tmp_path):
    with Client(settings=database) as client:
        assert client.experiment("digits").runs().export(tmp_path / "runs.parquet") == 4
    assert pq.read_metadata(tmp_path / "runs.parquet").num_rows == 4


def test_an_existing_file_is_replaced_and_a_failure_keeps_it(hpctrack, logged, tmp_path, connection):
    path = tmp_path / "runs.csv"
    path.write_text("old", encoding="utf-8")
    connection.execute("ALTER TABLE metrics RENAME COLUMN progress TO gone")
    code, _, err = hpctrack("export", f"r{logged[0]}", "--to", path)
    assert code != 0
    assert err.count("\n") == 1
    assert path.read_text(encoding="utf-8") == "old"
    connection.execute("ALTER TABLE metrics RENAME COLUMN gone TO progress")
    assert hpctrack("export", f"r{logged[0]}", "--to", path)[0] == 0
    assert path.read_text(encoding="utf-8").startswith("run,step")
    assert sorted(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--to", "x.csv"], 2, "name runs, or an experiment"),
        (["r1", "-E", "e", "--to", "x.csv"], 2, "name runs, or an experiment"),
        (["r1", "--to", "x.xlsx"], 2, "ends with .parquet, .csv, .jsonl"),
        (["r999", "--to", "x.csv"], 3, "no run r999"),
        (["-E", "nothing", "--to", "x.csv"], 3, "no experiment 'nothing'"),
    ],
)
def test_bad_input_is_one_line(hpctrack, words, code, said):
    exit_code, _, err = hpctrack("export", *words)
    assert (exit_code, err.count("\n")) == (code, 1)
    assert said in err


def test_without_pyarrow_it_is_said_what_to_install(hpctrack, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = hpctrack("export", "r1", "--to", "x.parquet")
    assert code == 69
    assert "pip install 'hpctrack[analysis]'" in err


def test_a_folder_that_does_not_exist(hpctrack, logged, tmp_path):
    code, _, err = hpctrack("export", f"r{logged[0]}", "--to", tmp_path / "no" / "runs.csv")
    assert code == 65
    assert "runs.csv can't be written: No such file or directory" in err


def test_runs_without_metrics_make_a_file_without_rows(hpctrack, run, tmp_path):
    path = tmp_path / "runs.parquet"
    assert hpctrack("export", f"r{run()}", "--to", path)[0] == 0
    assert pq.read_table(path).column_names == COLUMNS[:5]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_rows_of_several_chunks(hpctrack, run, tmp_path, connection, monkeypatch, ending):
    monkeypatch.setattr(copy_out, "ROWS", 100)
    run_id = run()
    connection.execute(
        "INSERT INTO metrics (run_id, step, extra) SELECT %s, n, jsonb_build_object('n', n)"
        " FROM generate_series(1, 1050) n",
        (run_id,),
    )
    path = tmp_path / f"runs.{ending}"
    assert hpctrack("export", f"r{run_id}", "--to", path)[1] == f"{path}: 1,050 rows of 1 run\n"
    if ending == "parquet":
        assert pq.read_table(path)["n"].to_pylist() == list(range(1, 1051))
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1050 + (ending == "csv")
        assert ('"n": 1050' if ending == "jsonl" else ",1050") in lines[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_export_that_is_interrupted_leaves_nothing(config, run, connection, tmp_path, number, code):
    run_id = run()
    connection.execute(
        "INSERT INTO metrics (run_id, step, extra)"
        " SELECT %s, n, jsonb_build_object('text', repeat('x', 2000)) FROM generate_series(1, 60000) n",
        (run_id,),
    )
    folder = tmp_path / "out"
    folder.mkdir()
    program = "from hpctrack.cli import main; main.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "export", "-c", config, f"r{run_id}", "--to", folder / "runs.jsonl"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip

    def is_in_the_midst():
        assert process.poll() is None, process.stderr.read()
        return any(path.stat().st_size > 10_000_000 for path in folder.iterdir())

    eventually(is_in_the_midst, pause=0.002)
    process.send_signal(number)
    assert process.wait(60) == code
    assert list(folder.iterdir()) == []
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_integers_of_other_clients_that_no_int64_holds(hpctrack, run, insert, tmp_path, ending):
    made = run()
    insert("metrics", run_id=made, step=1, extra={"big": 1 << 70, "huge": 10**308, "two": 2})
    insert("metrics", run_id=made, step=2, extra={"big": 0.5, "huge": -1, "two": 1 << 63})
    assert hpctrack("export", f"r{made}", "-o", tmp_path / f"x.{ending}")[0] == 0
    if ending == "csv":
        rows = list(csv.DictReader((tmp_path / "x.csv").open(encoding="utf-8")))
        assert [rows[0][name] for name in ("big", "huge", "two")] == [str(1 << 70), str(10**308), "2"]
        assert rows[1]["two"] == str(1 << 63)
