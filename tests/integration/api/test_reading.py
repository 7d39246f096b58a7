"""The Python interface reads: runs, metrics as tables, timelines, usage."""

import contextlib
import datetime
import getpass
import math
import os
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from psycopg import sql

from hpctrack import errors
from hpctrack.run.states import RunStatus
from hpctrack.store import database as store
from hpctrack.store.metrics import copy_out, metric_tables, packed_columns
from tests.support.journals import Journal

T0 = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)


@pytest.fixture
def columns(connection):
    """Add columns to metrics: names and types."""

    def add(**types):
        for name, type_ in types.items():
            connection.execute(
                sql.SQL("ALTER TABLE metrics ADD COLUMN {} " + type_).format(sql.Identifier(name))
            )

    return add


@pytest.fixture
def log(insert):
    """Insert a row of metrics."""

    def run(run_id, step, /, **values):
        insert("metrics", run_id=run_id, step=step, **{"attempt": 0, **values})

    return run


def test_metrics_are_a_data_frame(client, run, columns, log):
    columns(loss="double precision", accuracy="double precision")
    one, other = run(), run()
    log(one, 2, loss=0.25, time=T0 + datetime.timedelta(seconds=1))
    log(one, 1, loss=0.5, accuracy=0.75, time=T0)
    log(other, 1, loss=9.0)
    frame = client.run(one).metrics()
    assert list(frame.columns) == ["step", "progress", "time", "accuracy", "loss"]
    assert frame["step"].tolist() == [1, 2]
    assert frame["loss"].tolist() == [0.5, 0.25]
    assert frame["accuracy"].isna().tolist() == [False, True]
    assert frame["time"].tolist() == [T0, T0 + datetime.timedelta(seconds=1)]
    assert [str(frame[name].dtype) for name in ("step", "loss", "time")] == [
        "int64", "float64", "datetime64[us, UTC]",
    ]  # fmt: skip


def test_metrics_as_arrow_tell_a_gap_from_nan(client, run, columns, log):
    columns(loss="double precision")
    run_id = run()
    log(run_id, 1, loss=math.nan)
    log(run_id, 2)
    table = client.run(run_id).metrics(format="arrow")
    assert isinstance(table, pa.Table)
    assert table["loss"].is_null().to_pylist() == [False, True]
    assert math.isnan(table["loss"][0].as_py())
    assert table.schema.field("time").type == pa.timestamp("us", "UTC")


def test_chosen_metrics_leave_out_rows_without_them(client, run, columns, log):
    columns(loss="double precision", val="double precision")
    run_id = run()
    for step in range(4):
        log(run_id, step, loss=float(step), **({"val": 1.0} if step % 2 else {}))
    frame = client.run(run_id).metrics(["val", "loss"])
    assert list(frame.columns) == ["step", "progress", "time", "val", "loss"]
    assert len(frame) == 4
    assert client.run(run_id).metrics("val")["step"].tolist() == [1, 3]


def test_a_metric_without_a_column_is_read_alike(client, run, columns, log):
    columns(loss="double precision")
    run_id = run()
    log(run_id, 1, loss=0.5, extra={"word": "a", "count": 3, "flag": True, "big": {"int": str(1 << 70)}})
    log(run_id, 2, extra={"loss": {"float": "inf"}, "count": 4, "word": "b", "flag": False})
    log(run_id, 3, loss=0.25, extra={"count": 5})
    frame = client.run(run_id).metrics()
    assert list(frame.columns[3:]) == ["big", "count", "flag", "loss", "word"]
    assert frame["loss"].tolist() == [0.5, math.inf, 0.25]
    assert frame["count"].tolist() == [3, 4, 5]
    assert frame["count"].dtype == np.int64
    assert frame["flag"].dtype == "boolean"
    assert frame["flag"].tolist() == [True, False, pd.NA]
    assert frame["word"].tolist()[:2] == ["a", "b"]
    assert frame["big"][0] == 1 << 70
    assert client.run(run_id).metrics("word")["step"].tolist() == [1, 2]


