"""hpctrack status, and the lists of the read service, on real PostgreSQL."""

from __future__ import annotations

import getpass
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from hpctrack.cli import main
from hpctrack.model import RunStatus
from hpctrack.store import queries
from hpctrack.store.queries import RunFilter

NOW = datetime.now(timezone.utc)
DOCUMENTED = Path(__file__).parents[2] / "docs" / "json.md"


@pytest.fixture
def run(insert):
    """Insert a run; what is not said is as usual."""
    experiments = {}

    def make(status="RUNNING", experiment="digits", latest=None, **values):
        if experiment not in experiments:
            experiments[experiment] = insert("experiments", name=experiment)
        defaults = {"user_name": "alice", "cluster": "demo", "job_name": "train.sh", "time_created": NOW}
        run_id = insert(
            "runs", experiment_id=experiments[experiment], status=status, **{**defaults, **values}
        )
        if latest is not None:
            insert("run_latest", run_id=run_id, **latest)
        return run_id

    return make


@pytest.fixture
def cli(database, monkeypatch, capsys):
    """Run a verb in this process; returns exit code, stdout, stderr."""
    for name, value in database.dsn.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name.upper()}", value)

    def call(*arguments):
        code = main.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def ids(out):
    return [line.split()[0] for line in out.splitlines() if re.match(r"r\d", line)]


# --- the read service --------------------------------------------------------------------------------------


def test_lists_are_pages_by_rising_age(connection, run):
    made = [run() for _ in range(7)]
    first = queries.list_runs(connection, RunFilter(), limit=3)
    second = queries.list_runs(connection, RunFilter(), limit=3, before=first[-1].id)
    last = queries.list_runs(connection, RunFilter(), limit=3, before=second[-1].id)
    assert [one.id for one in (*first, *second, *last)] == made[::-1]


def test_filters(connection, run):
    old = run(status="FAILED", time_created=NOW - timedelta(days=3))
    bobs = run(user_name="bob")
    other = run(experiment="other", status="PENDING")

    def listed(**which):
        return [one.id for one in queries.list_runs(connection, RunFilter(**which))]

    assert listed() == [other, bobs, old]
    assert listed(statuses=(RunStatus.FAILED, RunStatus.PENDING)) == [other, old]
    assert listed(users=("bob", "carol")) == [bobs]
    assert listed(experiment="other") == [other]
    assert listed(since=NOW - timedelta(days=1)) == [other, bobs]
    assert listed(ids=(old, bobs), users=("alice",)) == [old]
    assert listed(ids=()) == []
    assert queries.count_runs(connection, RunFilter(users=("alice",))) == {
        RunStatus.FAILED: 1,
        RunStatus.PENDING: 1,
    }


def test_special_values_come_back(connection, run):
    run_id = run(
        latest={"last": {"a": {"float": "nan"}, "b": {"int": str(2**70)}, "c": 1.5, "d": {"float": "-inf"}}}
    )
    last = queries.get_run(connection, run_id).last
    assert str(last.pop("a")) == "nan"
    assert last == {"b": 2**70, "c": 1.5, "d": float("-inf")}


def test_times_that_python_can_not_hold_are_unknown(connection, insert, run):
    run_id = run()
    insert("transitions", run_id=run_id, source="relay", time="infinity")
    insert("transitions", run_id=run_id, source="relay", time="200000-01-01")
    assert [one.time for one in queries.transitions(connection, run_id)] == [None, None]


def plan_nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from plan_nodes(child)


def explain(connection, name, params):
    statement = b"EXPLAIN (FORMAT JSON) " + queries.statement(name)
    (((tree,),),) = connection.execute(statement, params).fetchall()
    return list(plan_nodes(tree["Plan"]))


def test_lists_never_touch_metrics_and_read_no_more_runs_than_they_show(connection):
    connection.execute("INSERT INTO experiments (name) SELECT 'e' || i FROM generate_series(1, 20) i")
    connection.execute(
        "INSERT INTO runs (experiment_id, slurm_job_id, user_name) SELECT 1 + i % 20, i, 'u' || i % 50"
        " FROM generate_series(1, 20000) i"
    )
    connection.execute("INSERT INTO run_latest (run_id) SELECT id FROM runs")
    connection.execute("ANALYZE")
    newest = explain(connection, "list_runs", {**RunFilter().params(), "limit": 50, "before": None})
    job = explain(connection, "find_job", {"job_id": 77})
    for nodes in (newest, job):
        assert "metrics" not in {node.get("Relation Name") for node in nodes}
        scans = [node for node in nodes if node.get("Relation Name") == "runs"]
        assert scans
        assert all(node["Node Type"] != "Seq Scan" for node in scans)


