"""hpctrack show, and what the read service tells of one run, on real PostgreSQL."""

from __future__ import annotations

import json
import math
import random
import re
import uuid
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from hpctrack import errors
from hpctrack.store import database as store
from hpctrack.store.metrics import curves, metric_names
from hpctrack.store.read import filters, lists, queries
from tests.support.paths import DOCS

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)
DOCUMENTED = DOCS / "json.md"
SCRIPT = '#!/bin/bash\n#SBATCH --array=0-1\necho "größe $@"\t\n'


@pytest.fixture
def bare(insert):
    """Insert a run of which nothing more is known; returns its id."""
    return insert(
        "runs", experiment_id=insert("experiments", name="digits"), status="PENDING", time_created=NOW
    )


@pytest.fixture
def full(insert, bare):
    """Insert a run with everything: preempted once, then failed; returns its id."""
    submission = uuid.uuid4()
    insert(
        "submissions", uuid=submission, user_name="alice", cluster="demo", time=NOW, script=SCRIPT,
        submit_line="sbatch --array=0-1 train.sh --epochs 40", work_dir="/home/alice/digits",
        git={"commit": "9f3e2a17c0ffee", "branch": "main", "dirty": True},
        env={"PATH": "/bin", "ON_SUBMIT_HOST": "1", "API_KEY": "****"},
    )  # fmt: skip
    run_id = insert(
        "runs", experiment_id=1, status="FAILED", submission=submission, task=3, user_name="alice",
        cluster="demo", array_job_id=14, array_task_id=3, slurm_job_id=17, job_name="train.sh",
        partition="main", account="ml", time_created=NOW, time_started=NOW + timedelta(minutes=1),
        time_ended=NOW + timedelta(hours=1),
        time_limit=timedelta(hours=2), attempt=1, exit_code=1, node_list="n[1-2]", slurm_state="FAILED",
        args={"lr": 0.1, "argv": ["--epochs", "40"]}, tags={"baseline": None, "sweep": "lr"},
        comment="second try",
        env={"CUDA_VISIBLE_DEVICES": "0", "ON_SUBMIT_HOST": None}, stdout_path="/o", stderr_path="/o",
    )  # fmt: skip
    insert("run_relationships", from_id=bare, kind="submitted", to_id=run_id)
    for attempt, status, minutes, source, reason in (
        (0, "PENDING", 0, "submit", None),
        (0, "RUNNING", 1, "relay", None),
        (0, "PREEMPTED", 20, "sacct", "by urgent job 15"),
        (1, "RUNNING", 25, "squeue", None),
        (1, "FAILED", 60, "sacct", None),
    ):
        when = NOW + timedelta(minutes=minutes)
        insert(
            "transitions",
            run_id=run_id,
            attempt=attempt,
            status=status,
            time=when,
            source=source,
            reason=reason,
        )
    insert(
        "attempts", run_id=run_id, attempt=0, status="PREEMPTED", time_started=NOW + timedelta(minutes=1),
        time_ended=NOW + timedelta(minutes=20), exit_signal=15, slurm_exit_code=0, slurm_exit_signal=15,
    )  # fmt: skip
    insert(
        "attempts", run_id=run_id, attempt=1, status="FAILED", time_started=NOW + timedelta(minutes=25),
        time_ended=NOW + timedelta(hours=1), exit_code=1, slurm_exit_code=1, slurm_exit_signal=0,
        node_list="n[1-2]",
        stderr_tail="Traceback\n  boom\x1b[2J\n", resources={"cpu_s": 58.25, "max_rss_bytes": 223 << 20},
    )  # fmt: skip
    for node, cpu in (("n1", 10.0), ("n1", 30.0), ("n2", 60.0)):
        insert(
            "usage", run_id=run_id, attempt=1, node=node, time=NOW + timedelta(minutes=cpu), cpu_s=cpu,
            memory_bytes=5 << 20, memory_peak_bytes=int(cpu) << 20, read_bytes=1024, processes=2,
        )  # fmt: skip
    insert("streams", run_id=run_id, journal_id="a" * 16, lost=10, torn=1, rejected=2, replaced=4)
    for _ in range(2):
        insert(
            "rejected", run_id=run_id, journal_id="a" * 16, start_offset=0, end_offset=1,
            reason="out of range", payload=b"",
        )  # fmt: skip
    return run_id


