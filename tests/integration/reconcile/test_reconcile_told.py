"""What relays say of a run, and `hpctrack reconcile`, on a real PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
from click.testing import CliRunner

from hpctrack import errors, reconcile
from hpctrack.cli.verbs import reconcile as verb
from hpctrack.reconcile import passes, relayed
from hpctrack.run import runids
from hpctrack.store.read import lookup
from tests.support.relay_says import said, say
from tests.support.slurm_says import HELP, T0, epoch, line, row

# ---- Relays ------------------------------------------------------------------------------------------------


def test_what_relays_say_is_written(connection, register, get, fetch):
    run_id = register(10)
    when = T0.timestamp() + 6
    assert say(connection, run_id, "hello", time=when, node="n7", job_id=10) == frozenset()
    assert get(run_id)["status"] == "RUNNING"
    env = {"SLURM_JOB_ID": "10", "BAD": "a\x00b", "NUMBER": 3}
    say(connection, run_id, "start", time=when, stdout="/o", stderr="/e", node_list="n[7-8]", env=env)
    run = get(run_id)
    assert (run["stdout_path"], run["stderr_path"], run["node_list"]) == ("/o", "/e", "n[7-8]")
    assert run["env"] == {"SLURM_JOB_ID": "10", "BAD": "a\ufffdb"}
    ended = say(connection, run_id, "fin", time=when + 30, exit_code=3, stderr_tail="oops\x00")
    assert ended == {run_id}
    run = get(run_id)
    assert (run["status"], run["exit_code"], run["time_ended"]) == ("COMPLETING", 3, None)
    attempt = fetch("SELECT * FROM attempts")
    assert (attempt["batch_host"], attempt["stderr_tail"]) == ("n7", "oops\ufffd")


def test_a_run_is_found_by_what_slurm_calls_it_besides(connection, register):
    run_id, other = register(10), register(11)
    sluid = "s469M8HEPKNM00"
    say(connection, run_id, "start", env={"SLURM_JOB_SLUID": sluid})
    say(connection, other, "start", env={"SLURM_JOB_SLUID": "no such name"})
    assert lookup.find_one(connection, runids.parse(sluid)) == run_id
    assert lookup.find_one(connection, runids.parse("S469m8hepknmoo")) == run_id, "as Slurm reads it"
    for unknown in ("s469M8HEPKNM01", "no such name"):
        with pytest.raises(errors.RunNotFound):
            lookup.find_one(connection, runids.parse(unknown))


def test_each_execution_has_a_name_of_its_own(connection, register, slurm, once):
    """Squeue tells that of a job that waits, accounting that of one that is over."""
    run_id, inner = register(10), register(10, kind="command")
    first, second = "s955M8JAY6DX00", "s955M8JAYA0H00"
    slurm.says("squeue", line(10, "PENDING", SLUID=first), version="slurm 26.05.3")
    once()
    assert lookup.find_one(connection, runids.parse(first)) == run_id
    say(connection, inner, "start", env={"SLURM_JOB_SLUID": second})
    slurm.says("squeue", version="slurm 26.05.3")
    again = {"Submit": epoch(60), "Start": epoch(70), "End": epoch(90), "SLUID": second}
    rows = row(10, "REQUEUED", SLUID=first), row(10, "FAILED", **again)
    slurm.says("sacct", *rows, helpformat=HELP + " OriginalSLUID SLUID")
    once()
    found = [lookup.find_one(connection, runids.parse(sluid)) for sluid in (first, second)]
    assert found == [run_id, run_id], "of a job that is tracked itself, rather than what runs in it"


def test_the_tail_of_stderr_survives_slurms_verdict(connection, register, slurm, once, fetch):
    run_id = register(10)
    say(connection, run_id, "hello", time=T0.timestamp())
    say(connection, run_id, "fin", time=T0.timestamp() + 9, exit_code=3, stderr_tail="oops")
    slurm.says("sacct", row(10, "FAILED", ExitCode="3:0"))
    once()
    attempt = fetch("SELECT * FROM attempts")
    assert (attempt["status"], attempt["stderr_tail"], attempt["slurm_exit_code"]) == ("FAILED", "oops", 3)


def test_a_command_outside_slurm(connection, register, get):
    run_id = register(None, cluster=None, kind="command")
    say(connection, run_id, "hello", time=T0.timestamp())
    assert say(connection, run_id, "fin", time=T0.timestamp() + 9, exit_signal=15) == frozenset()
    run = get(run_id)
    assert (run["status"], run["time_ended"]) == ("CANCELLED", T0 + timedelta(seconds=9))


def test_many_runs_and_messages_at_once(connection, register):
    ids = [register(job) for job in range(1, 101)]
    messages = [said(run_id, kind) for run_id in ids for kind in ("hello", "args", "fin")]
    with connection.transaction():
        ended = reconcile.observe(connection, [*messages, said(10**9, "hello")])
    assert ended == set(ids)
    states = connection.execute("SELECT status, count(*) FROM runs GROUP BY 1").fetchall()
    assert states == [("COMPLETING", 100)]


@pytest.mark.parametrize(
    "body", [{"time": "soon", "node": [1], "env": "x", "exit_code": 1 << 60}, {"time": 1e99}]
)
def test_messages_of_any_shape_are_taken(connection, register, get, body):
    run_id = register(10)
    for kind in ("hello", "start", "fin", "tags"):
        say(connection, run_id, kind, **body)
    assert get(run_id)["status"] == "COMPLETING"


# ---- The command -------------------------------------------------------------------------------------------


@pytest.fixture
def invoke(database, slurm, monkeypatch):
    """Run hpctrack reconcile as it comes from the command line."""
    for name, value in database.dsn.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name.upper()}", value)
    monkeypatch.setenv("PATH", slurm.environ["PATH"])
    monkeypatch.setenv("HPCTRACK_DATA_DIR", database.data_dir)
    scontrol = slurm.folder / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 'ClusterName             = mini'\n")
    scontrol.chmod(0o755)
    return lambda *argv: CliRunner().invoke(verb.command, argv)


def test_the_command_prints_what_changed(slurm, register, invoke, connection):
    run_id = register(10)
    slurm.says("sacct", row(10, "CANCELLED by 4242"))
    done = invoke()
    assert done.exit_code == 0, done.output
    assert done.output == f"r{run_id}  job 10  PENDING -> CANCELLED (CANCELLED by 4242)\n"
    assert invoke().output == "nothing changed\n"
    connection.execute("UPDATE runs SET recheck_after = recheck_after - interval '1 minute'")
    assert invoke().output == "nothing changed\n", "it was the same when it was looked up again"


def test_the_command_as_json(slurm, register, invoke):
    run_id = register(20, tasks=[3])[3]
    slurm.says("sacct", row("20_3", JobIDRaw="23"))
    told = json.loads(invoke("--json").output)
    [change] = told["changes"]
    assert (change["run"], change["id"], change["job_id"]) == (f"r{run_id}", run_id, "20_3")
    assert (change["before"], change["state"]) == ("PENDING", "COMPLETED")
    assert [step["state"] for step in change["transitions"]] == ["RUNNING", "COMPLETED"]
    assert told["error"] is None


def test_the_command_says_when_slurm_is_silent(slurm, register, invoke):
    register(10)
    slurm.says("squeue", stderr="slurm_load_jobs error: Unable to contact slurm controller\n", exit=1)
    done = invoke()
    assert isinstance(done.exception, errors.SlurmUnavailable)
    assert "Unable to contact slurm controller" in str(done.exception)


def test_a_machine_that_went_down_took_its_runs_with_it(
    slurm, register, invoke, get, connection, fetch, monkeypatch
):
    """Outside Slurm: what began here before this boot, and has been silent since, has ended."""
    here = os.uname().nodename.partition(".")[0]
    names = ("lost", "elsewhere", "heard of")
    runs = {name: register(None, cluster=None, kind="command") for name in names}
    long_ago = datetime(2001, 1, 1, tzinfo=timezone.utc).timestamp()
    for name, run_id in runs.items():
        say(connection, run_id, "hello", time=long_ago, node="other" if name == "elsewhere" else here)
    connection.execute("UPDATE runs SET user_name = session_user")
    connection.execute("INSERT INTO streams (run_id, journal_id) VALUES (%s, '0')", [runs["heard of"]])
    (slurm.folder / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(slurm.folder))
    done = invoke()
    assert done.exit_code == 0, done.output
    assert done.output == f"r{runs['lost']}  here  RUNNING -> NODE_FAIL ({passes.RESTARTED})\n"
    assert get(runs["lost"])["time_ended"].timestamp() == long_ago, "when it was heard of last"
    assert {get(runs[name])["status"] for name in names[1:]} == {"RUNNING"}
    steps = fetch("SELECT * FROM transitions WHERE run_id = %s ORDER BY id", runs["lost"], many=True)
    assert (steps[-1]["status"], steps[-1]["source"]) == ("NODE_FAIL", "user")
    say(connection, runs["lost"], "fin", time=long_ago + 9, exit_code=0)
    assert get(runs["lost"])["status"] == "COMPLETED", "its journal turned up after all"


def test_a_run_whose_processes_were_all_killed(slurm, register, invoke, get, connection, fetch, monkeypatch):
    """Outside Slurm, on a machine that has not gone down: nothing is left, and nobody told the end."""
    here = os.uname().nodename.partition(".")[0]
    runs = {name: register(None, cluster=None, kind="command") for name in ("killed", "lives", "supervised")}
    names = {
        name: fetch("SELECT submission || ':' || task AS name FROM runs WHERE id = %s", run_id)["name"]
        for name, run_id in runs.items()
    }
    began = datetime.now(timezone.utc).timestamp()
    for run_id in runs.values():
        say(connection, run_id, "hello", time=began, node=here)
    past = "time_started = time_started - interval '3 minutes'"
    connection.execute("UPDATE runs SET user_name = session_user, time_seen = NULL, " + past)
    connection.execute("UPDATE attempts SET " + past)
    (slurm.folder / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(slurm.folder))
    script = subprocess.Popen(["/bin/sleep", "60"], env={"HPCTRACK_RUN": names["lives"]})
    # A supervisor whose command line is overwritten, and whose script has an environment of its own.
    supervise = (
        "from hpctrack.process import process_name; process_name.take('hpct-x'); print(flush=True); input()"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", supervise], env={"HPCTRACK_RUN": names["supervised"]},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        supervisor.stdout.readline()
        done = invoke()
    finally:
        for process in (script, supervisor):
            process.kill()
            process.communicate()
    assert done.output == f"r{runs['killed']}  here  RUNNING -> FAILED ({relayed.UNSEEN})\n"
    assert get(runs["killed"])["time_ended"].timestamp() == pytest.approx(began - 180, abs=1)
    assert {get(runs[name])["status"] for name in ("lives", "supervised")} == {"RUNNING"}
    say(connection, runs["killed"], "fin", time=began, exit_code=0)
    assert get(runs["killed"])["status"] == "COMPLETED", "its end turned up after all"