# --- the table ----------------------------------------------------------------------------------------------


def test_a_table_tells_what_is_asked_of_it(cli, run):
    run(
        status="COMPLETED", array_job_id=14, array_task_id=3, time_limit=timedelta(minutes=10),
        time_started=NOW - timedelta(seconds=90), time_ended=NOW - timedelta(seconds=28), node_list="n[1-2]",
        latest={"last_step": 40, "last": {"loss": 0.08297531, "acc": 1}},
    )  # fmt: skip
    run(status="FAILED", slurm_job_id=18, exit_code=3, attempt=2, latest={"lost": 12, "waiting": 2048})
    code, out, err = cli("status")
    header, first, second, summary = out.splitlines()
    assert (code, err) == (0, "")
    assert header.split() == "run job user experiment name state elapsed limit nodes step note latest".split()
    assert first.split() == (
        "r1 14_3 alice digits train.sh COMPLETED 1:02 10:00 n[1-2] 40 - acc 1 loss 0.08298".split()
    )
    assert "exit 3, attempt 3, 12 lost, 2 KiB waiting in spool" in second
    assert summary == "2 runs: 1 COMPLETED, 1 FAILED"


def test_a_pipe_gets_no_colours_no_cuts_and_no_blanks_at_the_ends(cli, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    run(slurm_job_id=123456789, job_name="x" * 200, latest={"last": {f"metric_{i}": i for i in range(5)}})
    _, out, _ = cli("status")
    assert "\x1b" not in out
    assert "x" * 200 in out
    assert "metric_4 4" in out
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_names_can_not_command_the_terminal(cli, run):
    run(job_name="a\x1b[2Jb\nc", reason="\x1b]0;title\x07")
    _, out, _ = cli("status")
    assert "\x1b" not in out
    assert "a\\x1b[2Jb\\nc" in out


def test_the_newest_are_shown_last_and_the_rest_is_counted(cli, run):
    for _ in range(5):
        run()
    _, out, _ = cli("status", "--limit", "2")
    assert ids(out) == ["r4", "r5"]
    assert out.splitlines()[-1] == "5 runs: 5 RUNNING (the newest 2 are shown, see --limit)"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["14"], ["r2", "r3"]),
        (["14_3", "r1"], ["r1", "r3"]),
        (["--state", "pd"], ["r3"]),
        (["--state", "PD,f", "-t", "Completed"], ["r3", "r4"]),
        (["--user", "bob"], ["r5"]),
        (["--user", "bob", "--user", "alice", "-E", "other"], ["r5"]),
        (["--since", "2d"], ["r1", "r2", "r3", "r5"]),
        (["--me"], ["r6"]),
        (["--since", "2000-01-01", "--state", "failed", "--user", "alice"], ["r4"]),
    ],
)
def test_the_options_filter(cli, run, arguments, expected):
    run(slurm_job_id=9)
    run(array_job_id=14, array_task_id=0)
    run(array_job_id=14, array_task_id=3, status="PENDING")
    run(status="FAILED", time_created=NOW - timedelta(days=3))
    run(user_name="bob", experiment="other")
    run(user_name=getpass.getuser(), time_created=NOW - timedelta(days=9))
    code, out, _ = cli("status", *arguments)
    assert code == 0
    assert ids(out) == expected


def test_a_silent_slurm_is_told_with_since_when(cli, run, insert):
    run()
    insert("clusters", name="good", time_checked=NOW)
    insert("clusters", name="demo", unreachable_since=NOW - timedelta(minutes=5), error="timed out")
    _, out, _ = cli("status")
    (line,) = [line for line in out.splitlines() if "has not answered" in line]
    assert line.startswith("Slurm of cluster demo has not answered since ")
    assert re.search(r"\(\d+:\d\d ago\)", line)
    assert line.endswith("timed out")


