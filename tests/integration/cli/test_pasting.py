"""What lists print for runs is taken by every verb as it stands there, and means exactly those runs."""

from __future__ import annotations

import json
import random
import re
import shlex
import uuid
from datetime import datetime, timezone

import pytest

from hpctrack import errors
from hpctrack.run import words
from hpctrack.run.states import RunStatus
from hpctrack.store.read import lists, lookup
from hpctrack.store.read.filters import RunFilter

NOW = datetime.now(timezone.utc)

STATES = ("COMPLETED", "FAILED", "TIMEOUT")
FILTERS = (
    (),
    ("--state", "FAILED"),
    ("--not-state", "FAILED"),
    ("-T", "good"),
    ("--where", "args.lr < 0.5"),
    ("--where", "task > 1 and state != TIMEOUT"),
    ("-E", "odd"),
    ("--limit", "2"),
    ("--user", "bob"),
)


@pytest.fixture
def crowd(connection, run, insert):
    """Insert arrays whose tasks' ids others' runs stand between, and plain jobs; by a seed."""

    def make(seed):
        chance = random.Random(seed)
        arrays = [(uuid.uuid4(), 100 + number) for number in range(3)]
        for name, _ in arrays:
            insert("submissions", uuid=name, user_name="alice", time=NOW)
        todo = [(name, job, task) for name, job in arrays for task in range(chance.randint(1, 6))]
        todo += [(None, 200 + number, None) for number in range(4)]
        chance.shuffle(todo)
        for name, job, task in todo:
            own = {"slurm_job_id": job} if task is None else {"array_job_id": job, "array_task_id": task}
            run(
                chance.choice(STATES), chance.choice(("odd", "even")), {"last": {"loss": 1}},
                user_name=chance.choice(("alice", "bob")), submission=name, task=task, time_ended=NOW,
                tags={"good": True} if chance.random() < 0.5 else None, args={"lr": chance.random()}, **own,
            )  # fmt: skip

    return make


def selections(out):
    """Return the words for runs, and those for jobs, of each line of a table."""
    return [tuple(line.split()[:2]) for line in out.splitlines() if re.match(r"r\d", line)]


def meant(connection, *texts):
    refs = [ref for text in texts for ref in words.runs(text)]
    return set(lookup.find_each(connection, refs))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("asked", FILTERS, ids=" ".join)
def test_a_filtered_list_means_what_matches(printed, connection, crowd, seed, asked):
    crowd(seed)
    wide = tuple(word for word in asked if word not in ("--limit", "2"))
    matching = {row["id"] for row in json.loads(printed("status", "--json", *wide))["runs"]}
    found = selections(printed("status", *asked))
    assert found or not matching
    both = [(meant(connection, run), meant(connection, job)) for run, job in found]
    assert all(runs == jobs for runs, jobs in both)
    assert sum(len(runs) for runs, _ in both) == len(set().union(*(runs for runs, _ in both), set()))
    if "--limit" not in asked:
        assert set().union(set(), *(runs for runs, _ in both)) == matching
    else:
        assert len(both) == 2
        assert all(runs <= matching for runs, _ in both)


def ids(connection, condition: str) -> set[int]:
    return {run for (run,) in connection.execute(f"SELECT id FROM runs WHERE {condition}")}


def exported(folder) -> set[int]:
    rows = (folder / "rows.csv").read_text().splitlines()[1:]
    return {int(row.partition(",")[0].strip("r")) for row in rows}