def test_columns_of_the_users_own_types(client, run, columns, log):
    columns(
        epoch="integer", small="real", note="text", good="boolean", cost="numeric(9,3)", day="date",
        done="timestamptz",
    )  # fmt: skip
    run_id = run()
    log(run_id, 1, epoch=3, small=0.5, note="é", good=True, cost=1.125, day=T0.date(), done=T0)
    log(run_id, 2)
    table = client.run(run_id).metrics(format="arrow")
    first, second = table.to_pylist()
    assert {name: first[name] for name in ("epoch", "small", "note", "good", "cost", "day", "done")} == {
        "epoch": 3, "small": 0.5, "note": "é", "good": True, "cost": 1.125, "day": "2026-01-31", "done": T0,
    }  # fmt: skip
    assert {second[name] for name in ("epoch", "small", "note", "good", "cost", "day", "done")} == {None}
    assert client.run(run_id).metrics()["epoch"].dtype == "Int32"


def test_names_of_metrics_may_be_anything(client, run, columns, log):
    name = 'a "quoted" {name}'
    columns(**{name: "double precision"})
    run_id = run()
    log(run_id, 1, **{name: 1.0}, extra={"time": 5, "it's": 1})
    log(run_id, 2, extra={"100%": 1.5})
    frame = client.run(run_id).metrics([name, "time", "it's", "100%"])
    assert frame[[name, "time_", "it's"]].values.tolist()[0] == [1.0, 5, 1]
    assert frame["100%"][1] == 1.5
    assert client.runs().frame()["max.100%"].tolist() == [1.5]
    assert frame["time"].isna().all()


def test_what_came_through_the_collectors_door(client, run, ingest, columns):
    run_id = run()
    ingest.store([Journal(run_id).rows({"step": 1, "loss": 0.5, "word": "a"}, {"step": 2, "loss": math.nan})])
    frame = client.run(run_id).metrics()
    assert frame["loss"].isna().tolist() == [False, True]
    assert client.run(run_id).last["word"] == "a"


def test_an_unknown_metric_is_named_and_the_known_are_listed(client, run, columns, log):
    columns(loss="double precision")
    one, other = run(), run()
    log(one, 1, extra={"acc": 1})
    with pytest.raises(errors.BadInput, match=f"no metric 'lss' in r{one}: there are: acc"):
        client.run(one).metrics("lss")
    # A run that did not get so far yet is no mistake.
    assert client.run(one).metrics("loss").empty
    assert client.run(other).metrics("whatever").columns.tolist() == ["step", "progress", "time", "whatever"]


@pytest.fixture
def small_chunks(monkeypatch):
    """Rows come in chunks of a thousand, so that few of them make several."""
    monkeypatch.setattr(copy_out, "ROWS", 1000)


@pytest.mark.usefixtures("small_chunks")
def test_more_rows_than_a_chunk_holds(client, run, columns, connection):
    columns(loss="double precision", val="double precision")
    run_id = run()
    connection.execute(
        "INSERT INTO metrics (run_id, step, loss, val)"
        " SELECT %s, n, n * 0.5, CASE WHEN n %% 10 = 0 THEN n END FROM generate_series(1, 7500) n",
        (run_id,),
    )
    frame = client.run(run_id).metrics()
    assert (frame["step"] == np.arange(1, 7501)).all()
    assert (frame["loss"] == np.arange(1, 7501) * 0.5).all()
    assert frame["val"].notna().sum() == 750
    assert client.run(run_id).metrics("val")["val"].sum() == sum(range(10, 7501, 10))


@pytest.mark.usefixtures("small_chunks")
def test_a_reader_that_loses_interest_leaves_a_usable_connection(connection, run, columns):
    run_id = run()
    connection.execute(
        "INSERT INTO metrics (run_id, step) SELECT %s, n FROM generate_series(1, 20000) n", (run_id,)
    )
    parts = metric_tables.read(connection, [run_id], [])
    assert next(parts).rows == 1000
    parts.close()
    assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.usefixtures("small_chunks")
def test_a_failure_in_the_middle_is_told(database, connection, run):
    run_id = run()
    connection.execute(
        "INSERT INTO metrics (run_id, step, extra)"
        " SELECT %s, n, jsonb_build_object('a', repeat('much', 500)) FROM generate_series(1, 10000) n",
        (run_id,),
    )
    with contextlib.closing(store.connect(database, autocommit=True)) as reader:
        parts = metric_tables.read(reader, [run_id], ["a"])
        next(parts)
        connection.execute("SELECT pg_terminate_backend(%s)", (reader.info.backend_pid,))
        with pytest.raises(errors.StoreUnavailable):
            list(parts)


