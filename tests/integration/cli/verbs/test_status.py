"""hpctrack status, and the lists of the read service, on real PostgreSQL."""

from __future__ import annotations

import csv
import getpass
import io
import json
import os
import re
import subprocess
import sys
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from hpctrack.view import columns
from tests.support.paths import DOCS

NOW = datetime.now(timezone.utc)
DOCUMENTED = DOCS / "json.md"


def ids(out):
    return [line.split()[0] for line in out.splitlines() if re.match(r"r\d", line)]


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
    expected = "run job user experiment name state elapsed limit nodes step remarks latest"
    assert header.split() == expected.split()
    assert first.split() == (
        "r1 14_3 alice digits train.sh COMPLETED 1:02 10:00 n[1-2] 40 - acc 1 loss 0.08298".split()
    )
    assert "exit 3, attempt 3, 12 lost, 2,048 rows waiting in spool" in second
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
    assert out.splitlines()[-1] == "5 runs: 5 RUNNING (the newest 2 are shown; older ones: --after r4)"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["14"], ["r2", "r3"]),
        (["14_3", "r1"], ["r1", "r3"]),
        (["14_[3]", "r1-2"], ["r1", "r2", "r3"]),
        (["--state", "pd"], ["r3"]),
        (["--state", "PD,f", "-t", "Completed"], ["r3", "r4"]),
        (["--user", "bob"], ["r5"]),
        (["--user", "bob", "--user", "alice", "-E", "other"], ["r5"]),
        (["--since", "2d"], ["r1", "r2", "r3", "r5"]),
        (["--me"], ["r6"]),
        (["--until", "2d"], ["r4", "r6"]),
        (["--not-state", "R,PD"], ["r4"]),
        (["-T", "best", "--tag", "seed=3"], ["r6"]),
        (["--name", "eval[0-9]*"], ["r6"]),
        (["-p", "gpu,long"], ["r6"]),
        (["--where", "args.lr < 0.01 and tags.best"], ["r6"]),
        (["--sort", "-run", "--state", "R", "--user", "alice"], ["r2", "r1"]),
        (["--after", "r5", "--limit", "1"], ["r4"]),
        (["--since", "2000-01-01", "--state", "failed", "--user", "alice"], ["r4"]),
    ],
)
def test_the_options_filter(cli, run, arguments, expected):
    run(slurm_job_id=9)
    run(array_job_id=14, array_task_id=0)
    run(array_job_id=14, array_task_id=3, status="PENDING")
    run(status="FAILED", time_created=NOW - timedelta(days=3))
    run(user_name="bob", experiment="other")
    run(
        user_name=getpass.getuser(), time_created=NOW - timedelta(days=9), tags={"best": True, "seed": "3"},
        args={"lr": 0.001}, partition="gpu", job_name="eval1.sh",
    )  # fmt: skip
    code, out, _ = cli("status", *arguments)
    assert code == 0
    assert ids(out) == expected


def test_a_condition_that_makes_no_sense_is_pointed_at(cli):
    code, out, err = cli("status", "--where", "args.lr < 0.01 and lss < 1")
    assert (code, out) == (2, "")
    first, condition, caret = err.splitlines()
    assert first.startswith("hpctrack: 'lss' is no field of a run: ")
    assert condition == "  args.lr < 0.01 and lss < 1"
    assert caret == "  " + " " * 19 + "^"


@pytest.fixture
def array(run, insert):
    """Insert three tasks of a job array, r1 to r3."""
    name = "c0ffee00-0000-4000-8000-000000000000"
    insert("submissions", uuid=name, user_name="alice", time=NOW)
    for task, status in enumerate(("COMPLETED", "RUNNING", "COMPLETED")):
        run(
            submission=name, task=task, array_job_id=14, array_task_id=task, status=status,
            time_started=NOW - timedelta(minutes=5), time_limit=timedelta(minutes=10),
        )  # fmt: skip


def test_an_array_is_one_line_until_it_is_unfolded(cli, array):
    _, out, _ = cli("status")
    header, line, summary = out.splitlines()
    assert re.match(
        r"r1-3 +14_\[0-2\] +alice +digits +train.sh +2 COMPLETED, 1 RUNNING +\d+:\d\d +10:00 +- +- +- +-$",
        line,
    )
    assert summary == "3 runs: 2 COMPLETED, 1 RUNNING"
    assert header.split()[0] == "run"
    for arguments in (["--array"], ["14"], ["--format", "run"]):
        assert ids(cli("status", *arguments)[1]) == ["r1", "r2", "r3"]


def test_chosen_columns(cli, run):
    run(slurm_job_id=14, args={"lr": 0.5, "opt": {"name": "adam"}}, job_name="a long name.sh",
        latest={"last": {"loss": 0.25}})  # fmt: skip
    _, out, _ = cli("status", "-o", "job,name%6,args.lr,args.opt.name,metrics.loss,tags.x,limit")
    header, line, _ = out.splitlines()
    assert header.split() == "job name args.lr args.opt.name metrics.loss tags.x limit".split()
    assert line.split() == "14 a lon+ 0.5 adam 0.25 - -".split()