#: By verb: which runs it acted on, as the tables, its output or its files tell.
ACTED_ON = {
    "tag": lambda connection, out, folder: ids(connection, "tags ? 'chosen'"),
    "untag": lambda connection, out, folder: ids(connection, "tags = '{}'"),
    "note": lambda connection, out, folder: ids(connection, "comment = 'seen'"),
    "status": lambda connection, out, folder: {run["id"] for run in json.loads(out)["runs"]},
    "compare": lambda connection, out, folder: {
        int(run.split()[0].strip("r")) for run in json.loads(out)["runs"]
    },
    "plot": lambda connection, out, folder: set(map(int, re.findall(r"\br(\d+)\b", out))),
    "delete": lambda connection, out, folder: set(range(1, 11)) - ids(connection, "true"),
    "export": lambda connection, out, folder: exported(folder),
}
ACTS = (
    ("tag", "{}", "chosen"),
    ("untag", "{}", "good"),
    ("note", "{}", "seen"),
    ("status", "{}", "--json"),
    ("export", "{}", "-o", "{folder}/rows.csv"),
    ("compare", "{}", "--json"),
    ("plot", "{}", "loss"),
    ("delete", "{}", "--yes"),
)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act[0])
@pytest.mark.parametrize("place", [0, 1], ids=["run", "job"])
def test_every_verb_acts_on_what_is_printed_and_on_nothing_else(
    printed, connection, crowd, run, tmp_path, act, place
):
    tasks = [("FAILED", 0), ("COMPLETED", 1), ("FAILED", 2), ("COMPLETED", 3), ("FAILED", 4)]
    name = uuid.uuid4()
    connection.execute("INSERT INTO submissions (uuid, user_name, time) VALUES (%s, 'alice', now())", [name])
    wanted = set()
    for state, task in tasks:
        made = run(
            state, submission=name, task=task, array_job_id=14, array_task_id=task, time_ended=NOW,
            tags={"good": True}, latest={"last": {"loss": 1}},
        )  # fmt: skip
        connection.execute("INSERT INTO metrics (run_id, step) VALUES (%s, 1)", [made])
        connection.execute("UPDATE metrics SET extra = '{\"loss\": 1}' WHERE run_id = %s", [made])
        wanted |= {made} if state == "FAILED" else set()
        run()
    ((text, job),) = selections(printed("status", "--state", "FAILED"))
    chosen = (text, job)[place]
    assert "-" not in text
    out = printed(*(word.replace("{}", chosen).replace("{folder}", str(tmp_path)) for word in act))
    assert ACTED_ON[act[0]](connection, out, tmp_path) == wanted


def test_verbs_about_one_run_refuse_several(cli, run):
    run(), run()
    for verb in (["show"], ["metrics"], ["logs"], ["link"]):
        arguments = ["r1-2", "like", "r1"] if verb == ["link"] else ["r1-2"]
        code, out, err = cli(*verb, *arguments)
        assert (code, out, err) == (3, "", "hpctrack: r1-2 means 2 runs: name one of them\n")


def test_an_array_of_thousands_is_taken_back(printed, connection, run):
    run()
    connection.execute(
        "INSERT INTO submissions (uuid, user_name, time) VALUES (gen_random_uuid(), 'a', now())"
    )
    connection.execute(
        "INSERT INTO runs (experiment_id, kind, status, time_ended, submission, task, array_job_id,"
        " array_task_id)"
        " SELECT 1, 'batch', CASE WHEN n % 2 = 0 THEN 'FAILED' ELSE 'COMPLETED' END::runstatus, now(), uuid,"
        " n, 14, n"
        " FROM generate_series(0, 4999) n, submissions"
    )
    ((runs, job),) = selections(printed("status", "--state", "FAILED"))
    failed = {row.id for row in lists.list_runs(connection, RunFilter(statuses=(RunStatus.FAILED,)), None)}
    assert len(failed) == 2500
    assert meant(connection, runs) == meant(connection, job) == failed


@pytest.mark.parametrize("columns", [20, 40, 60, 100, 300])
def test_what_is_cut_for_a_terminal_means_nothing(terminal, connection, run, insert, columns):
    name = uuid.uuid4()
    insert("submissions", uuid=name, user_name="alice", time=NOW)
    for task in range(60):
        run("FAILED" if task % 2 else "RUNNING", submission=name, task=task, array_job_id=14,
            array_task_id=task)  # fmt: skip
    shown = terminal("status", "--state", "FAILED", columns=columns)
    assert shown.finish() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.text)
    for text in selections(plain.replace("\r", ""))[0]:
        try:
            assert len(meant(connection, text)) == 30
        except errors.RunNotFound:
            assert "…" in text


def test_hints_can_be_pasted_whatever_experiments_are_called(printed, cli, run):
    name = "a b; $(touch x) 'c'"
    for _ in range(11):
        run(experiment=name)
    *_, hint = printed("experiment", "show", name).splitlines()
    words = shlex.split(hint.partition(": ")[2])
    assert words[:3] == ["hpctrack", "status", "-E"]
    assert words[3] == name