@pytest.fixture
def log(connection):
    """Log rows of a run as the collector stores them; values without a column go to extra."""

    def rows(run_id, values, *, progress=False, attempt=0):
        with connection.cursor().copy(
            "COPY metrics (run_id, step, progress, attempt, extra) FROM STDIN"
        ) as copy:
            for index, value in enumerate(values):
                axis = (0, index / 10) if progress else (index, 0.0)
                copy.write_row((run_id, *axis, attempt, json.dumps(value)))

    return rows


# --- one run in full ----------------------------------------------------------------------------------------


def test_the_whole_story_is_told(cli, full):
    code, out, err = cli("show", "14_3")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"r{full}  job 14_3  train.sh  FAILED  exit 1, attempt 2"
    for fact in (
        "experiment  digits",
        "tags        sweep=lr, baseline",
        "note        second try",
        "user        alice on demo",
        "queue       partition main  account ml",
        "exit        1 (the script's own), 1:0 (Slurm's)",
        'args        lr 0.1  argv ["--epochs", "40"]',
        "command     sbatch --array=0-1 train.sh --epochs 40",
        "work dir    /home/alice/digits",
        "git         9f3e2a17c0ff on main, with uncommitted changes",
        "stderr      with stdout",
        "links       submitted by r1",
        "waited 1:00",
        "ran 59:00 of 2:00:00",
        "cpu 58.2 s  memory 223 MiB",
        "cpu 90.0 s (0.02 cores)  memory 90 MiB  read 2 KiB  processes 4  nodes 2",
        "10 lost, 1 torn, 2 rejected (out of range), 4 of an earlier attempt replaced",
        "  Traceback\n    boom\n",
    ):
        assert fact in out
    assert "\x1b" not in out


def test_the_timeline_says_who_said_so_and_why(cli, full):
    _, out, _ = cli("show", "14_3")
    timeline = out.split("\nTimeline\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[2:] for line in timeline[1:]] == [
        ["1", "PENDING", "submit", "-"],
        ["1", "RUNNING", "relay", "-"],
        ["1", "PREEMPTED", "sacct", "by", "urgent", "job", "15"],
        ["2", "RUNNING", "squeue", "-"],
        ["2", "FAILED", "sacct", "-"],
    ]


def test_the_scripts_end_and_slurms_books_are_kept_apart(cli, full):
    _, out, _ = cli("show", "14_3")
    attempts = out.split("\nAttempts\n")[1].split("\n\n")[0].splitlines()
    header = attempts[0].split()
    assert header == ["attempt", "state", "started", "ran", "script", "Slurm", "nodes"]
    assert attempts[1].split()[-3:] == ["SIGTERM", "0:15", "-"]
    assert attempts[2].split()[-3:] == ["1", "1:0", "n[1-2]"]


def test_a_run_of_which_nothing_is_known_is_no_reason_to_fail(cli, bare):
    code, out, err = cli("show", f"r{bare}")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "r1  PENDING"
    assert "not yet, waiting for" in out
    assert "Timeline" not in out
    assert "None" not in out


def test_a_state_that_we_do_not_know_is_told_in_slurms_words(cli, bare, insert):
    insert("transitions", run_id=bare, status=None, raw="QUANTUM", source="squeue")
    _, out, _ = cli("show", "r1")
    assert re.search(r"QUANTUM +squeue", out) and out.count("QUANTUM") == 1


def test_what_happened_on_the_node_is_told_once(cli, bare, insert):
    insert("transitions", run_id=bare, status=None, raw="it went another way", source="relay")
    insert("transitions", run_id=bare, status=None, raw="SIGUSR1", source="relay", reason="to the script")
    _, out, _ = cli("show", "r1")
    assert re.search(r" - +relay +it went another way\n", out) and out.count("another way") == 1
    assert re.search(r"SIGUSR1 +relay +to the script\n", out)


def test_what_slurm_was_asked_for_and_gave_has_units(cli, bare, insert):
    tres = {"cpu": 4, "mem": 2 << 30, "gres/gpu": 1}
    insert("attempts", run_id=bare, attempt=0, resources={"req_tres": tres, "alloc_tres": {**tres, "cpu": 8}})
    _, out, _ = cli("show", "r1")
    assert "requested cpu 4, mem 2 GiB, gres/gpu 1  allocated cpu 8, mem 2 GiB, gres/gpu 1" in out


def test_the_script_comes_back_byte_for_byte(cli, full):
    assert cli("show", "14_3", "--script") == (0, SCRIPT, "")


