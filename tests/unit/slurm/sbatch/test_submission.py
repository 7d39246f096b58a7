"""What a submission says of itself: hpctrack's own options, its parent, its record without secrets."""

import json
import os
import pwd
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack import errors, resources
from hpctrack.git import repository
from hpctrack.settings import Settings
from hpctrack.slurm.sbatch import environment, preparation, submission
from hpctrack.slurm.sbatch.submission import Job, Own, Parent, Source
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import Address

SECRET = "s3cr3t-Value-42"


@pytest.mark.parametrize(
    ("words", "own", "rest"),
    [
        ("", Own(), ""),
        ("-E exp train.sh", Own("exp"), "train.sh"),
        ("-Eexp --note=hi -N 2", Own("exp", (), "hi"), "-N 2"),
        ("--experiment=a=b -T x=1 -Ty --tag=z --tag w s", Own("a=b", ("x=1", "y", "z", "w")), "s"),
        ("-E a -E b s", Own("b"), "s"),
        ("-N1 -E exp s", Own(), "-N1 -E exp s"),
        ("--exp x", Own(), "--exp x"),
        ("--tags x", Own(), "--tags x"),
        ("-e err -t 5 s", Own(), "-e err -t 5 s"),
        ("train.sh -E exp", Own(), "train.sh -E exp"),
        ("-- -E exp", Own(), "-- -E exp"),
    ],
)
def test_own_options_come_first(words, own, rest):
    assert submission.parse_own(words.split()) == (own, rest.split())


@pytest.mark.parametrize("words", ["-E", "--tag", "-T a --note"])
def test_an_own_option_without_its_value(words):
    with pytest.raises(errors.UsageError, match="needs a value"):
        submission.parse_own(words.split())


def test_the_stronger_experiment_and_note_count_and_tags_add_up():
    line, script = Own(None, ("a=3",), ""), Own("s", ("a=1", "b"), "from script")
    settings = submission.from_settings(Settings(experiment="c", tags=("c", "b=0")))
    assert line.over(script).over(settings) == Own("s", ("c", "b=0", "a=1", "b", "a=3"), "")
    assert submission.tags(line.over(script).over(settings).tags) == {"a": "3", "b": True, "c": True}


def test_lines_in_the_script():
    block = [
        "#SBATCH -n1",
        "#HPCTRACK --experiment=digits -T 'two words' # why",
        "#HPCTRACK_RECORD {}",
        "# HPCTRACK --note=no",
        "#HPCTRACK -T b=1",
    ]
    assert preparation.read_own(block) == (Own("digits", ("two words", "b=1")), ())


def test_a_line_in_the_script_that_is_wrong_is_told_and_passed_over():
    own, notes = preparation.read_own(
        ["#HPCTRACK --experimnt=x", "#HPCTRACK -T", "#HPCTRACK -E 'x", "#HPCTRACK -Ey"]
    )
    assert own == Own("y")
    assert len(notes) == 3
    assert "--experimnt=x is not an option of hpctrack" in notes[0]


# ---- the parent


@pytest.fixture
def spool(tmp_path):
    return str(tmp_path / "spool")


def put(spool, job_id, uuid, tasks=None):
    minted = submission.mint(Settings(), 1.0)
    records.write(spool, minted._replace(uuid=uuid, cluster="hpc", base_job_id=job_id, tasks=tasks))


INSIDE = {"SLURM_JOB_ID": "17", "HPCTRACK_JOB_ID": "17", "SLURM_CLUSTER_NAME": "hpc"}
TASK = {**INSIDE, "SLURM_ARRAY_JOB_ID": "14", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize(
    ("environ", "parent"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "17", "SLURM_CLUSTER_NAME": "hpc"}, None),
        ({**INSIDE, "HPCTRACK_JOB_ID": "16"}, None),
        (INSIDE, Parent("plain", -1)),
        (TASK, Parent("plain", -1)),
        ({**TASK, "SLURM_JOB_ID": "18", "HPCTRACK_JOB_ID": "18"}, Parent("array", 3)),
        ({**TASK, "SLURM_JOB_ID": "14", "HPCTRACK_JOB_ID": "14"}, Parent("array", 3)),
        ({**INSIDE, "SLURM_JOB_ID": "99", "HPCTRACK_JOB_ID": "99"}, None),
        ({**INSIDE, "HPCTRACK_RUN": "command:-1"}, Parent("command", -1)),
        ({"HPCTRACK_JOB_ID": "", "HPCTRACK_RUN": "laptop:-1"}, Parent("laptop", -1)),
        ({"HPCTRACK_RUN": "stale:-1"}, None),
        ({**INSIDE, "HPCTRACK_RUN": "junk"}, Parent("plain", -1)),
    ],
)
def test_the_run_around_us(spool, environ, parent):
    put(spool, 17, "plain")
    put(spool, 14, "array", "0-3")
    assert submission.find_parent(environ, spool) == parent