def test_an_empty_list_says_what_to_do_next(cli, run):
    code, out, err = cli("status")
    assert (code, err) == (0, "")
    assert out.startswith("No runs yet. Submit one: hpctrack sbatch train.sh")
    run()
    _, out, _ = cli("status", "--user", "nobody")
    assert out == "No run matches. hpctrack status without filters lists all runs.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["14"], 3, "no tracked run of job 14"),
        (["r9"], 3, "no run r9"),
        (["train.sh"], 3, "no run's name begins with 'train.sh'"),
        (["--state", "done"], 2, "'DONE' is no job state"),
        (["--since", "soon"], 2, "'soon' is no time"),
        (["--limit", "0"], 2, "--limit"),
        (["--json", "--watch"], 2, "do not go together"),
        (["-c", "missing.conf"], 78, "missing.conf: no such configuration file"),
    ],
)
def test_failures_are_one_line(cli, arguments, code, said):
    found, out, err = cli("status", *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("hpctrack: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"PORT": "1"}, 69, "PostgreSQL can't be reached"),
        ({"PASSWORD": "wrong"}, 77, "PostgreSQL refused the login"),
        ({"DBNAME": "postgres"}, 78, "run hpctrack setup"),
    ],
)
def test_a_database_that_does_not_serve_is_one_line(cli, monkeypatch, changes, code, said):
    for name, value in changes.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name}", value)
    found, out, err = cli("status")
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def documented_keys(heading):
    text = DOCUMENTED.read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
    return [
        set(re.findall(r"`(\w+)`", line.split("|")[1]))
        for line in text.splitlines()
        if line.startswith("| `")
    ]


def test_json_has_just_the_documented_keys(cli, run, insert):
    run(
        slurm_job_id=14,
        time_limit=timedelta(hours=1),
        tags={"a": None},
        latest={"last": {"x": {"float": "nan"}}},
    )
    insert("clusters", name="demo")
    code, out, _ = cli("status", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    documented = set().union(*documented_keys("`hpctrack status --json`"))
    assert {*found, *found["runs"][0]} == documented
    assert set(found["clusters"][0]) == {"name", "time_checked", "unreachable_since", "error"}
    assert found["runs"][0]["last"] == {"x": "nan"}
    assert found["runs"][0]["time_started"] is None
    assert datetime.fromisoformat(found["runs"][0]["time_created"]) == NOW
    assert found["counts"] == {"RUNNING": 1}


def test_json_of_nothing_is_still_an_object(cli):
    code, out, _ = cli("status", "--json")
    assert (code, json.loads(out)["runs"]) == (0, [])


def test_reads_never_write(cli, run, connection):
    run()
    before = connection.execute("SELECT xmin, ctid, * FROM runs").fetchall()
    cli("status")
    cli("show", "r1")
    assert connection.execute("SELECT xmin, ctid, * FROM runs").fetchall() == before


# --- on a terminal ------------------------------------------------------------------------------------------


class Terminal:
    """A verb in a terminal of its own."""

    def __init__(self, database, arguments, columns, **environ):
        self.output = b""
        leader, follower = pty.openpty()
        names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
        base = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
        size = {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm-256color"}
        self._leader = leader
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hpctrack.cli.main", *arguments],
            stdin=follower, stdout=follower, stderr=follower, env={**base, **names, **size, **environ},
            start_new_session=True,
        )  # fmt: skip
        os.close(follower)

    def read_until(self, condition):
        """Read until the text so far satisfies a condition."""
        deadline = time.monotonic() + 30
        while not condition(self.text):
            ready, _, _ = select.select([self._leader], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"never came: {self.text}"
            self._read()

    def finish(self):
        """Read to the end; returns the exit code."""
        while select.select([self._leader], [], [], 30)[0] and self._read():
            pass
        return self.process.wait(30)

    def _read(self):
        try:
            data = os.read(self._leader, 65536)
        except OSError:  # EIO: nobody holds the other end any more
            return b""
        self.output += data
        return data

    @property
    def text(self):
        return self.output.decode("utf-8", "replace")

    def type(self, text):
        os.write(self._leader, text.encode())

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._leader)


@pytest.fixture
def terminal(database):
    """Start verbs in terminals of their own."""
    opened = []

    def start(*arguments, columns=100, **environ):
        opened.append(Terminal(database, arguments, columns, **environ))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_it_fits_the_terminal_and_is_coloured(terminal, run, columns):
    run(
        array_job_id=14, array_task_id=3, status="OUT_OF_MEMORY", job_name="forty-characters-" * 3,
        reason="oom", latest={"last": {f"metric_{i}": i for i in range(9)}},
    )  # fmt: skip
    one = terminal("status", columns=columns)
    assert one.finish() == 0
    assert "\x1b[1;38" in one.text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", one.text)
    lines = plain.replace("\r", "").splitlines()
    assert all(len(line) <= columns for line in lines)
    assert "14_3" in plain
    assert "✗ OUT_OF_MEMORY" in plain


def test_no_color_is_respected(terminal, run):
    run(status="FAILED")
    one = terminal("status", NO_COLOR="1")
    assert one.finish() == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9;]*m", one.text)
    assert "✗ FAILED" in one.text


