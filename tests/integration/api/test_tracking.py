"""The Python interface writes: runs that a script tracks by itself, without a collector."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from psycopg import sql

from hpctrack import Client, Experiment, errors
from hpctrack.run.states import RunStatus
from hpctrack.store.schema import roles
from tests.support.waiting import eventually

PASSWORD = "a user's own"


@pytest.fixture
def tracked(client):
    return Experiment(client, name="digits").get_run()


def states(run):
    return [
        (transition.status.value, transition.source, transition.reason) for transition in run.transitions()
    ]


def test_an_experiment_is_made_once(client):
    experiment = Experiment(client, name="digits")
    assert Experiment(client, name="digits").id == experiment.id
    assert client.experiment("digits").id == experiment.id
    with pytest.raises(errors.ExperimentNotFound):
        client.experiment("digit")


def test_secrets_of_the_environment_are_in_nothing_that_is_written(client, connection, monkeypatch):
    secret = "q7Xv-9zKw2mB"
    monkeypatch.setenv("MY_TOKEN", secret)
    monkeypatch.setenv("SLURM_JOB_NAME", f"job-{secret}")
    experiment = Experiment(client, name=f"x-{secret}")
    run = experiment.get_run()
    other = Experiment(client, name="other")
    run.set_comment(f"note {secret}")
    run.add_tags(f"tag-{secret}", key=secret)
    run.set_args({"a": {"b": [secret]}, secret: 1, "password": "train"})
    run.add_metrics(step=1, note=f"text {secret}", loss=0.5)
    experiment.set_comment(secret)
    experiment.add_tags(secret, a=secret)
    with contextlib.suppress(RuntimeError), run.track():
        raise RuntimeError(f"bad token {secret}")
    assert Experiment(client, name=f"x-{secret}").id == experiment.id != other.id
    tables = ("experiments", "runs", "metrics", "run_latest", "transitions", "attempts")
    stored = [
        str(row)
        for table in tables
        for row in connection.execute(f"SELECT t::text FROM {table} t").fetchall()
    ]
    assert not any(secret in row for row in stored)
    assert run.args == {"a": {"b": ["***"]}, "***": 1, "password": "***"}
    assert connection.execute("SELECT name, comment FROM experiments ORDER BY id").fetchall()[0] == (
        "x-***",
        "***",
    )
    assert connection.execute("SELECT job_name, comment FROM runs").fetchone() == ("job-***", "note ***")


def test_a_run_that_completes(client, tracked):
    assert tracked.status is RunStatus.PENDING
    with tracked.track() as run:
        assert client.run(run.id).status is RunStatus.RUNNING
        run.add_metrics(step=1, progress=0.5, train_loss=0.25)
        run.add_metrics({"train/acc": np.float32(0.5)}, step=1, progress=0.5)
        run.add_metrics(train_loss=0.125)
    assert tracked.status is RunStatus.COMPLETED
    assert tracked.info.exit_code == 0
    assert tracked.time_ended >= tracked.time_started
    assert [state for state, _, _ in states(tracked)] == ["PENDING", "RUNNING", "COMPLETED"]
    assert {source for _, source, _ in states(tracked)} == {"user"}
    frame = tracked.metrics(["train_loss", "train/acc"])
    assert frame[["step", "progress", "train_loss", "train/acc"]].fillna(-1).values.tolist() == [
        [1, 0.5, 0.25, 0.5],
        [2, 0.0, 0.125, -1],
    ]
    assert client.run(tracked.id).last == {"train_loss": 0.125, "train/acc": 0.5}
    (attempt,) = tracked.attempts()
    assert (attempt.status, attempt.exit_code, attempt.time_ended) == (
        RunStatus.COMPLETED, 0, tracked.time_ended,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "reason", "code", "number"),
    [
        (ValueError("no such layer"), "FAILED", "ValueError: no such layer", 1, None),
        (KeyboardInterrupt(), "CANCELLED", "SIGINT", None, 2),
        (SystemExit(3), "FAILED", None, 3, None),
        (SystemExit("wrong"), "FAILED", None, 1, None),
        (SystemExit(0), "COMPLETED", None, 0, None),
    ],
)
def test_an_exception_ends_a_run_and_goes_on(tracked, error, status, reason, code, number):
    with pytest.raises(type(error)), tracked.track():
        raise error
    assert states(tracked)[-1] == (status, "user", reason)
    info = tracked.info
    assert (info.status.value, info.exit_code, info.exit_signal, info.reason) == (
        status,
        code,
        number,
        reason,
    )


def test_secrets_in_an_exception_are_masked(tracked, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "hush-1234567890")
    with pytest.raises(OSError), tracked.track():
        raise OSError("login with hush-1234567890 failed")
    assert "hush" not in tracked.info.reason
    assert "login with" in tracked.info.reason


def test_a_run_that_is_tracked_again_is_another_attempt(client, tracked):
    with pytest.raises(ValueError), tracked.track():
        tracked.add_metrics(step=1, loss=1.0)
        raise ValueError
    with client.run(tracked.id).track() as again:
        again.add_metrics(step=1, loss=0.5)
    assert [(attempt.attempt, attempt.status.value) for attempt in tracked.attempts()] == [
        (0, "FAILED"),
        (1, "COMPLETED"),
    ]
    info = tracked.refresh().info
    assert (info.status.value, info.attempt, info.reason) == ("COMPLETED", 1, None)
    assert tracked.metrics()["loss"].tolist() == [0.5]


@pytest.fixture
def program(database, tmp_path):
    """Start a program, whose first argument is a configuration file."""
    config = tmp_path / "hpctrack.conf"
    lines = [f"{key} = {value}" for key, value in database.dsn.items()]
    config.write_text("\n".join([*lines, f"data_dir = {database.data_dir}"]) + "\n", encoding="utf-8")
    return lambda text: subprocess.Popen(
        [sys.executable, "-c", text, config],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


PROGRAM = """
import os, sys, time
from hpctrack import Client, Experiment
run = Experiment(Client(config_path=sys.argv[1]), name="digits").get_run()
with run.track():
    print(run.id, flush=True)
    step = 0
    while True:
        run.add_metrics(step=step, loss=1.0)
        step += 1