def test_the_environment_is_the_submissions_with_what_differs_on_the_node(cli, full):
    assert cli("show", "14_3", "--env") == (0, "API_KEY=****\nCUDA_VISIBLE_DEVICES=0\nPATH=/bin\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["r99"], 3, "no run r99"),
        (["99"], 3, "no tracked run of job 99"),
        (["99_1"], 3, "no tracked run of job 99_1"),
        (["train.sh"], 3, "no run's name begins with 'train.sh'"),
        ([], 2, "Missing argument 'RUN'"),
        (["r1", "--script"], 3, "was not submitted by hpctrack"),
        (["r1", "--env"], 3, "was not submitted by hpctrack"),
        (["r1", "--env", "--json"], 2, "do not go together"),
        (["r1", "--plot", "loss"], 2, "no numbers of metric 'loss': there are: none"),
    ],
)
def test_failures_are_one_line(cli, bare, arguments, code, said):
    exit_code, out, err = cli("show", *arguments)
    assert (exit_code, out) == (code, "")
    assert err.startswith("hpctrack: ")
    assert said in err
    assert err.count("\n") == 1


def test_an_array_lists_its_tasks(cli, full, insert, connection):
    (submission,) = connection.execute("SELECT uuid FROM submissions").fetchone()
    insert("runs", experiment_id=1, submission=submission, task=4, array_job_id=14, array_task_id=4)
    code, out, err = cli("show", "14")
    assert (code, out) == (3, "")
    assert err.startswith(
        "hpctrack: 14 means 2 runs, name one of them: r2 (job 14_3 on demo, train.sh, alice, "
    )
    assert err.count("\n") == 1


def test_json_has_just_the_documented_keys(cli, full, log):
    log(full, [{"loss": 1.0}])
    code, out, _ = cli("show", "14_3", "--json")
    told = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    status, show = DOCUMENTED.read_text(encoding="utf-8").split("Each run:")[1].split("\n## ")[:2]
    tables = status + show
    rows = [line.split("|") for line in tables.splitlines() if line.startswith("| `")]
    assert set(told) == {key for row in rows for key in re.findall(r"`(\w+)`", row[1])}
    meanings = {key: row[2] for row in rows for key in re.findall(r"`(\w+)`", row[1])}
    for key in ("transitions", "attempts", "usage", "metrics"):
        for entry in told[key]:
            assert set(entry) <= set(re.findall(r"`(\w+)`", meanings[key]))
    assert told["attempts"][0]["exit_signal"] == 15
    assert told["attempts"][1]["stderr_tail"] == "Traceback\n  boom\x1b[2J\n"
    assert told["losses"] == {
        "lost": 10,
        "torn": 1,
        "rejected": 2,
        "replaced": 4,
        "reasons": {"out of range": 2},
    }
    assert told["env"] == {"API_KEY": "****", "CUDA_VISIBLE_DEVICES": "0", "PATH": "/bin"}
    assert told["submission"]["script"] == SCRIPT
    assert told["links"] == ["r1 submitted r2"]


def test_json_of_a_run_of_which_nothing_is_known(cli, bare):
    code, out, _ = cli("show", "r1", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["submission"], told["env"], told["metrics"]) == (None, None, [])


# --- metrics -----------------------------------------------------------------------------------------------


def by_name(metrics):
    return {metric.name: metric for metric in metrics}


def test_columns_and_extra_are_read_as_one(connection, bare, log):
    connection.execute('ALTER TABLE metrics ADD COLUMN loss double precision, ADD COLUMN "o\'dd %s" bigint')
    log(bare, [{"gain": index, "o'dd %s": index} for index in range(4)])
    connection.execute("UPDATE metrics SET loss = 10 - step WHERE step < 2")
    connection.execute("UPDATE metrics SET extra = extra || '{\"loss\": 1.5}' WHERE step >= 2")
    names = metric_names.fetch(connection, [bare])
    assert names == ["gain", "loss", "o'dd %s"]
    metrics = by_name(curves.fetch(connection, bare, names))
    assert [bucket.minimum for bucket in metrics["loss"].buckets] == [10.0, 9.0, 1.5, 1.5]
    assert (metrics["gain"].count, metrics["gain"].first, metrics["gain"].last) == (4, 0.0, 3.0)
    assert metrics["o'dd %s"].maximum == 3.0


def test_names_come_from_what_the_collector_saw(connection, bare, insert, log):
    log(bare, [{"b": 1, "a": 2}])
    insert("run_latest", run_id=bare, last={"phase": "warm up", "b": 1})
    assert metric_names.fetch(connection, [bare]) == ["b", "phase"]