def test_a_terminal_without_unicode_gets_words(terminal, run):
    run(status="FAILED", job_name="größe")
    one = terminal("status", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert one.finish() == 0
    assert "FAILED" in one.text
    assert "✗" not in one.text


def test_watching_follows_the_database_until_q(terminal, run, connection):
    run(status="PENDING")
    one = terminal("status", "--watch", "--interval", "0.2")
    one.read_until(lambda text: "PENDING" in text)
    connection.execute("UPDATE runs SET status = 'RUNNING'")
    one.read_until(lambda text: "RUNNING" in text)
    one.type("q")
    assert one.finish() == 0
    assert one.text.count("\x1b[?1049h") == one.text.count("\x1b[?1049l") == 1
    after = one.text.rpartition("\x1b[?1049l")[2]
    assert "RUNNING" in after
    assert "Traceback" not in one.text


def test_watching_ends_cleanly_on_ctrl_c_and_gives_the_terminal_back(terminal, run):
    run()
    one = terminal("status", "--watch", "--interval", "30")
    one.read_until(lambda text: "RUNNING" in text)
    one.process.send_signal(signal.SIGINT)
    assert one.finish() == 0
    assert "\x1b[?1049l" in one.text
    assert "Traceback" not in one.text


def test_watching_named_runs_ends_with_them(terminal, run, connection):
    run(slurm_job_id=14)
    one = terminal("status", "--watch", "--interval", "0.2", "14")
    one.read_until(lambda text: "RUNNING" in text)
    connection.execute("UPDATE runs SET status = 'COMPLETED', time_ended = now()")
    assert one.finish() == 0
    assert "COMPLETED" in one.text


def test_watching_survives_a_postgresql_that_drops_connections(terminal, run, connection):
    run(status="PENDING")
    one = terminal("status", "--watch", "--interval", "0.2")
    one.read_until(lambda text: "PENDING" in text)
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'hpctrack' AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    connection.execute("UPDATE runs SET status = 'RUNNING'")
    one.read_until(lambda text: "RUNNING" in text)
    one.type("q")
    assert one.finish() == 0


def test_watching_into_a_pipe_writes_what_changed(database, run, connection):
    run(slurm_job_id=14, status="PENDING")
    names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "hpctrack.cli.main", "status", "14", "--watch", "--interval", "0.2"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={**os.environ, **names},
    )  # fmt: skip
    first = [process.stdout.readline() for _ in range(4)]
    connection.execute("UPDATE runs SET status = 'COMPLETED', time_ended = now()")
    rest = process.stdout.read()
    assert process.wait(30) == 0
    assert "PENDING" in first[1]
    assert "COMPLETED" in rest
    assert "\x1b" not in rest


def test_a_reader_that_goes_away_is_no_error(database, run):
    for _ in range(300):
        run(job_name="x" * 500)
    names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
    done = subprocess.run(
        f"{sys.executable} -m hpctrack.cli.main status --limit 300 | head -1",
        shell=True, capture_output=True, text=True, check=False, env={**os.environ, **names},
    )  # fmt: skip
    assert done.stdout.startswith("run")
    assert done.stderr == ""
