"""hpctrack sbatch around a fake sbatch on PATH, with a real PostgreSQL."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import psycopg
import pytest

from hpctrack import settings as configuration
from hpctrack.slurm import batch_script
from hpctrack.store import database as store
from hpctrack.store import registration
from hpctrack.stream import records

DATA = Path(__file__).parents[1] / "data"
MAIN = "from hpctrack.cli.main import main; main()"
ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-Value-42"

PROGRAMS = {
    # Notes down what it got, says what FAKE_STDOUT says, waits for FAKE_UNTIL, and ends with FAKE_EXIT.
    "sbatch": r"""
        case $1 in --help) echo x >> "$FAKE/helps"; cat "$FAKE/help"; exit 0 ;; esac
        for word; do printf '%s\0' "$word"; done > "$FAKE/argv"
        [ -n "$FAKE_BRIEF" ] || env -0 > "$FAKE/environ"
        for word; do
            case $word in */hpctrack-*/*) cp "$word" "$FAKE/script"; printf %s "$word" > "$FAKE/path" ;; esac
        done
        trap 'echo got TERM >&2; exit 42' TERM
        [ -z "$FAKE_STDERR" ] || echo "$FAKE_STDERR" >&2
        printf %b "$FAKE_STDOUT"
        [ -z "$FAKE_SECONDS" ] || sleep "$FAKE_SECONDS"
        [ -z "$FAKE_UNTIL" ] || while [ ! -e "$FAKE_UNTIL" ]; do sleep 0.05; done
        [ -z "$FAKE_SIGNAL" ] || kill -s "$FAKE_SIGNAL" $$
        exit "${FAKE_EXIT:-0}"
    """,
    "scontrol": r"""
        echo x >> "$FAKE/scontrols"
        [ -z "$FAKE_NO_SCONTROL" ] || { echo "slurm_load_ctl_conf error: Unable to contact" >&2; exit 1; }
        printf 'Configuration data\nClusterName             = fake\nX = 1\n'
    """,
    "squeue": r"""
        echo "$*" >> "$FAKE/squeues"
        printf '7 /elsewhere/train.sh\n'
        printf "$FAKE_SQUEUE" "$(cat "$FAKE/path")" "$(cat "$FAKE/path")"
    """,
}


class Site:
    """A host with a fake Slurm, and what its sbatch was given."""

    def __init__(self, folder, database=None):
        self.folder = folder
        self.fake = folder / "fake"
        self.work = folder / "work"
        self.scratch = folder / "scratch"
        for path in (self.fake, self.work, self.scratch, folder / "bin"):
            path.mkdir()
        (self.fake / "help").write_text((DATA / "sbatch-help-22.05.txt").read_text())
        for name, text in PROGRAMS.items():
            program = folder / "bin" / name
            program.write_text(
                "#!/bin/bash -p\n" + textwrap.dedent(text)
            )  # as `sh` may not, it keeps any variable
            program.chmod(0o755)
        self.settings = database or configuration.Settings(dsn={"host": "127.0.0.1", "port": "1"})
        self.settings = self.settings._replace(data_dir=str(folder / "data"))
        self.environ = {
            "PATH": f"{folder}/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "FAKE": str(self.fake),
            "TMPDIR": str(self.scratch),
            "PYTHONPATH": str(ROOT),
            "FAKE_STDOUT": "Submitted batch job 14\n",
            "HPCTRACK_DATA_DIR": self.settings.data_dir,
            **{f"HPCTRACK_DSN_{name.upper()}": value for name, value in self.settings.dsn.items()},
        }

    def start(self, *argv, environ=None, **options):
        merged = {**self.environ, **(environ or {})}
        environ = {name: value for name, value in merged.items() if value is not None}
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, "sbatch", *map(str, argv)],
            env=environ,
            cwd=self.work,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def sbatch(self, *argv, environ=None, given=None, **options):
        """Run hpctrack sbatch; return (exit code, stdout, stderr)."""
        if given is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*argv, environ=environ, **options) as process:
            stdout, stderr = process.communicate(given, timeout=60)
        return process.returncode, stdout.decode(), stderr.decode()

    def script(self, text="#!/bin/bash\necho\n", name="train.sh"):
        path = self.work / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    @property
    def argv(self):
        return (self.fake / "argv").read_text().split("\0")[:-1]

    @property
    def submitted(self):
        return (self.fake / "script").read_bytes()

    @property
    def seen(self):
        """The environment of the real sbatch, but for what the shell of the fake one adds."""
        lines = (self.fake / "environ").read_bytes().split(b"\0")[:-1]
        seen = dict(os.fsdecode(line).split("=", 1) for line in lines)
        return {name: value for name, value in seen.items() if name not in ("PWD", "OLDPWD", "SHLVL", "_")}

    def record(self, job_id=14, cluster="fake"):
        return records.find(self.settings.spool, cluster, job_id)

    def waiting(self):
        return [Path(path).name for path in records.unregistered(self.settings.spool)]

    def query(self, statement):
        with psycopg.connect(**self.settings.dsn) as connection:
            connection.execute("SET search_path = hpctrack")
            return connection.execute(statement).fetchall()

    def calls(self, name):
        path = self.fake / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def site(tmp_path):
    """A site whose PostgreSQL is down."""
    return Site(tmp_path)


@pytest.fixture
def stored(tmp_path, database):
    """A site with a PostgreSQL."""
    return Site(tmp_path, database)


def untracked(site):
    return not (site.fake / "script").exists() and not Path(site.settings.spool).exists()


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
    assert stored.sbatch("--array=0-9999%50", stored.script())[0] == 0
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
    assert stored.waiting() == ["fake.14.json", "fake.15.json"]


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


# ---- sbatch itself


def test_a_refusal_leaves_nothing(site):
    environ = {"FAKE_STDOUT": "", "FAKE_STDERR": "sbatch: error: Invalid account", "FAKE_EXIT": "1"}
    assert site.sbatch(site.script(), environ=environ) == (1, "", "sbatch: error: Invalid account\n")
    assert not Path(site.settings.spool).exists()
    assert list(site.scratch.iterdir()) == []
    assert site.calls("squeues") == []


def test_no_sbatch_here(site):
    (site.folder / "bin" / "sbatch").unlink()
    code, stdout, stderr = site.sbatch(site.script(), environ={"PATH": f"{site.folder}/bin"})
    assert (code, stdout, stderr.count("\n")) == (127, "", 1)
    assert "sbatch is not on PATH" in stderr


@pytest.mark.parametrize(
    ("stdout", "cluster"),
    [
        ("Submitted batch job 14\n", "fake"),
        ("Submitted batch job 14 on cluster other\n", "other"),
        ("14\n", "fake"),
        ("14;other\n", "other"),
        ("-- Welcome --\n  14 nodes\nSubmitted batch job 14\nBye\n", "fake"),
        ("14", "fake"),
    ],
)
def test_whatever_it_says_is_passed_on_and_understood(site, stdout, cluster):
    code, said, _ = site.sbatch(site.script(), environ={"FAKE_STDOUT": stdout})
    assert (code, said) == (0, stdout)
    assert site.record(14, cluster).cluster == cluster


def test_quiet_is_asked_for_by_the_path_that_nobody_else_has(site):
    environ = {"FAKE_STDOUT": "", "FAKE_SQUEUE": "21 %s a b\n22 %s a b\n"}
    code, stdout, _ = site.sbatch("-Q", "--parsable", site.script(), environ=environ)
    assert (code, stdout) == (0, "")
    assert site.record(21).job_id == 21
    assert "-Q" in site.argv
    assert len(site.calls("squeues")) == 1


def test_quiet_and_wait_is_known_while_it_runs(site, tmp_path):
    environ = {
        "FAKE_STDOUT": "",
        "FAKE_SQUEUE": "21 %s\n",
        "FAKE_UNTIL": str(tmp_path / "end"),
        "FAKE_EXIT": "3",
    }
    with site.start("-QW", site.script(), environ=environ) as process:
        deadline = time.monotonic() + 30
        while site.record(21) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.poll() is None
        (tmp_path / "end").touch()
        process.communicate(timeout=30)
    assert process.returncode == 3


def test_on_several_clusters_squeue_says_which(site):
    environ = {"FAKE_STDOUT": "", "FAKE_SQUEUE": "CLUSTER: one\nCLUSTER: two\n21 %s\n"}
    site.sbatch("-Q", "-M", "one,two", site.script(), environ=environ)
    assert site.record(21, "two").cluster == "two"
    assert site.calls("squeues")[0].endswith("--clusters one,two")


def test_an_sbatch_that_timed_out_may_have_submitted(site):
    environ = {"FAKE_STDOUT": "", "FAKE_SQUEUE": "21 %s\n", "FAKE_SECONDS": "5.1", "FAKE_EXIT": "1"}
    environ["FAKE_STDERR"] = "sbatch: error: Batch job submission failed: Socket timed out"
    code, _, stderr = site.sbatch(site.script(), environ=environ)
    assert code == 1
    assert site.record(21).job_id == 21
    assert "job 21 is submitted" in stderr


def test_test_only_leaves_no_run(site):
    for line in (["--test-only", site.script()], [site.script("#!/bin/sh\n#SBATCH --test-only\n:\n")]):
        assert site.sbatch(*line, environ={"FAKE_STDOUT": ""}) == (0, "", "")
        assert not Path(site.settings.spool).exists()
    assert site.calls("squeues") == []


def test_wait_prints_and_registers_at_once(stored, tmp_path):
    environ = {"FAKE_UNTIL": str(tmp_path / "end"), "FAKE_EXIT": "5"}
    with stored.start("--wait", stored.script(), environ=environ) as process:
        assert process.stdout.readline() == b"Submitted batch job 14\n"
        deadline = time.monotonic() + 30
        while not stored.query("SELECT FROM runs"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.poll() is None
        (tmp_path / "end").touch()
        process.communicate(timeout=30)
    assert process.returncode == 5


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_for_sbatch(site, signum):
    with site.start("--wait", site.script(), environ={"FAKE_UNTIL": "/nonexistent"}) as process:
        process.stdout.readline()
        process.send_signal(signum)
        process.communicate(timeout=30)
    assert process.returncode == (42 if signum == signal.SIGTERM else -signum)


def test_an_interrupt_at_the_terminal_ends_both_alike(site):
    with site.start(
        "--wait", site.script(), environ={"FAKE_UNTIL": "/none"}, start_new_session=True
    ) as process:
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT


def test_death_of_sbatch_by_a_signal(site):
    environ = {"FAKE_STDOUT": "", "FAKE_SIGNAL": "KILL"}
    assert site.sbatch(site.script(), environ=environ)[0] == -signal.SIGKILL


# ---- the script


def awkward():
    """A script of a thousand lines that quoting, here-documents and encodings would trip over."""
    lines = ["#!/bin/bash", "#SBATCH -J 'a name' # why", "", "# Grüße, \udce9\udcff", "cat <<'END'"]
    lines += [f"line {n} $HOME `date` \\ \" ' ** {{}} @SCRIPT@ %s éß漢字 \t" for n in range(994)]
    return os.fsencode("\n".join([*lines, "END"]))


def test_a_long_awkward_script_arrives_byte_for_byte(stored):
    text = awkward()
    assert stored.sbatch(stored.script(text))[0] == 0
    assert stored.submitted.endswith(b"\n" + text)
    assert stored.submitted.split(b"\n")[1:4] == text.split(b"\n")[1:4]
    assert stored.query("SELECT job_name FROM runs") == [("a name",)]
    assert len(stored.query("SELECT script FROM submissions")[0][0].split("\n")) == 1000


def test_the_name_of_the_script_stays(site):
    site.sbatch(
        "-n", "1", "./train.sh", "a b", "", environ={"FAKE_STDOUT": "1\n"}, given=site.script() and b""
    )
    assert site.argv[:2] == ["-n", "1"]
    assert Path(site.argv[2]).name == "train.sh"
    assert site.argv[3:] == ["a b", ""]
    assert f"--script {site.work}/train.sh ".encode() in site.submitted


def test_wrap(site):
    site.sbatch("-n1", "--wrap", "echo 'it''s'; #SBATCH -J no", ":", "-n2")
    assert site.argv[:3] == ["-n1", ":", "-n2"]
    assert Path(site.argv[3]).name == "wrap"
    assert site.submitted.endswith(batch_script.from_command(b"echo 'it''s'; #SBATCH -J no"))
    assert site.record().run["job_name"] == "wrap"
    assert site.record().run["het_job_id"] == 14


def test_standard_input(site):
    site.sbatch("-n1", given=b"#!/bin/sh\n#SBATCH --array=1-2\necho\n")
    assert Path(site.argv[1]).name == "sbatch"
    assert site.submitted.endswith(b"\n#!/bin/sh\n#SBATCH --array=1-2\necho\n")
    assert (site.record().run["job_name"], site.record().tasks) == ("sbatch", "1-2")


def test_a_pipe_is_read_once(site):
    fifo = site.work / "pipe.sh"
    os.mkfifo(fifo)
    for text in (b"#!/bin/sh\n: piped\n", b"no script\n"):
        with site.start(fifo) as process:
            fifo.write_bytes(text)
            process.communicate(timeout=30)
        assert Path(site.argv[0]).name == "pipe.sh"
        assert site.submitted.endswith(text)
    assert site.submitted == b"no script\n"


@pytest.mark.parametrize("text", [b"", b"echo\n", b"#!/bin/sh\r\n:\r\n", b"#!/bin/sh\n\0"])
def test_what_sbatch_refuses_it_sees_itself(site, text):
    script = site.script(text)
    environ = {"FAKE_STDOUT": "", "FAKE_EXIT": "1", "FAKE_STDERR": "sbatch: error: its own words"}
    assert site.sbatch(script, environ=environ) == (1, "", "sbatch: error: its own words\n")
    assert site.argv == [str(script)]
    assert untracked(site)


@pytest.mark.parametrize(
    "line", ["nosuch.sh", ".", "--wrap x train.sh", "-V", "--usage", "-n", "--unknown x"]
)
def test_other_lines_pass_through_as_typed(site, line):
    site.script()
    environ = {"FAKE_STDOUT": "as ever\n", "FAKE_EXIT": "2"}
    assert site.sbatch(*line.split(), environ=environ) == (2, "as ever\n", "")
    assert site.argv == line.split()


def test_help_is_ours_and_names_sbatchs(site):
    code, stdout, _ = site.sbatch("-E", "x", "--help")
    assert (code, "sbatch --help" in stdout, "--experiment" in stdout) == (0, True, True)
    assert not (site.fake / "argv").exists()


# ---- options of plugins


PLUGIN = "\n      --image=name            a container\n      --flag                  of a plugin\n"


def test_a_plugins_options_are_learnt_from_help_and_remembered(site):
    with (site.fake / "help").open("a") as file:
        file.write(PLUGIN)
    script = site.script()
    for _ in range(2):
        site.sbatch("--image", "ubuntu", "--flag", script, "x")
        assert site.argv[:3] == ["--image", "ubuntu", "--flag"]
        assert site.record().run["args"] == {"_": ["x"]}
    assert len(site.calls("helps")) == 1
    assert len(site.calls("scontrols")) == 1


def test_a_plugin_that_came_later_is_learnt(site):
    site.sbatch("--arr", "1", site.script())
    with (site.fake / "help").open("a") as file:
        file.write(PLUGIN)
    site.sbatch("--image", "ubuntu", site.script(), environ={"FAKE_STDOUT": "15\n"})
    assert site.record(15).job_id == 15


def test_where_the_script_is_in_doubt_sbatch_gets_what_was_typed(site):
    with (site.fake / "help").open("a") as file:
        file.write(PLUGIN)
    line = ["--image", str(site.script()), str(site.script(name="other.sh"))]
    code, _, stderr = site.sbatch(*line)
    assert (code, site.argv) == (0, line)
    assert stderr == (
        "hpctrack: submitted untracked: it can't be told whether --image takes a value: write it with =\n"
    )
    assert untracked(site)


# ---- the environment


def test_sbatch_gets_the_environment_unchanged(site):
    given = {
        "BASH_FUNC_module%%": "() {  :\n}",
        "LANG": "C",
        "SBATCH_EXPORT": "ALL",
        "SQUEUE_FORMAT": "%i",
        "ODD": "\udcff\n",
        "HPCTRACK_EXPERIMENT": "mine",
    }
    site.sbatch(site.script(), environ=given)
    assert site.seen == {**site.environ, **given}
    assert site.record().run["experiment"] == "mine"


def test_nothing_of_the_job_around_us_reaches_the_job(site):
    around = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1"}
    around |= {"HPCTRACK_JOB_ID": "9", "HPCTRACK_JOURNAL": "/tmp/j", "HPCTRACK_RUN_DIR": "/tmp/r"}
    site.sbatch(site.script(), environ=around)
    assert {name for name in around if name in site.seen} == {"SLURM_JOB_ID"}


# ---- hpctrack itself is broken


def test_a_configuration_that_does_not_parse(site):
    (site.work / "hpctrack.conf").write_text("nonsense\n")
    code, stdout, stderr = site.sbatch(site.script())
    assert (code, stdout, stderr.count("\n")) == (0, "Submitted batch job 14\n", 1)
    assert "submitted untracked: hpctrack.conf:1" in stderr
    assert site.argv == [str(site.work / "train.sh")]


def test_a_full_disk(site):
    code, stdout, stderr = site.sbatch("-n1", site.script(), environ={"FAKE_BRIEF": "1"}, preexec_fn=no_files)
    assert (code, stdout) == (0, "Submitted batch job 14\n")
    assert stderr.count("\n") == 1
    assert "submitted untracked" in stderr
    assert site.argv == ["-n1", str(site.work / "train.sh")]


def no_files():
    """Let hardly anything be written any more."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))


def test_the_cluster_without_a_name(site):
    code, _, stderr = site.sbatch(site.script(), environ={"FAKE_NO_SCONTROL": "1"})
    assert (code, stderr.count("\n")) == (0, 1)
    assert "job 14 is submitted, but not tracked: " in stderr


def test_a_wrong_own_option_stops_before_sbatch(site):
    code, _, stderr = site.sbatch("--note")
    assert (code, stderr.count("\n")) == (2, 1)
    assert not (site.fake / "argv").exists()


def test_a_wrong_line_in_the_script_is_told(site):
    _, _, stderr = site.sbatch(site.script("#!/bin/sh\n#HPCTRACK --experimnt=x\n:\n"))
    assert "--experimnt=x is not an option of hpctrack" in stderr
    assert site.record().run["experiment"] == "default"


def test_bbf_would_shift_the_script(site):
    (site.work / "bb").write_text("#BB x\n")
    code, _, stderr = site.sbatch("--bbf=bb", site.script())
    assert (code, stderr) == (0, "hpctrack: submitted untracked: --bbf puts lines into the script\n")


def test_the_key_in_the_script_where_asked_for(site):
    site.sbatch(site.script(), environ={"HPCTRACK_KEY_IN": "script"})
    (site.fake / "script").chmod(0o700)
    inside = records.read(str(site.fake / "script"))
    outside = site.record()
    assert (inside.uuid, inside.secret) == (outside.uuid, outside.secret)
    assert (inside.submission, inside.run) == ({}, {})


def test_store_is_used_through_the_users_settings(stored, connection):
    stored.sbatch(stored.script(), environ={"HPCTRACK_EXPERIMENT": "e", "HPCTRACK_TAGS": "x=1,y"})
    with store.connect(stored.settings) as own:
        assert own.execute("SELECT tags FROM runs").fetchall() == [({"x": "1", "y": True},)]
