"""The main job, end to end: sbatch, a real Slurm, metrics while it runs, Slurm's verdict, and the answer."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.cluster

#: Logs a step every tenth of a second, from a Python that has no hpctrack of its own.
TRAIN = """\
#!/usr/bin/python3
import sys, time
import hpctrack
hpctrack.set_args(lr=0.1, layers=[4, 2])
hpctrack.set_tags("baseline", kind="test")
for step in range(int(sys.argv[1])):
    hpctrack.log({"train/loss": 1 / (step + 1), "accuracy": step}, step=step)
    time.sleep(0.1)
"""


def test_a_job_from_sbatch_to_slurms_last_word(alice, await_until):
    script = alice.write("train.py", TRAIN)
    own = ("-E", "spine", "-T", "smoke", "--note", "first")
    job = alice.sbatch("-t", "5", "-o", "%x-%j.out", script, "60", own=own)
    row = await_until(
        lambda: [r for r in alice.listed(str(job)) if r["last_step"]], 30, "metrics while it runs"
    )[0]
    assert row["state"] in ("RUNNING", "CONFIGURING"), "a metric was visible before the job had ended"
    run = alice.ended(job, rows=60)
    assert (run["state"], run["exit_code"], run["exit_signal"]) == ("COMPLETED", 0, None)
    assert (run["experiment"], run["name"], run["job_id"]) == ("spine", "train.py", str(job))
    assert (run["rows"], run["lost"], run["last_step"]) == (60, 0, 59)
    assert run["last"] == {"train/loss": 1 / 60, "accuracy": 59}
    assert run["args"] == {"_": [60], "lr": 0.1, "layers": [4, 2]}
    assert run["tags"] == {"smoke": True, "baseline": True, "kind": "test"}
    assert run["time_limit_s"] == 300
    states = [(t["state"], t["source"]) for t in run["transitions"]]
    assert states[0] == ("PENDING", "submit")
    assert [status for status, _ in states if status not in ("CONFIGURING", "COMPLETING")] == [
        "PENDING", "RUNNING", "COMPLETED",
    ]  # fmt: skip
    assert states[-1][1] == "sacct"
    steps = alice.sql(
        f"SELECT step, count(*) FROM metrics WHERE run_id = {run['id']} GROUP BY step ORDER BY step"
    )
    assert steps == [[step, 1] for step in range(60)]
    assert alice.sql(f"SELECT count(*) > 0 FROM usage WHERE run_id = {run['id']} AND memory_bytes > 0") == [
        [True]
    ]
    [[out]] = alice.sql(f"SELECT stdout_path FROM runs WHERE id = {run['id']}")
    assert out == str(alice.home / f"train.py-{job}.out")


def test_an_array_is_a_run_for_each_task(alice):
    script = alice.write(
        "task.sh", '#!/bin/bash\necho "step=1 task=$SLURM_ARRAY_TASK_ID" >> "$HPCTRACK_JOURNAL"\n'
    )
    job = alice.sbatch("--array=1,3-4%2", "-o", "/dev/null", script)
    assert {row["job_id"] for row in alice.listed(str(job))} == {f"{job}_{task}" for task in (1, 3, 4)}
    for task in (1, 3, 4):
        run = alice.ended(f"{job}_{task}", rows=1)
        assert (run["state"], run["last"]) == ("COMPLETED", {"task": task})
    [[submissions]] = alice.sql(f"SELECT count(DISTINCT submission) FROM runs WHERE array_job_id = {job}")
    assert submissions == 1


def test_a_failure_tells_exit_code_and_stderr(alice):
    script = alice.write("fail.sh", "#!/bin/bash\necho the last words >&2\nexit 3\n")
    shown = alice.ended(alice.sbatch("-o", "fail.out", "-e", "fail.err", script))
    assert (shown["state"], shown["exit_code"]) == ("FAILED", 3)
    assert "the last words" in shown["attempts"][-1]["stderr_tail"]


def test_what_was_logged_before_a_sigkill_is_there(alice):
    script = alice.write(
        "killed.py",
        "#!/usr/bin/python3\nimport hpctrack, os, signal\n"
        "for step in range(1000):\n    hpctrack.log(step=step, loss=step / 7)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    run = alice.ended(alice.sbatch("-o", "killed.out", script), rows=1000)
    assert (run["state"], run["exit_signal"], run["rows"], run["lost"]) == ("FAILED", 9, 1000, 0)


def test_collector_killed_in_mid_run(alice, await_until):
    script = alice.write("train.py", TRAIN)
    job = alice.sbatch("-o", "/dev/null", script, "120")
    await_until(lambda: [r for r in alice.listed(str(job)) if r["last_step"]], 30, "first metrics")
    [[pid]] = alice.sql("SELECT pid FROM collectors ORDER BY heartbeat DESC LIMIT 1")
    os.kill(pid, signal.SIGKILL)
    time.sleep(2)
    assert "started a collector" in alice.hpctrack("sync").stderr
    run = alice.ended(job, 120, rows=120)  # Slurm is asked once the lease of the dead one has run out
    assert (run["rows"], run["lost"]) == (120, 0)
    assert alice.sql(f"SELECT count(*), count(DISTINCT step) FROM metrics WHERE run_id = {run['id']}") == [
        [120, 120]
    ]


def test_nothing_answers_and_sync_delivers_later(alice, await_until):
    """PostgreSQL and the collector are away for submission and job; nothing of the job is lost."""
    away = {"HPCTRACK_DSN_HOST": "127.0.0.1", "HPCTRACK_DSN_PORT": "1", "HPCTRACK_COLLECTOR": "127.0.0.1:9"}
    script = alice.write(
        "away.sh", "#!/bin/bash\nfor i in 1 2 3; do echo step=$i x=$i >> $HPCTRACK_JOURNAL; done\n"
    )
    done = alice.hpctrack("sbatch", "--parsable", "-o", "away.out", script, env=away, timeout=20)
    assert done.stderr.count("\n") == 1 and "PostgreSQL" in done.stderr
    job = int(done.stdout)
    await_until(
        lambda: [r for r in alice.accounted(job) if r["End"] != "Unknown"], 60, "the job ends on time"
    )
    await_until(lambda: list(alice.home.glob(".local/share/hpctrack/spool/journals/*/*.part")), 30, "spooled")
    alice.hpctrack("sync", "--here")  # it was submitted to another server, which will never be there
    run = alice.ended(job, rows=3)
    assert (run["state"], run["rows"], run["last"]) == ("COMPLETED", 3, {"x": 3})
    left = f".local/share/hpctrack/spool/journals/*.{job}.*"
    await_until(lambda: not list(alice.home.glob(left)), 60, "nothing is left of it")
    alice.hpctrack("sync")
    assert alice.shown(job)["rows"] == 3


@pytest.mark.parametrize("options", [["--export=NONE"], ["--export=HOME"], []], ids=str)
def test_whatever_is_exported_the_job_is_tracked(alice, options):
    script = alice.write(
        "strict.sh", '#!/bin/bash\nset -eu\necho "step=1 x=2" >> "$HPCTRACK_JOURNAL"\necho done\n'
    )
    run = alice.ended(alice.sbatch(*options, "-o", "strict.out", script), rows=1)
    assert (run["state"], run["last"]) == ("COMPLETED", {"x": 2})


BROKEN = {
    "no Python": "rm {folder}/bin/python*",
    "no package": "rm -r {folder}/lib/python3*/site-packages/hpctrack",
    "a Python that hangs": "rm {folder}/bin/python; printf '#!/bin/sh\\nsleep 100\\n' > {folder}/bin/python; "
    "chmod 755 {folder}/bin/python",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_node_on_which_hpctrack_is_broken_runs_the_script_untracked(alice, await_until, fault):
    folder = alice.home / "broken"
    alice.run("rm", "-rf", folder)
    alice.run("cp", "-a", alice.bin.parent, folder)
    script = alice.write(
        "strict.sh", '#!/bin/bash\nset -eu\necho "step=1 x=2" >> "$HPCTRACK_JOURNAL"\necho "$1 $0"\nexit 3\n'
    )
    start = "from hpctrack.cli.main import main; main()"
    done = alice.run(
        folder / "bin" / "python",
        "-c",
        start,
        "sbatch",
        "--parsable",
        "-H",
        "-o",
        "broken.out",
        script,
        "argument",
    )
    job = int(done.stdout)
    alice.run("sh", "-c", BROKEN[fault].format(folder=folder))
    alice.run("scontrol", "release", str(job))
    row = await_until(
        lambda: [r for r in alice.accounted(job) if r["End"] not in ("Unknown", "None")], 60, "end"
    )[0]
    assert (row["State"], row["ExitCode"]) == ("FAILED", "3:0")
    lines = (alice.home / "broken.out").read_text().splitlines()
    assert sum("untracked" in line for line in lines) == 1
    assert sum(line.startswith("argument") for line in lines) == 1
    assert alice.ended(job, told=False)["state"] == "FAILED"  # Slurm's word is known all the same


def test_a_job_submitted_from_inside_a_job(alice, await_until):
    """The tracked child is a run of its own, linked to its parent; the plain one leaves no trace."""
    child = alice.write(
        "child.sh", '#!/bin/bash\necho "step=1 child=1" >> "${HPCTRACK_JOURNAL:-/dev/null}"\n'
    )
    plain = alice.write(
        "plain.py",
        "#!/usr/bin/python3\ntry:\n    import hpctrack\n    hpctrack.log(step=1, plain=1)\n"
        "except ImportError:\n    pass\n",
    )
    parent = alice.write(
        "parent.sh",
        f"#!/bin/bash\nhpctrack sbatch --parsable -d afterany:$SLURM_JOB_ID -o /dev/null {child} > child.id\n"
        f"sbatch --parsable -o plain.out {plain} > plain.id\nsleep 1\n"
        'echo "step=1 parent=1" >> "$HPCTRACK_JOURNAL"\n',
    )
    job = alice.sbatch("-o", "parent.out", parent)
    shown = alice.ended(job, rows=1)
    assert shown["last"] == {"parent": 1}
    tracked = int((alice.home / "child.id").read_text())
    assert alice.ended(tracked, rows=1)["last"] == {"child": 1}
    links = alice.sql("SELECT p.slurm_job_id, l.kind, c.slurm_job_id FROM run_relationships l"
                      " JOIN runs p ON p.id = from_id JOIN runs c ON c.id = to_id")  # fmt: skip
    assert [job, "submitted", tracked] in links
    untracked = int((alice.home / "plain.id").read_text())
    await_until(lambda: [r for r in alice.accounted(untracked) if r["State"] == "COMPLETED"], 30, "plain job")
    time.sleep(2)
    assert alice.shown(job)["last"] == {"parent": 1}
    assert alice.sql(f"SELECT count(*) FROM runs WHERE slurm_job_id = {untracked}") == [[0]]


def test_commands_inside_a_plain_job_keep_their_own_exits(alice, await_until):
    script = alice.write(
        "commands.sh",
        "#!/bin/bash\n"
        "hpctrack run -E commands -- sh -c 'echo step=1 x=1 >> $HPCTRACK_JOURNAL'\n"
        "hpctrack run -E commands -- sh -c 'echo step=2 x=2 >> $HPCTRACK_JOURNAL; exit 4'\n"
        "echo rc=$?\nexit 0\n",
    )
    done = alice.run("sbatch", "--parsable", "-W", "-o", "commands.out", script)
    assert "rc=4" in (alice.home / "commands.out").read_text()

    def settled():
        runs = [row for row in alice.listed("-E", "commands") if row["time_ended"]]
        return runs if len(runs) == 2 else None

    runs = sorted(await_until(settled, 60, "both commands"), key=lambda row: row["id"])
    assert [(row["state"], row["exit_code"], row["last"]) for row in runs] == [
        ("COMPLETED", 0, {"x": 1}), ("FAILED", 4, {"x": 2}),
    ]  # fmt: skip
    assert {row["slurm_job_id"] for row in runs} == {int(done.stdout)}


def test_two_users_cannot_read_each_other(alice, bob, await_until):
    secret = "s3cr3t-" + os.urandom(8).hex()
    script = alice.write(
        "private.sh",
        '#!/bin/bash\necho step=1 x=1 >> "$HPCTRACK_JOURNAL"\necho "$HPCTRACK_RUN_DIR" > run.dir\n'
        "ps -ef\nenv\nsleep 6\n",
    )
    job = alice.sbatch("-o", "private.out", script, env={"MY_API_KEY": secret})
    run_dir = await_until(
        lambda: (alice.home / "run.dir").exists() and (alice.home / "run.dir").read_text(), 30
    ).strip()
    spool = alice.home / ".local/share/hpctrack"
    record = next((spool / "spool/submissions").glob(f"*.{job}.json"))
    key = json.loads(record.read_text())["secret"]
    for path in (run_dir, f"{run_dir}/relay.log", record, spool, spool / "spool", spool / "postgres"):
        for attempt in (
            ["ls", path],
            ["cat", path],
            ["sh", "-c", f"echo x >> {path}"],
            ["touch", f"{path}/x"],
        ):
            assert bob.run(*attempt, check=False).returncode, f"bob could {attempt}"
    run = alice.ended(job)
    assert secret in (alice.home / "private.out").read_text(), "the job itself gets its bytes unchanged"
    assert key not in (alice.home / "private.out").read_text(), (
        "the key is in no argument list and no environment"
    )
    told = (
        alice.run("sacct", "-j", str(job), "--batch-script").stdout
        + alice.run("sacct", "-j", str(job), "--env-vars").stdout
    )
    assert "private.sh" in told and key not in told, "nor in what Slurm's accounting keeps"
    dump = json.dumps(
        alice.sql("SELECT to_jsonb(s) FROM submissions s")
        + alice.sql(f"SELECT to_jsonb(r) FROM runs r WHERE id = {run['id']}")
    )
    assert secret not in dump and key not in dump
    assert "MY_API_KEY" in dump
    assert bob.hpctrack("show", str(job), check=False).returncode == 3