@pytest.fixture
def large_run(client, run, columns, connection, insert, monkeypatch):
    """A run of a few rows that passes for a large one; steps come with several values of progress."""
    monkeypatch.setattr("hpctrack.api.run._LARGE", 1000)
    monkeypatch.setattr(packed_columns, "_ROWS", 70)
    columns(a="double precision", b="double precision", c="double precision", d="double precision")
    run_id = run()
    insert("run_latest", run_id=run_id, rows=1000, last={"a": 1, "b": 2, "c": 3, "d": 4})
    connection.execute(
        "INSERT INTO metrics (run_id, step, progress, time, a, b, c, d)"
        " SELECT %s, 3 * (n / 4) - 100, n %% 4 - 0.5, to_timestamp(1e9 + n), n, -n,"
        " CASE WHEN n %% 5 = 0 THEN n END, CASE WHEN n %% 7 = 0 THEN 'NaN'::float8 ELSE n END"
        " FROM generate_series(0, 999) n",
        (run_id,),
    )
    return client.run(run_id)


def test_a_large_run_is_read_through_one_connection_where_there_is_no_other(large_run, monkeypatch):
    def full():
        raise errors.StoreUnavailable

    monkeypatch.setattr(large_run.client, "helper", full)
    assert large_run.metrics("a")["a"].tolist() == list(range(1000))


@pytest.mark.parametrize("names", [None, ["b"], ["c"], ["a", "b"], ["a", "b", "c"]])
def test_a_large_run_is_read_in_halves_and_stretches(large_run, names):
    frame = large_run.metrics(names)
    pd.testing.assert_frame_equal(frame, large_run.metrics(names, format="arrow").to_pandas())
    assert len(frame) == (200 if names == ["c"] else 1000)


def test_values_outside_the_columns_are_not_forgotten_in_a_large_run(large_run, connection):
    connection.execute('UPDATE metrics SET b = NULL, extra = \'{"b": "word"}\' WHERE a = 990')
    assert large_run.metrics("b")["b"][990] == "word"
    assert large_run.metrics(["a"])["a"].tolist() == list(range(1000))


def test_both_halves_of_a_large_run_are_of_one_moment(large_run, connection, monkeypatch):
    original = packed_columns._middle

    def meanwhile(*args):
        middle = original(*args)
        connection.execute("UPDATE metrics SET a = -1")
        return middle

    monkeypatch.setattr(packed_columns, "_middle", meanwhile)
    assert large_run.metrics("a")["a"].tolist() == list(range(1000))
    assert set(large_run.metrics("a")["a"]) == {-1.0}


def test_metrics_of_an_experiment_name_the_run(client, run, columns, log):
    columns(loss="double precision")
    one, other = run(), run()
    log(one, 1, loss=1.0)
    log(other, 1, loss=2.0, extra={"word": "x"})
    frame = client.experiment("digits").metrics(["loss", "word"])
    assert frame["run"].tolist() == [one, other]
    assert frame["loss"].tolist() == [1.0, 2.0]
    assert frame["word"].tolist()[1] == "x"