def test_help_on_columns_names_each_once(cli):
    code, out, _ = cli("status", "--format", "help")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[: len(columns.names())]] == list(columns.names())


def test_every_column_of_every_run_can_be_printed(cli, run):
    run()
    run(slurm_job_id=3, time_started=NOW, time_ended=NOW, exit_signal=9, tags={"a": "x|y"}, args={"b": [1]},
        latest={"last": {"x": {"float": "nan"}}})  # fmt: skip
    names = ",".join(columns.names())
    code, out, _ = cli("status", "--format", names, "--csv")
    first, second, third = csv.reader(io.StringIO(out))
    assert code == 0
    assert first == list(columns.names())
    assert (second[0], second[first.index("job")]) == ("r1", "")
    found = dict(zip(first, third, strict=True))
    assert found["exit"] == "SIGKILL"
    assert json.loads(found["latest"]) == {"x": "nan"}
    assert json.loads(found["args"]) == {"b": [1]}
    assert datetime.fromisoformat(found["ended"]) == NOW
    _, out, _ = cli("status", "--format", names, "--parsable")
    assert {line.count("|") for line in out.splitlines()} == {len(columns.names()) - 1}
    assert cli("status", "--format", names)[0] == 0


def test_programs_get_all_runs_if_they_ask_and_are_told_otherwise(cli, run):
    for _ in range(5):
        run()
    _, out, err = cli("status", "--csv", "--limit", "2", "--format", "run")
    assert out.splitlines() == ["run", "r4", "r5"]
    assert err == "hpctrack: more runs match: --after r4 goes on, --all prints all\n"
    _, out, err = cli("status", "--parsable", "--all", "--limit", "2", "--format", "run,state")
    assert out.splitlines() == ["run|state", *(f"r{number}|RUNNING" for number in range(1, 6))]
    assert err == ""


def test_counts(cli, run):
    for status in ("FAILED", "RUNNING", "RUNNING"):
        run(status=status)
    assert cli("status", "--count")[1] == "2 RUNNING\n1 FAILED\n"
    assert cli("status", "--count", "--user", "nobody")[1] == ""


def test_a_silent_slurm_is_told_with_since_when(cli, run, insert):
    name = uuid.uuid4()
    insert("submissions", uuid=name, user_name="alice", time=NOW)
    run(submission=name, task=-1)
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
        (["--csv", "--watch"], 2, "--csv and --watch do not go together"),
        (["--all"], 2, "--all is for --csv and --parsable"),
        (["--sort", "size"], 2, "'size' is no field of a run"),
        (["--format", "run,size"], 2, "'size' is no column"),
        (["--format", ""], 2, "--format needs names"),
        (["--name", "[z-a]"], 2, "no choice of characters"),
        (["--after", "r9"], 3, "no run r9"),
        (["--json", "--watch"], 2, "do not go together"),
        (["-c", "missing.conf"], 78, "missing.conf: no such configuration file"),
    ],
)
def test_failures_are_one_line(cli, arguments, code, said):
    exit_code, out, err = cli("status", *arguments)
    assert (exit_code, out) == (code, "")
    assert err.startswith("hpctrack: ")
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
        time_created=NOW,
        time_limit=timedelta(hours=1),
        tags={"a": None},
        latest={"last": {"x": {"float": "nan"}}},
    )
    insert("clusters", name="demo")
    code, out, _ = cli("status", "--json")
    told = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    documented = set().union(*documented_keys("`hpctrack status --json`"))
    assert {*told, *told["runs"][0]} == documented
    asked = {"time_checked", "unreachable_since", "error", "members_checked", "members_error"}
    assert set(told["clusters"][0]) == {"name", "awaited", *asked}
    assert told["runs"][0]["last"] == {"x": "nan"}
    assert told["runs"][0]["time_started"] is None
    assert datetime.fromisoformat(told["runs"][0]["time_created"]) == NOW
    assert told["counts"] == {"RUNNING": 1}


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


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_it_fits_the_terminal_and_is_coloured(terminal, run, columns):
    run(
        array_job_id=14, array_task_id=3, status="OUT_OF_MEMORY", job_name="forty-characters-" * 3,
        reason="oom", latest={"last": {f"metric_{i}": i for i in range(9)}},
    )  # fmt: skip
    screen = terminal("status", columns=columns)
    assert screen.finish() == 0
    assert "\x1b[1;38" in screen.text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", screen.text)
    lines = plain.replace("\r", "").splitlines()
    assert all(len(line) <= columns for line in lines)
    assert "14_3" in plain
    assert "✗ OUT_OF_MEMORY" in plain


def test_no_color_is_respected(terminal, run):
    run(status="FAILED")
    screen = terminal("status", NO_COLOR="1")
    assert screen.finish() == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9;]*m", screen.text)
    assert "✗ FAILED" in screen.text


def test_a_terminal_without_unicode_gets_words(terminal, run):
    run(status="FAILED", job_name="größe")
    screen = terminal("status", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert screen.finish() == 0
    assert "  FAILED  " in screen.text
    assert "✗" not in screen.text


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
