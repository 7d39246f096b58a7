"""hpctrack sbatch around a fake sbatch on PATH: what a real PostgreSQL knows afterwards, or later."""

import json
import os
import socket
import subprocess
import uuid
from pathlib import Path

from hpctrack.store.write import registration
from hpctrack.stream.wire import records
from tests.support.site_of_fakes import SECRET, Site

# ---- what PostgreSQL knows afterwards


def test_a_submission_is_recorded_and_registered(stored):
    script = stored.script(
        "#!/bin/bash\n#SBATCH -p gpu -t 1:00:00\n#HPCTRACK -T script=1 --note='from script'\necho\n"
    )
    line = [
        "-E",
        "digits",
        "-T",
        "a=b",
        "-T",
        "bare",
        "-A",
        "acct",
        script,
        "--lr",
        "0.1",
        "--api-key",
        SECRET,
    ]
    assert stored.sbatch(*line, environ={"MY_TOKEN": SECRET}) == (0, "Submitted batch job 14\n", "")
    [run] = stored.query(
        "SELECT e.name, status::text, task, slurm_job_id, cluster, job_name, partition, account,"
        " time_limit::text, r.tags, args, r.comment FROM runs r JOIN experiments e ON e.id = experiment_id"
    )
    assert run == (
        *("digits", "PENDING", -1, 14, "fake", "train.sh", "gpu", "acct", "01:00:00"),
        {"script": "1", "a": "b", "bare": True},
        {"lr": 0.1, "api-key": "***"},
        "from script",
    )
    [(identity, text, submit_line, work_dir, env)] = stored.query(
        "SELECT uuid, script, submit_line, work_dir, env FROM submissions"
    )
    assert text == script.read_text()
    assert submit_line.startswith("hpctrack sbatch -E digits -T a=b -T bare -A acct ")
    assert work_dir == str(stored.work)
    assert env["FAKE"] == str(stored.fake)
    assert stored.query("SELECT status::text, source FROM transitions") == [("PENDING", "submit")]
    record = stored.record()
    assert uuid.UUID(record.uuid) == identity
    assert stored.query("SELECT secret FROM run_keys") == [(bytes.fromhex(record.secret),)]
    assert stored.waiting() == []
    everything = stored.query(
        "SELECT to_jsonb(s)::text FROM submissions s UNION SELECT to_jsonb(r)::text FROM runs r"
    )
    for secret in (SECRET, record.secret, stored.settings.dsn["password"]):
        assert secret not in str(everything)
        assert secret.encode() not in stored.submitted


def test_an_array_of_ten_thousand_tasks(stored):
    code, _, err = stored.sbatch("--array=0-9999%50", stored.script())
    assert code == 0
    if "did not answer within 2 s" in err:  # a busy machine: a later command registers it, all or none
        registration.register_pending(stored.settings)
    assert stored.query("SELECT count(*), min(task), max(task), count(slurm_job_id) FROM runs") == [
        (10000, 0, 9999, 0)
    ]
    assert stored.query("SELECT DISTINCT array_job_id FROM runs WHERE array_task_id = task") == [(14,)]
    assert stored.query("SELECT count(*) FROM submissions") == [(1,)]


def test_submitted_from_inside_a_tracked_job(stored):
    inside = {"SLURM_JOB_ID": "14", "HPCTRACK_JOB_ID": "14", "SLURM_CLUSTER_NAME": "fake"}
    stored.sbatch(stored.script())
    stored.sbatch(stored.script(), environ={**inside, "FAKE_STDOUT": "Submitted batch job 15\n"})
    links = stored.query(
        "SELECT a.slurm_job_id, l.kind, b.slurm_job_id FROM run_relationships l"
        " JOIN runs a ON a.id = from_id JOIN runs b ON b.id = to_id"
    )
    assert links == [(14, "submitted", 15)]


def test_the_state_of_the_repository(stored):
    def git(*argv):
        subprocess.run(["git", *argv], cwd=stored.work, check=True, capture_output=True)

    script = stored.script()
    git("init", "-q", "-b", "trunk")
    git("remote", "add", "origin", f"https://user:{SECRET}@host/repo.git")
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e@h", "commit", "-qm", "x")
    stored.sbatch(script)
    script.write_text(script.read_text() + "# changed\n")
    stored.sbatch(script, environ={"FAKE_STDOUT": "Submitted batch job 15\n"})
    clean, dirty = (row[0] for row in stored.query("SELECT git FROM submissions ORDER BY time"))
    assert (clean["branch"], clean["dirty"], dirty["dirty"]) == ("trunk", False, True)
    assert len(clean["commit"]) == 40
    assert clean["remote"] == "https://user:***@host/repo.git"