def test_an_experiments_frame_has_a_row_per_run(client, insert, columns, log):
    columns(loss="double precision")
    experiment = insert("experiments", name="digits")
    run_id = insert(
        "runs", experiment_id=experiment, status="COMPLETED", args={"lr": 0.1, "model": {"layers": 2}},
        tags={"baseline": True}, time_started=T0, slurm_job_id=14, exit_code=0,
    )  # fmt: skip
    other = insert("runs", experiment_id=experiment, status="PENDING")
    for step, loss in enumerate((0.5, 0.125, math.nan, 0.25)):
        log(run_id, step, loss=loss, extra={"acc": step, "word": "x"})
    insert("run_latest", run_id=run_id, last_step=3, last={"loss": 0.25, "acc": 3, "word": "x"}, rows=4)
    frame = client.experiment("digits").frame().set_index("run")
    assert frame.index.tolist() == [run_id, other]
    first = frame.loc[run_id]
    assert (first["status"], first["job"], first["args.lr"], first["args.model.layers"]) == (
        "COMPLETED", "14", 0.1, 2,
    )  # fmt: skip
    assert first["tags.baseline"]
    assert (first["last.loss"], first["min.loss"], first["max.loss"], first["max.acc"]) == (
        0.25,
        0.125,
        0.5,
        3,
    )
    assert first["last.word"] == "x"
    assert "min.word" not in frame
    assert frame["exit_code"].tolist() == [0, pd.NA]
    assert pd.isna(frame.loc[other, "last.loss"])
    assert "min.loss" not in client.experiment("digits").frame(extremes=False)
    with pytest.warns(UserWarning, match="no experiment 'nothing': there are: digits"):
        nothing = client.runs(experiment="nothing")
    assert nothing.frame().columns.tolist()[:2] == ["run", "status"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"experiment": "dgits"}, "no experiment 'dgits': did you mean 'digits'"),
        ({"where": "args.lrr < 1"}, "none has an argument 'lrr': did you mean 'lr'"),
        ({"where": "metrics.los < 1"}, "none has a metric 'los': did you mean 'loss'"),
        ({"where": "args.opt.nam = adam"}, "none has an argument 'opt.nam': did you mean 'opt.name'"),
        ({"tag": "base"}, "none has a tag 'base': did you mean 'baseline'"),
        ({"user": "alcie"}, "none is of user 'alcie': did you mean 'alice'"),
    ],
    ids=str,
)
def test_of_names_that_nothing_has_there_is_a_warning(client, insert, asked, said, recwarn):
    run = insert(
        "runs", experiment_id=insert("experiments", name="digits"), user_name="alice",
        args={"lr": 1, "opt": {"name": "adam"}}, tags={"baseline": True},
    )  # fmt: skip
    insert("run_latest", run_id=run, last={"loss": 1})
    assert client.runs(experiment="digits", where="args.opt.name = sgd", tag="baseline", user="alice") == []
    assert [str(told.message) for told in recwarn] == []
    assert client.runs(**asked) == []
    (warning,) = recwarn
    assert said in str(warning.message)
    assert warning.filename == __file__


def test_runs_are_filtered_and_come_newest_last(client, insert):
    experiment, other = insert("experiments", name="e"), insert("experiments", name="f")
    failed = insert("runs", experiment_id=experiment, status="FAILED", tags={"baseline": True, "set": "a"})
    running = insert("runs", experiment_id=experiment, status="RUNNING")
    insert("runs", experiment_id=other, status="FAILED")
    found = client.runs(experiment="e")
    assert [run.id for run in found] == [failed, running]
    assert [run.id for run in client.runs(state=["failed", RunStatus.RUNNING], experiment="e")] == [
        failed, running,
    ]  # fmt: skip
    assert [run.id for run in client.runs(state="FAILED", experiment="e")] == [failed]
    assert [run.id for run in client.runs(experiment="e", limit=1)] == [running]
    assert [run.id for run in client.runs(where=f"state = failed and run > {failed}")] == [running + 1]
    with pytest.raises(errors.FilterError, match="'size' is no field"):
        client.runs(where="size > 3")
    assert [run.id for run in client.experiment("e").runs(state="RUNNING")] == [running]
    for tag in ("baseline", "set=a", ["baseline", "set=a"]):
        assert [run.id for run in client.runs(tag=tag)] == [failed]
    assert client.runs(tag=["baseline", "set=b"]) == []
    with pytest.raises(errors.UsageError, match="no job state"):
        client.runs(state="fine")


def test_runs_are_asked_for_as_on_the_command_line(client, insert):
    experiment = insert("experiments", name="e")
    hours = [datetime.timedelta(hours=hour) for hour in range(5)]
    users = ["alice", "bob", "carol", getpass.getuser(), getpass.getuser()]
    made = [
        insert(
            "runs", experiment_id=experiment, status="COMPLETED" if number % 2 else "FAILED",
            exit_code=number, job_name=f"train{number}", user_name=user,
            partition="gpu" if number < 3 else "cpu", time_created=T0 + later,
            array_job_id=14 if number > 2 else None, array_task_id=number if number > 2 else None,
        )
        for number, (later, user) in enumerate(zip(hours, users, strict=True))
    ]  # fmt: skip

    def numbers(*refs, **asked):
        return [run.info.exit_code for run in client.runs(*refs, **asked)]

    assert numbers(made[0], f"r{made[2]}", "14_3") == [0, 2, 3]
    assert numbers("14_[3-4]") == [3, 4]
    assert numbers(not_state="FAILED") == [1, 3]
    assert numbers(user=["alice", "carol"]) == [0, 2]
    assert numbers(mine=True) == [3, 4]
    assert numbers(name="train[0-2]", partition=["gpu", "cpu"]) == [0, 1, 2]
    assert numbers(partition="cpu") == [3, 4]
    assert numbers(since=T0 + hours[1], until=T0 + hours[3]) == [1, 2]
    assert numbers(until=str(T0 + hours[1])) == [0]
    assert numbers(sort="exit_code", limit=2) == [0, 1]
    assert numbers(sort="-exit_code", limit=2, after=made[3]) == [2, 1]
    assert numbers(after=f"r{made[3]}", limit=2) == [1, 2]
    assert len(client.runs(state=None, tag=(), where=None)) == 5
    assert len(client.runs(not_state=[])) == 5
    assert client.runs(state=[]) == client.runs(user=()) == client.runs(partition=iter([])) == []
    with pytest.raises(errors.UsageError, match="'size' is no field"):
        client.runs(sort="size")
    with pytest.raises(errors.RunNotFound):
        client.runs(made[-1] + 1)


