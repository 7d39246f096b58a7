"""Which runs people mean, and what their shells complete, on real PostgreSQL."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from hpctrack import errors
from hpctrack.cli import main
from hpctrack.run import runids
from hpctrack.store.read import completions, lookup

NOW = datetime.now(timezone.utc)
ME = getpass.getuser()


@pytest.fixture
def submission(insert):
    def make():
        name = uuid.uuid4()
        insert("submissions", uuid=name, user_name="alice", time=NOW)
        return name

    return make


@pytest.fixture
def jobs(run, submission):
    """Insert a plain job, an array, a heterogeneous job, a job id used twice, a job with commands in it."""
    array = submission()
    return {
        "plain": run(slurm_job_id=9, job_name="plain_1%"),
        "task 0": run(array_job_id=14, array_task_id=0, slurm_job_id=15, submission=array, task=0),
        "task 3": run(array_job_id=14, array_task_id=3, submission=array, task=3),
        "het": run(slurm_job_id=20, het_job_id=20, job_name="het.sh"),
        "old": run(slurm_job_id=30, time_created=NOW - timedelta(days=400), job_name="evaluate"),
        "new": run(slurm_job_id=30, job_name="evaluate-more"),
        "outside": run(cluster=None, kind="command", job_name="laptop"),
        "batch": run(slurm_job_id=40, job_name="several.sh"),
        "command 1": run(slurm_job_id=40, kind="command", job_name="a"),
        "command 2": run(slurm_job_id=40, kind="command", job_name="b"),
        "untracked 1": run(slurm_job_id=41, kind="command", job_name="c"),
        "untracked 2": run(slurm_job_id=41, kind="command", job_name="d"),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9", ["plain"]),
        ("14", ["task 0", "task 3"]),
        ("14_3", ["task 3"]),
        ("15", ["task 0"]),
        ("20", ["het"]),
        ("20+1", ["het"]),
        ("40", ["batch"]),
        ("41", ["untracked 1", "untracked 2"]),
        ("plain_1%", ["plain"]),
        ("plain", ["plain"]),
        ("lap", ["outside"]),
        ("train.sh", ["task 0", "task 3"]),
        ("evaluate", ["old"]),
    ],
)
def test_references_mean_one_run_or_one_jobs_runs(connection, jobs, text, expected):
    assert lookup.find_each(connection, [runids.parse(text)]) == tuple(jobs[name] for name in expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", ["old", "new"]), ("40", ["batch", "command 1", "command 2"]), ("ev", ["new", "old"])],
)
def test_lists_take_all_that_may_be_meant(connection, jobs, text, expected):
    assert lookup.find_all(connection, [runids.parse(text)]) == tuple(jobs[name] for name in expected)


def test_a_runs_own_id_is_resolved(connection, jobs):
    ref = runids.parse(f"r{jobs['outside']}")
    assert lookup.find_one(connection, ref) == jobs["outside"]


def test_several_references_name_each_run_once(connection, jobs):
    refs = [runids.parse(text) for text in ("14_0", "14", "9", "plain")]
    expected = (jobs["task 0"], jobs["task 3"], jobs["plain"])
    assert lookup.find_each(connection, refs) == lookup.find_all(connection, refs) == expected


@pytest.mark.parametrize("text", ["8", "14_1", "9_0", "r999"])
def test_unknown_ids_are_told(connection, jobs, text):
    with pytest.raises(errors.RunNotFound, match=rf"{text}: hpctrack status lists the runs"):
        lookup.find_each(connection, [runids.parse("9"), runids.parse(text)])


@pytest.mark.parametrize("text", ["nothing", "%", "plainX1", "rain", "Train"])
def test_unknown_names_are_told(connection, jobs, text):
    with pytest.raises(errors.RunNotFound, match=f"no run's name begins with '{text}'"):
        lookup.find_one(connection, runids.parse(text))


@pytest.mark.parametrize(("find", "refs"), [(lookup.find_one, "30"), (lookup.find_each, ["30"])])
def test_an_id_that_slurm_used_again_lists_the_candidates(connection, jobs, find, refs):
    refs = runids.parse(refs) if isinstance(refs, str) else list(map(runids.parse, refs))
    with pytest.raises(errors.AmbiguousRun) as caught:
        find(connection, refs)
    said = str(caught.value)
    assert said.startswith("30 means 2 jobs, name one of them: ")
    assert f"r{jobs['old']} (job 30 on demo, evaluate, alice, " in said
    assert f"r{jobs['new']} (" in said


def test_the_beginning_of_several_names_lists_the_candidates(connection, jobs):
    with pytest.raises(errors.AmbiguousRun, match=r"ev means 2 jobs, .*evaluate-more"):
        lookup.find_each(connection, [runids.parse("ev")])


def test_many_candidates_are_counted(connection, run, submission):
    array = submission()
    for task in range(20):
        run(array_job_id=77, array_task_id=task, submission=array, task=task)
    with pytest.raises(errors.AmbiguousRun, match=r"77 means 20 runs.* and 14 more$"):
        lookup.find_one(connection, runids.parse("77"))


def test_ones_own_runs_come_before_others(connection, run):
    run(job_name="sweep")
    mine = run(job_name="sweep-2", user_name=ME)
    assert lookup.find_one(connection, runids.parse("sweep")) == mine


def test_ones_own_job_comes_before_runs_for_which_others_claim_its_id(connection, run):
    own = run(user_name=ME, slurm_job_id=77)
    forged = [run(user_name="mallory", slurm_job_id=77), run(user_name="mallory", array_job_id=77)]
    assert lookup.find_one(connection, runids.parse("77")) == own
    assert lookup.find_one(connection, runids.parse(f"r{forged[0]}")) == forged[0]


def test_the_name_of_a_large_array_means_all_its_tasks(connection, submission, run):
    array, first = submission(), run(job_name="other")
    connection.execute(
        "INSERT INTO runs (experiment_id, job_name, submission, task, array_job_id, array_task_id, kind)"
        " SELECT 1, 'big', %s, t, 5, t, 'batch' FROM generate_series(1, 1500) t",
        [array],
    )
    found = lookup.find_each(connection, [runids.parse("bi")])
    assert found == tuple(range(first + 1, first + 1501))
    run(job_name="big2", user_name=connection.info.user)
    with pytest.raises(errors.AmbiguousRun):
        lookup.find_each(connection, [runids.parse("bi")])


def test_a_name_is_found_by_an_index(connection, insert):
    insert("experiments", name="e")
    connection.execute(
        "INSERT INTO runs (experiment_id, job_name) SELECT 1, 'job' || i FROM generate_series(1, 3000) i"
    )
    connection.execute("ANALYZE")
    (plan,) = connection.execute(
        "EXPLAIN (FORMAT JSON) SELECT id FROM run_overview WHERE job_name LIKE 'train%' ORDER BY id DESC"
    ).fetchone()
    assert "runs_job_name" in str(plan)


# --- completion --------------------------------------------------------------------------------------------


def words(found):
    return [word.text for word in found]


def test_runs_are_completed_by_every_way_to_name_them(database, run):
    made = [run(user_name=ME, slurm_job_id=140 + number, job_name=f"train-{number}") for number in range(3)]
    made.append(run(user_name=ME, array_job_id=14, array_task_id=3, job_name="array"))
    run(user_name="bob", slurm_job_id=149, job_name="train-bob")
    with completions.source(database) as source:
        assert words(source.runs("")) == [f"r{run_id}" for run_id in made[::-1]]
        assert words(source.runs("14")) == ["14", "142", "141", "140"]
        assert words(source.runs("14_")) == ["14_3"]
        assert words(source.runs("tr")) == ["train-2", "train-1", "train-0"]
        assert source.runs("141")[0].help == "train-1 RUNNING"
        assert source.runs("x") == []


def test_experiments_are_completed(database, insert):
    for name in ("alpha", "al%", "beta"):
        insert("experiments", name=name)
    with completions.source(database) as source:
        assert words(source.experiments("al")) == ["al%", "alpha"]
        assert words(source.experiments("")) == ["beta", "al%", "alpha"]


def test_metrics_and_tags_of_the_runs_named_so_far_are_completed(database, connection, run):
    one, other = run(tags=Jsonb({"base": True, "best": "x"})), run(tags=Jsonb({"better": True}))
    connection.execute(
        'INSERT INTO metrics (run_id, step, extra) VALUES (%s, 0, \'{"loss": 1, "val/loss": 2}\')', (one,)
    )
    with completions.source(database) as source:
        assert words(source.metrics([f"r{one}"], "")) == ["loss", "val/loss"]
        assert words(source.metrics([f"r{other}", "no such run", ""], "")) == []
        assert words(source.metrics([f"r{other}", f"r{one}", "loss"], "v")) == ["val/loss"]
        assert words(source.tags([f"r{one}"], "b")) == ["base", "best"]
        assert words(source.tags([f"r{one}", f"r{other}"], "be")) == ["best", "better"]
        assert words(source.tags([], "")) == []


@pytest.fixture
def complete(database, tmp_path):
    """Press the tab key in a real bash behind a line; returns what bash would offer."""
    folder = Path(sys.executable).parent
    environ = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
    environ = {**os.environ, **environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def press(line, **more):
        listing = "\n".join(line.split(" "))
        script = (
            'eval "$(hpctrack completion bash)"; mapfile -t COMP_WORDS\n'
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
            'compopt() { :; }; _hpctrack_completion hpctrack; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            [shutil.which("bash"), "-c", script], input=listing + "\n", env={**environ, **more}, text=True,
            capture_output=True, check=False, timeout=60, cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return [word for word in done.stdout.split("\n") if word]

    return press


def test_a_real_bash_completes(complete, connection, insert, run):
    run_id = run(user_name=ME, slurm_job_id=4711, tags=Jsonb({"baseline": True}))
    insert("experiments", name="two words; $(rm)")
    assert complete("hpctrack show 47") == ["4711"]
    assert complete("hpctrack status --state PD,comp") == ["PD,COMPLETED", "PD,COMPLETING"]
    connection.execute("INSERT INTO metrics (run_id, step, extra) VALUES (%s, 0, '{\"loss\": 1}')", (run_id,))
    assert complete("hpctrack metrics 4711 l") == complete("hpctrack plot 4711 l") == ["loss"]
    assert complete("hpctrack plot 47") == complete("hpctrack plot 4711 loss 47") == ["4711"]
    assert complete("hpctrack untag 4711 ba") == ["baseline"]
    assert complete("hpctrack status -E two") == [r"two\ words\;\ \$\(rm\)"]
    run(latest={"last": {"val_loss": 1}})
    assert complete("hpctrack status --sort min.v") == ["min.val_loss"]
    assert complete("hpctrack status --format run,tags.b") == ["run,tags.baseline"]


@pytest.mark.parametrize(
    ("shell", "words", "word", "expected"),
    [
        ("zsh", "hpctrack show 47", "2", "plain\n4711\ntrain.sh RUNNING\n"),
        ("fish", "hpctrack show 47", "47", "plain,4711\ttrain.sh RUNNING\n"),
        ("zsh", "hpctrack export -E two", "3", "plain\ntwo words\nby tests\n"),
    ],
)
def test_zsh_and_fish_get_explanations(
    database, monkeypatch, capsys, insert, run, shell, words, word, expected
):
    run(user_name=ME, slurm_job_id=4711)
    insert("experiments", name="two words")
    for name, value in database.dsn.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name.upper()}", value)
    monkeypatch.setenv("_HPCTRACK_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", word)
    with pytest.raises(SystemExit):
        main.main([])
    assert capsys.readouterr().out == expected


def test_bash_is_told_nothing_when_postgresql_is_away(complete):
    assert complete("hpctrack show 47", HPCTRACK_DSN_PORT="1") == []
    assert complete("hpctrack show 47", HPCTRACK_DSN_PORT="no port") == []
    assert complete("hpctrack status -E x", HPCTRACK_SCHEMA="elsewhere") == []