def test_peaks_survive_the_shrinking(connection, bare, log):
    values = [{"loss": 1.0 + index % 7 / 100} for index in range(5000)]
    values[1234]["loss"], values[4321]["loss"] = 50.0, -50.0
    log(bare, values)
    (loss,) = curves.fetch(connection, bare, ["loss"], buckets=20)
    assert len(loss.buckets) == 20
    assert (loss.count, loss.minimum, loss.maximum) == (5000, -50.0, 50.0)
    assert [bucket.maximum for bucket in loss.buckets].index(50.0) == 1234 * 20 // 5000
    assert [bucket.minimum for bucket in loss.buckets].index(-50.0) == 4321 * 20 // 5000
    assert sum(bucket.values for bucket in loss.buckets) == 5000


def test_few_rows_are_not_changed_at_all(connection, bare, log):
    random.seed(1)
    values = [random.random() for _ in range(40)]
    log(bare, [{"loss": value} for value in values])
    (loss,) = curves.fetch(connection, bare, ["loss"], buckets=40)
    assert [(bucket.x, bucket.minimum, bucket.maximum) for bucket in loss.buckets] == [
        (float(step), value, value) for step, value in enumerate(values)
    ]


def test_nan_and_infinities_are_counted_and_never_drawn(connection, bare, log):
    log(
        bare,
        [
            {"loss": {"float": "nan"}},
            {"loss": 2.0},
            {"loss": {"float": "inf"}},
            {"loss": 1.0},
            {"loss": {"float": "-inf"}},
        ],
    )
    (loss,) = curves.fetch(connection, bare, ["loss"])
    assert (loss.count, loss.nonfinite, loss.minimum, loss.maximum) == (5, 3, 1.0, 2.0)
    assert math.isnan(loss.first)
    assert loss.last == float("-inf")
    assert [bucket.minimum for bucket in loss.buckets] == [2.0, 1.0]


def test_a_metric_that_never_was_finite_has_no_course(connection, bare, log):
    log(bare, [{"loss": {"float": "nan"}}])
    (loss,) = curves.fetch(connection, bare, ["loss"])
    assert (loss.count, loss.nonfinite, loss.minimum, loss.buckets) == (1, 1, None, ())


def test_sparse_metrics_have_their_own_first_and_last(connection, bare, log):
    log(bare, [{"loss": index, **({"test": index * 10} if index in (3, 6) else {})} for index in range(9)])
    metrics = by_name(curves.fetch(connection, bare, ["loss", "test"]))
    assert (metrics["test"].count, metrics["test"].first, metrics["test"].last) == (2, 30.0, 60.0)


def test_progress_is_the_axis_where_steps_stand_still(connection, bare, log):
    log(bare, [{"loss": index} for index in range(11)], progress=True)
    (loss,) = curves.fetch(connection, bare, ["loss"])
    assert loss.axis == "progress"
    assert [round(bucket.x, 6) for bucket in loss.buckets] == [index / 10 for index in range(11)]


@pytest.mark.parametrize("steps", [[5], [-(2**63), 2**63 - 1], [2**60, 2**60 + 1], [0, 0]])
def test_any_steps_can_be_drawn(connection, bare, steps):
    for number, step in enumerate(steps):
        connection.execute(
            "INSERT INTO metrics (run_id, step, progress, extra) VALUES (%s, %s, %s, '{\"loss\": 1}')",
            (bare, step, float("inf") if number and step == 0 else 0.0),
        )
    (loss,) = curves.fetch(connection, bare, ["loss"])
    assert loss.count >= 1
    assert len(loss.buckets) >= 1


def test_what_is_no_number_is_left_out(connection, bare, log):
    connection.execute("ALTER TABLE metrics ADD COLUMN phase text, ADD COLUMN fine boolean")
    log(bare, [{"words": "x", "nothing": None, "list": [1]}])
    connection.execute("UPDATE metrics SET phase = 'warm up', fine = true")
    names = metric_names.fetch(connection, [bare])
    assert {"phase", "fine", "words", "list"} <= set(names)
    assert [(metric.name, metric.last) for metric in curves.fetch(connection, bare, names)] == [("fine", 1.0)]


def test_many_metrics_need_several_statements(connection, bare, log):
    names = [f"metric_{number}" for number in range(450)]
    log(bare, [{name: number for number, name in enumerate(names)}])
    assert [metric.last for metric in curves.fetch(connection, bare, names)] == [float(n) for n in range(450)]