# ---- PostgreSQL is away


def test_postgresql_down_and_registered_later(stored):
    down = {"HPCTRACK_DSN_HOST": "127.0.0.1", "HPCTRACK_DSN_PORT": "1"}
    code, stdout, stderr = stored.sbatch(stored.script(), "--lr=1", environ=down)
    assert (code, stdout) == (0, "Submitted batch job 14\n")
    assert stderr.startswith("hpctrack: job 14 is submitted; it will be registered later: PostgreSQL")
    assert stderr.count("\n") == 1
    assert stored.waiting() == ["fake.14.json"]
    assert registration.register_pending(stored.settings) == 1
    assert registration.register_pending(stored.settings) == 0
    assert stored.query("SELECT slurm_job_id, args FROM runs") == [(14, {"lr": 1})]
    assert stored.waiting() == []


def test_the_next_submission_registers_what_waits(stored):
    down = {"HPCTRACK_DSN_HOST": "127.0.0.1", "HPCTRACK_DSN_PORT": "1"}
    stored.sbatch(stored.script(), environ=down)
    stored.sbatch(stored.script(), environ={"FAKE_STDOUT": "Submitted batch job 15\n"})
    assert stored.query("SELECT slurm_job_id FROM runs ORDER BY 1") == [(14,), (15,)]
    assert stored.waiting() == []


def test_a_damaged_record_keeps_none_of_the_others(stored, connection):
    down = {"HPCTRACK_DSN_HOST": "127.0.0.1", "HPCTRACK_DSN_PORT": "1"}
    for job_id in (14, 15, 16):
        stored.sbatch(stored.script(), environ={**down, "FAKE_STDOUT": f"Submitted batch job {job_id}\n"})
    spool = Path(stored.settings.spool)
    (spool / "submissions" / "fake.14.json").write_text("{")
    bad = json.loads((spool / "submissions" / "fake.15.json").read_text())
    bad["submission"]["time"] = "never"
    (spool / "submissions" / "fake.15.json").write_text(json.dumps(bad))
    assert registration.register_pending(stored.settings, connection) == 1
    assert stored.query("SELECT slurm_job_id FROM runs") == [(16,)]
    apart = [os.path.basename(path) for path, _ in records.refused(str(spool))]
    assert (stored.waiting(), apart) == ([], ["fake.14.json", "fake.15.json"])


def test_registering_twice_changes_nothing(stored, connection):
    stored.sbatch("--array=1-3", stored.script())
    before = stored.query("SELECT to_jsonb(r)::text FROM runs r ORDER BY id")
    ids = registration.register(connection, stored.record())
    assert sorted(ids) == [1, 2, 3]
    assert stored.query("SELECT to_jsonb(r)::text FROM runs r ORDER BY id") == before


def test_a_server_that_accepts_and_says_nothing_is_not_waited_for(site):
    with socket.create_server(("127.0.0.1", 0)) as server:
        environ = {"HPCTRACK_DSN_HOST": "127.0.0.1", "HPCTRACK_DSN_PORT": str(server.getsockname()[1])}
        code, stdout, stderr = site.sbatch(site.script(), environ=environ)
    assert (code, stdout, stderr.count("\n")) == (0, "Submitted batch job 14\n", 1)
    assert "it will be registered later" in stderr
    assert site.waiting() == ["fake.14.json"]


def test_a_database_without_the_schema_says_what_to_do(tmp_path, empty_database):
    site = Site(tmp_path, empty_database)
    code, _, stderr = site.sbatch(site.script())
    assert (code, stderr.count("\n")) == (0, 1)
    assert "run hpctrack setup" in stderr
    assert site.waiting() == ["fake.14.json"]


def test_a_home_that_cannot_be_written(stored):
    code, stdout, stderr = stored.sbatch(stored.script(), environ={"HPCTRACK_DATA_DIR": "/proc/no"})
    assert (code, stdout, stderr.count("\n")) == (0, "Submitted batch job 14\n", 1)
    assert "its metrics can't be recorded" in stderr
    assert stored.query("SELECT slurm_job_id FROM runs") == [(14,)]