def test_a_run_is_found_by_number_job_and_name(client, insert):
    experiment = insert("experiments", name="e")
    run = insert("runs", experiment_id=experiment, slurm_job_id=1234, job_name="digits", cluster="mini")
    for ref in (run, f"r{run}", "1234", "digi"):
        assert client.run(ref).id == run
    with pytest.raises(errors.RunNotFound):
        client.run(run + 1)
    assert repr(client.run(run)) == f"<Run r{run}: PENDING, e, digits, job 1234>"


def test_a_run_is_as_it_was_until_it_is_read_again(client, run, connection):
    mine = client.run(run())
    connection.execute("UPDATE runs SET status = 'COMPLETED', comment = 'done'")
    assert mine.status is RunStatus.RUNNING
    assert mine.refresh().status is RunStatus.COMPLETED
    assert mine.comment == "done"
    assert mine == client.run(mine.id)


def test_timeline_attempts_and_usage(client, run, insert):
    run_id = run()
    insert("transitions", run_id=run_id, status="PENDING", time=T0, source="submit")
    insert("transitions", run_id=run_id, status="RUNNING", time=T0, source="relay", reason="hello")
    insert(
        "attempts", run_id=run_id, attempt=0, status="RUNNING", time_started=T0, resources={"elapsed_s": 3}
    )
    for second in range(2):
        insert(
            "usage", run_id=run_id, attempt=0, node="n1", time=T0 + datetime.timedelta(seconds=second),
            cpu_s=1.5 * second, memory_bytes=1 << 30, gpu={"util": 5},
        )  # fmt: skip
    mine = client.run(run_id)
    assert [change.status for change in mine.transitions()] == [RunStatus.PENDING, RunStatus.RUNNING]
    assert mine.transitions().frame()["status"].tolist() == ["PENDING", "RUNNING"]
    assert mine.attempts()[0].resources == {"elapsed_s": 3}
    usage = mine.usage()
    assert usage["cpu_s"].tolist() == [0.0, 1.5]
    assert usage["node"].tolist() == ["n1", "n1"]
    assert mine.usage(format="arrow")["memory_bytes"].to_pylist() == [1 << 30, 1 << 30]


def test_a_lost_connection_is_made_anew(client, run, connection):
    mine = client.run(run())
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert mine.refresh().status is RunStatus.RUNNING
    client.close()
    assert mine.refresh().status is RunStatus.RUNNING


def test_a_client_is_shared_by_threads_and_forks(client, run):
    ids = [run() for _ in range(8)]
    read_ids = []
    threads = [
        threading.Thread(target=lambda run_id=run_id: read_ids.append(client.run(run_id).id))
        for run_id in ids
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_ids) == ids
    child = os.fork()
    if child == 0:
        os._exit(0 if client.run(ids[0]).id == ids[0] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert client.run(ids[1]).id == ids[1]


def test_another_format_is_refused(client, run):
    with pytest.raises(errors.UsageError, match="'pandas' or 'arrow'"):
        client.run(run()).metrics(format="polars")


def test_without_pandas_it_is_said_what_to_install(client, run, monkeypatch):
    mine = client.run(run())
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(errors.MissingExtra, match=r"need pandas.*pip install 'hpctrack\[analysis\]'"):
        mine.metrics()