def test_a_spool_that_cannot_be_read_has_no_parent(tmp_path):
    (tmp_path / "spool").write_text("")
    assert submission.find_parent(INSIDE, str(tmp_path / "spool")) is None


# ---- the record


def make(**changes):
    source = Source(
        argv=["hpctrack", "sbatch", "--export=ALL", "train.sh", "--api-key", SECRET, "--lr=0.1"],
        script=f"#!/bin/sh\nexport WANDB_API_KEY={SECRET}\ncurl http://u:{SECRET}@h\necho caf\udce9 \udcff\n",
        arguments=["--api-key", SECRET, "--lr=0.1", "--max-tokens=512"],
        work_dir="/home/u",
        environ={"MY_TOKEN": SECRET, "OTHER": f"x{SECRET}y", "PATH": "/bin"},
        time=1700000000.5,
        git=repository.State(
            commit="abc", branch="main", dirty=True, remote=f"https://u:{SECRET}@host/r.git"
        ),
    )
    job = Job("hpc", 14, "0-3", name="train.sh", partition="main", time_limit=300.0)
    return submission.make(
        Settings(
            collector=(Address("h", 1),), transport="spool", flush=1.0, usage_interval=2.0, journal_cap=9
        ),
        source._replace(**changes),
        Own("exp", ("a=1", "b"), "a note"),
        job,
        Parent("p", 3),
    )


def test_what_is_recorded():
    record = make()
    assert (record.cluster, record.base_job_id, record.tasks, record.time) == ("hpc", 14, "0-3", 1700000000.5)
    assert (record.collector, record.transport) == (("h:1",), "spool")
    assert (record.flush, record.usage_interval, record.journal_cap) == (1.0, 2.0, 9)
    assert len(bytes.fromhex(record.secret)) == 32
    assert record.submission["uuid"] == record.uuid
    assert record.submission["user_name"] == pwd.getpwuid(os.getuid()).pw_name
    assert record.submission["time"] == "2023-11-14T22:13:20.500000+00:00"
    assert record.submission["git"]["commit"] == "abc"
    assert record.submission["work_dir"] == "/home/u"
    run = record.run
    assert (run["experiment"], run["tags"], run["comment"]) == ("exp", {"a": "1", "b": True}, "a note")
    assert (run["args"]["lr"], run["args"]["max-tokens"]) == (0.1, 512)
    assert (run["job_id"], run["job_name"], run["partition"], run["time_limit_s"]) == (
        14,
        "train.sh",
        "main",
        300,
    )
    assert (run["parent_submission"], run["parent_task"], run["het_job_id"]) == ("p", 3, None)


def test_each_submission_has_a_secret_and_a_uuid_of_its_own():
    first, second = make(), make()
    assert first.secret != second.secret
    assert first.uuid != second.uuid


def test_secrets_are_in_nothing_that_is_stored():
    record = make()
    stored = json.dumps([record.submission, record.run])
    assert SECRET not in stored
    assert record.secret not in stored
    assert record.submission["env"]["PATH"] == "/bin"
    assert "***" in record.submission["script"]
    assert "--lr=0.1" in record.submission["submit_line"]


def test_a_secret_that_is_known_is_masked_in_every_text_of_a_submission():
    """Whatever is stored of it, the user's words are masked; ids, times and Slurm's own words are not."""
    text = f"<{SECRET}>"
    source = Source(
        argv=["hpctrack", "sbatch", f"-J{text}", f"--comment={text}", f"{text}.sh", text],
        script=f"#!/bin/sh\necho {text}\n", work_dir=f"/home/{text}",
        arguments=[text, f"--name={text}", f"{text}=1"],
        environ={"MY_TOKEN": SECRET, text: text}, time=1.7e9, script_path=f"/home/{text}/train.sh",
        git=repository.State(commit="abc", branch=text, dirty=True, remote=text),
    )  # fmt: skip
    own = Own(text, (text, f"{text}={text}", f"a={text}"), text)
    record = submission.make(Settings(), source, own, Job("hpc", 14, name=text), None)

    def texts(value):
        if isinstance(value, dict):
            return [inner for pair in value.items() for part in pair for inner in texts(part)]
        if isinstance(value, list):
            return [inner for part in value for inner in texts(part)]
        return [value] if isinstance(value, str) else []

    stored = texts([record.submission, record.run])
    assert not any(SECRET in inner for inner in stored)
    assert sum("***" in inner for inner in stored) >= 17
    assert (record.run["job_name"], record.run["experiment"], record.run["comment"]) == ("<***>",) * 3
    assert record.run["tags"] == {"<***>": "<***>", "a": "<***>"}
    assert record.submission["script_sha256"] == submission.fingerprint(source.script)