def test_a_run_without_metrics_has_none(connection, bare):
    assert curves.fetch(connection, bare, ["loss"]) == []


def test_sparklines_and_numbers_are_shown(cli, bare, log, insert):
    log(bare, [{"loss": 8.0 - index, "lr": {"float": "nan"} if index else 0.5} for index in range(8)])
    insert(
        "run_latest",
        run_id=bare,
        rows=8,
        last_step=7,
        last={"loss": 1.0, "lr": {"float": "nan"}, "phase": "warm"},
    )
    _, out, _ = cli("show", "r1")
    metrics = out.split("\nMetrics: 8 rows\n")[1].splitlines()
    assert metrics[0].split() == ["metric", "course", "first", "last", "min", "max", "nan/inf"]
    assert metrics[1].split() == ["loss", "█▇▆▅▄▃▂▁", "8", "1", "1", "8", "-"]
    assert metrics[2].split() == ["lr", "▄", "0.5", "nan", "0.5", "0.5", "7"]
    assert metrics[3].split() == ["phase", "-", "-", "warm", "-", "-", "-"]


def test_a_metric_is_plotted(cli, bare, log):
    log(bare, [{"loss": 10.0 - index} for index in range(10)])
    code, out, err = cli("show", "r1", "--plot", "loss")
    assert (code, err) == (0, "")
    assert "r1: loss" in out
    assert "step" in out.splitlines()[-1]
    assert len([line for line in out.splitlines() if "┤" in line]) >= 4
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_plotting_what_is_not_there_names_what_is(cli, bare, log):
    log(bare, [{"loss": 1.0, "phase": "warm"}])
    code, _, err = cli("show", "r1", "--plot", "los")
    assert code == 2
    assert "no numbers of metric 'los': did you mean 'loss'?" in err
    assert cli("show", "r1", "--plot", "phase")[0] == 2


# --- what others may see -----------------------------------------------------------------------------------


@pytest.fixture
def other_user(database, server, connection):
    """Settings of another user of a site, who may read what readers may."""
    role = f"bob_{database.dsn['dbname']}"
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    connection.execute(f"GRANT USAGE ON SCHEMA hpctrack TO {role}")
    for (table,) in connection.execute(
        "SELECT relname FROM pg_class"
        " WHERE relnamespace = 'hpctrack'::regnamespace AND relkind IN ('r', 'p', 'v')"
        " AND relname <> 'run_keys'"
    ).fetchall():
        connection.execute(f"GRANT SELECT ON hpctrack.{table} TO {role}")
    connection.execute("INSERT INTO site VALUES ('runs_visible', 'all')")
    return database._replace(dsn={**database.dsn, "user": role, "password": "x"})


def test_another_user_sees_the_run_but_not_what_is_private(other_user, full):
    with store.connect(other_user, autocommit=True) as theirs:
        run = queries.get_run(theirs, full)
        assert (run.job, run.user_name, run.args, run.env) == ("14_3", "alice", None, None)
        assert queries.submission(theirs, run.submission) is None
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            theirs.execute("SELECT * FROM run_keys")
        (row,) = [line for line in lists.list_runs(theirs, filters.RunFilter()) if line.id == full]
        assert row.args is None


def test_another_user_can_not_lure_private_values_out_of_the_view(other_user, full, connection):
    connection.execute(f"GRANT CREATE ON SCHEMA hpctrack TO {other_user.dsn['user']}")
    with store.connect(other_user, autocommit=True) as theirs:
        seen = []
        theirs.add_notice_handler(lambda notice: seen.append(notice.message_primary))
        theirs.execute(
            "CREATE FUNCTION leak(value jsonb) RETURNS boolean LANGUAGE plpgsql COST 0.0001"
            " AS $$ BEGIN RAISE NOTICE '%', value; RETURN true; END $$"
        )
        theirs.execute("SELECT id FROM run_overview WHERE leak(args) AND leak(env)").fetchall()
        assert seen
        assert "epochs" not in " ".join(map(str, seen))
        assert "CUDA" not in " ".join(map(str, seen))


def test_show_tells_another_user_that_something_is_private(other_user, full, cli, monkeypatch):
    for name, value in other_user.dsn.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name.upper()}", value)
    code, out, _ = cli("show", "14_3")
    assert code == 0
    assert "args, script and environment are for alice alone" in out
    assert "--epochs" not in out
    for option in ("--script", "--env"):
        code, out, err = cli("show", "14_3", option)
        assert (code, out) == (errors.StoreDenied.exit_code, "")
        assert "for alice alone" in err