"""


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_cancels_a_run_and_ends_the_process_as_ever(client, program, number, reason):
    process = program(PROGRAM)
    run = client.run(int(process.stdout.readline()))
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -number, said
    assert states(run)[-1] == ("CANCELLED", "user", reason)
    assert (run.refresh().status, run.info.exit_signal) == (RunStatus.CANCELLED, number)


SLOW_STATEMENT = """
import sys
from hpctrack import Client, Experiment
client = Client(config_path=sys.argv[1])
run = Experiment(client, name="digits").get_run()
with run.track():
    print(run.id, flush=True)
    client.ask(lambda connection: connection.execute("SELECT pg_sleep(60)"))
"""


def test_a_signal_in_the_middle_of_a_statement(client, connection, program):
    process = program(SLOW_STATEMENT)
    run = client.run(int(process.stdout.readline()))
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    eventually(lambda: connection.execute(asleep).fetchone() == (1,), pause=0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, said
    assert states(run)[-1] == ("CANCELLED", "user", "SIGTERM")


def test_in_another_thread_no_signal_is_touched(tracked):
    before = signal.getsignal(signal.SIGTERM)
    failures = []

    def work():
        try:
            with tracked.track():
                assert signal.getsignal(signal.SIGTERM) is before
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert tracked.refresh().status is RunStatus.COMPLETED
    with tracked.track():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_child_that_is_forked_inside_does_not_end_the_run(client, tracked):
    with tracked.track():
        child = os.fork()
        if child == 0:
            try:
                tracked.track().__exit__(None, None, None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert client.run(tracked.id).status is RunStatus.RUNNING


def test_an_end_that_can_not_be_noted_is_a_warning(tracked, connection):
    with pytest.warns(RuntimeWarning, match="could not be noted"), tracked.track():
        connection.execute("DELETE FROM runs")


def test_what_slurm_tracks_is_not_tracked_by_hand(client, submit):
    run_id, *_ = submit()
    with pytest.raises(errors.UsageError, match="was submitted"), client.run(run_id).track():
        pass


def test_values_go_where_they_fit(client, tracked, connection):
    connection.execute(
        "ALTER TABLE metrics ADD epoch integer, ADD loss double precision, ADD word text, ADD ok bool"
    )
    tracked.add_metrics(step=0, epoch=3, loss=1, word="ä'\\", ok=True)
    tracked.add_metrics(step=1, epoch=3.5, loss=math.inf, word=5, ok=0, huge=1 << 70, none=None)
    tracked.add_metrics(step=1, epoch=4)
    rows = connection.execute("SELECT epoch, loss, word, ok, extra FROM metrics ORDER BY step").fetchall()
    assert rows == [
        (3, 1.0, "ä'\\", True, None),
        (4, math.inf, None, None, {"word": 5, "ok": 0, "huge": {"int": str(1 << 70)}}),
    ]
    assert client.run(tracked.id).last["epoch"] == 4


def test_new_numbers_get_columns_where_that_is_wanted(database, connection):
    with Client(settings=database._replace(auto_columns=True)) as client:
        run = Experiment(client, name="digits").get_run()
        run.add_metrics(step=1, loss=0.5, word="a", flag=True)
    assert connection.execute("SELECT loss, extra FROM metrics").fetchall() == [
        (0.5, {"word": "a", "flag": True})
    ]


@pytest.mark.parametrize("step", [0.5, "1", 1 << 63])
def test_a_step_that_is_none_is_refused(tracked, step):
    with pytest.raises(errors.UsageError, match="step must be an integer"):
        tracked.add_metrics(step=step, loss=1)


@pytest.mark.parametrize("progress", [math.nan, "half", None])
def test_a_progress_that_is_none_is_refused(tracked, progress):
    with pytest.raises(errors.UsageError, match="progress must be a number"):
        tracked.add_metrics(progress=progress, loss=1)


def test_tags_notes_links_and_arguments(client, tracked, monkeypatch):
    other = client.experiment("digits").get_run()
    tracked.add_tags("baseline", dataset="cifar")
    tracked.remove_tags("baseline", "nothing")
    tracked.set_comment("first try")
    tracked.add_link("continues", other)
    assert (tracked.tags, tracked.comment) == ({"dataset": "cifar"}, "first try")
    assert [tuple(link) for link in other.links()] == [(tracked.id, "continues", other.id)]
    assert tracked.remove_link("continues", other)
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1", "data.csv", "--token", "hush-1234567890"])
    tracked.set_args("auto")
    assert tracked.args["lr"] == 0.1
    assert tracked.args["_"] == ["data.csv"]
    assert "hush" not in str(tracked.args)
    tracked.add_args(epochs=3)
    assert (tracked.args["lr"], tracked.args["epochs"]) == (0.1, 3)
    tracked.set_args({"lr": np.float64(0.5), "layers": [1, 2]})
    assert tracked.args == {"lr": 0.5, "layers": [1, 2]}


def test_an_experiments_tags_notes_and_links(client):
    one, other = Experiment(client, name="a"), Experiment(client, name="b")
    one.add_tags("paper", year=2026)
    one.remove_tags("paper")
    one.set_comment("for the paper")
    one.add_link("continues", other)
    one.add_link("continues", other)
    one.remove_link("continues", other)
    assert (one.tags, one.comment) == ({"year": 2026}, "for the paper")
    assert client.experiment("a").comment == "for the paper"


def test_a_run_is_found_again_in_its_experiment_only(client, tracked):
    assert Experiment(client, name="digits").get_run(tracked.id) == tracked
    with pytest.raises(errors.RunNotFound, match="is in experiment 'digits', not in 'other'"):
        Experiment(client, name="other").get_run(tracked.id)


def test_in_a_slurm_job_it_is_noted_which(client, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1234")
    monkeypatch.setenv("SLURM_JOB_NAME", "digits")
    run = Experiment(client, name="e").get_run()
    assert (run.job, run.name) == ("1234", "digits")
    assert client.run("1234") == run


@pytest.fixture
def logins(server, database, connection):
    """Clients of two users of a site, with the rights that hpctrack setup --grant-user gives."""
    names = [f"{who}_{database.dsn['dbname']}" for who in ("alice", "bob")]
    for name in names:
        create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
        connection.execute(create.format(sql.Identifier(name), PASSWORD))
    users = [(roles.RoleKind.USER, name) for name in names]
    roles.apply(database, users, roles.Choices(runs_visible="all"))
    clients = [
        Client(settings=database._replace(dsn={**database.dsn, "user": name, "password": PASSWORD}))
        for name in names
    ]
    yield clients
    for client, name in zip(clients, names, strict=True):
        client.close()
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_users_of_a_site_write_their_own_runs_and_no_others(logins):
    alice, bob = logins
    run = Experiment(alice, name="digits").get_run()
    with run.track():
        run.add_metrics(step=1, loss=0.5)
        run.set_args({}, lr=0.1)
        run.add_tags("mine")
    assert (run.status, run.args, run.user) == (RunStatus.COMPLETED, {"lr": 0.1}, alice.settings.dsn["user"])
    seen = bob.run(run.id)
    assert seen.metrics("loss")["loss"].tolist() == [0.5]
    assert seen.args is None
    for forbidden in (
        lambda: seen.add_metrics(step=2, loss=1),
        lambda: seen.add_tags("theirs"),
        lambda: seen.set_comment("x"),
        lambda: seen.set_args(lr=1),
        lambda: seen.track().__enter__(),
        lambda: bob.experiment("digits").add_tags("x"),
    ):
        with pytest.raises(errors.StoreDenied):
            forbidden()
    assert len(bob.run(run.id).metrics()) == 1
    own = Experiment(bob, name="digits").get_run()
    with own.track():
        own.add_metrics(loss=1.0)
    assert own.status is RunStatus.COMPLETED


def test_a_reader_may_write_nothing(logins, database, connection):
    reader = f"reader_{database.dsn['dbname']}"
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(reader), PASSWORD))
    roles.apply(database, [(roles.RoleKind.READER, reader)])
    Experiment(logins[0], name="digits")
    with Client(
        settings=database._replace(dsn={**database.dsn, "user": reader, "password": PASSWORD})
    ) as client:
        with pytest.raises(errors.StoreDenied):
            client.experiment("digits").get_run()
        with pytest.raises(errors.StoreDenied):
            Experiment(client, name="new")
    connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(reader)))
    connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(reader)))