def test_bytes_that_postgresql_does_not_take_are_written_out():
    assert make().submission["script"].endswith("echo caf\\xe9 \\xff\n")


@given(st.binary(max_size=30))
def test_any_bytes_become_storable(data):
    text = submission.storable({"x": [os.fsdecode(data)]})["x"][0]
    assert "\0" not in text
    text.encode("utf-8")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_text_stays_as_it_is(text):
    assert submission.storable(text) == text


def test_of_a_script_without_any_text_nothing_is_stored():
    record = make(script=None, git=None, arguments=[])
    assert (record.submission["script"], record.submission["git"], record.run["args"]) == (None, None, {})


# ---- before sbatch


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A working folder and two on PATH, each holding some scripts."""
    names = {"here": "a.sh", "job": "a.sh b.sh", "first": "b.sh c.sh", "here/rel": "d.sh"}
    for folder, scripts in names.items():
        (tmp_path / folder).mkdir()
        for script in scripts.split():
            (tmp_path / folder / script).touch()
    (tmp_path / "first" / "e.sh").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return SimpleNamespace(root=tmp_path, search=f"{tmp_path}/nowhere::{tmp_path}/first:./rel")


@pytest.mark.parametrize(
    ("name", "chdir", "found"),
    [
        ("a.sh", None, "here/a.sh"),
        ("a.sh", "../job", "job/a.sh"),
        ("b.sh", None, "first/b.sh"),
        ("b.sh", "../job", "job/b.sh"),
        ("c.sh", None, "first/c.sh"),
        ("d.sh", None, "here/rel/d.sh"),
    ],
)
def test_scripts_are_found_where_sbatch_finds_them(folders, name, chdir, found):
    assert preparation.find_script(name, chdir, folders.search).samefile(folders.root / found)


@pytest.mark.parametrize("name", ["./b.sh", "/nowhere/b.sh", "e.sh", "nosuch"])
def test_other_names_are_taken_as_they_are(folders, name):
    assert str(preparation.find_script(name, None, folders.search)) == str(preparation.Path(name))


def test_the_environment_of_a_job_submitted_from_inside_a_job():
    environ = {
        **TASK,
        "SLURM_RESTART_COUNT": "2",
        "SLURM_SUBMIT_DIR": "/home/u",
        "HPCTRACK_RUN_DIR": "/tmp/run",
        "HPCTRACK_SPOOL_DIR": "/home/u/spool/x",
        "HPCTRACK_JOURNAL": "/tmp/run/j",
        "HPCTRACK_RUN": "u:1",
        "HPCTRACK_ATTEMPT": "2",
        "HPCTRACK_SCRIPT": "/home/u/a.sh",
        "HPCTRACK_RANKS": "all",
        "PYTHONPATH": f"/a:{resources.IMPORTABLE}:/b",
        "PATH": "/bin",
    }
    kept = {
        "SLURM_JOB_ID": "17",
        "SLURM_CLUSTER_NAME": "hpc",
        "SLURM_SUBMIT_DIR": "/home/u",
        "HPCTRACK_RANKS": "all",
        "PYTHONPATH": "/a:/b",
        "PATH": "/bin",
    }
    assert environment.for_child(environ, array=False) == kept
    array = {"SLURM_ARRAY_JOB_ID": "14", "SLURM_ARRAY_TASK_ID": "3"}
    assert environment.for_child(environ, array=True) == {**kept, **array}
    alone = environment.for_child({**environ, "PYTHONPATH": resources.IMPORTABLE}, array=False)
    assert "PYTHONPATH" not in alone


def test_outside_of_jobs_the_environment_is_untouched():
    environ = {"PATH": "/bin", "SLURM_ARRAY_TASK_ID": "5", "PYTHONPATH": "/a:", "HPCTRACK_EXPERIMENT": "e"}
    assert environment.for_child(environ, array=False) == environ
