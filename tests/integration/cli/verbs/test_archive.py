"""``hpctrack archive`` and ``unarchive``: what lists leave out, and who may say so."""

from __future__ import annotations

import json

import pytest

from hpctrack import Client, errors
from hpctrack.store.read import completions, filters, lists
from hpctrack.store.read.filters import RunFilter


@pytest.fixture
def listed(printed):
    """Return the ids that ``status`` lists with some options."""
    return lambda *options: [run["id"] for run in json.loads(printed("status", *options, "--json"))["runs"]]


def test_archived_runs_are_in_no_list_and_found_by_id(cli, printed, run, listed):
    ids = [run("COMPLETED", slurm_job_id=job) for job in (7, 8, 9)]
    assert cli("archive", "r1-2") == (0, "2 runs (r1-2): archived\n", "")
    assert cli("archive", "r1")[0] == 0  # it is so already
    assert listed() == ids[2:]
    assert listed("--archived") == ids
    assert listed("--where", "archived") == listed("--where", "archived = true") == ids[:2]
    assert listed("--where", "not archived") == ids[2:]
    assert listed("r1", "7") == ids[:1]
    assert printed("status", "--count").split() == ["1", "COMPLETED"]
    assert printed("status", "--count", "--archived").split()[0] == "3"
    assert "archived" in printed("show", "r1")
    assert "archived" not in printed("show", "r3")
    assert printed("status", "--format", "run,archived", "--csv", "--archived").split()[1] == "r1,true"
    answer = json.loads(printed("unarchive", "8", "--json"))
    assert answer == {"experiment": None, "runs": ids[1:2], "archived": False}
    assert listed() == ids[1:]


def test_tasks_of_an_array_count_only_as_far_as_they_are_listed(cli, printed, insert, run):
    name = "00000000-0000-0000-0000-000000000001"
    insert("submissions", uuid=name, user_name="alice", time="2026-01-01Z")
    for task in range(4):
        run(submission=name, task=task, array_job_id=14, array_task_id=task)
    assert cli("archive", "14_0", "14_2")[0] == 0
    assert "14_[1,3]" in printed("status")
    assert "2 runs: 2 RUNNING" in printed("status")
    assert "14_[0-3]" in printed("status", "--archived")


def test_an_experiment_goes_with_its_runs(cli, printed, run, insert):
    run("COMPLETED"), run("FAILED", "pilot"), run("COMPLETED", "pilot")
    empty = insert("experiments", name="empty")
    assert cli("archive", "-E", "pilot") == (0, "experiment pilot, 2 runs (r2-3): archived\n", "")
    assert cli("archive", "-E", "empty") == (0, "experiment empty: archived\n", "")

    def names(*options):
        found = json.loads(printed("experiment", "list", *options, "--json"))["experiments"]
        return {one["name"]: (one["runs"], one["archived_runs"], one["archived"]) for one in found}

    assert names() == {"digits": (1, 0, False)}
    assert names("--archived") == {
        "digits": (1, 0, False), "pilot": (2, 2, True), "empty": (0, 0, True),
    }  # fmt: skip
    told = json.loads(printed("experiment", "show", "pilot", "--json"))
    assert (told["runs"], told["archived_runs"], told["newest_runs"], told["first"]) == (0, 2, [], None)
    told = json.loads(printed("experiment", "show", "pilot", "--archived", "--json"))
    assert (told["counts"], len(told["newest_runs"])) == ({"FAILED": 1, "COMPLETED": 1}, 2)
    assert "archived    the experiment, 2 runs" in printed("experiment", "show", "pilot")
    assert cli("export", "-E", "pilot", "-o", "x.csv")[2] == (
        "hpctrack: experiment 'pilot' has no runs but 2 archived ones (--archived)\n"
    )
    run("PENDING", "pilot")  # what somebody submits is never hidden
    assert names()["pilot"] == (1, 2, True)
    assert cli("unarchive", "-E", "pilot")[0] == 0
    assert names()["pilot"] == (3, 0, False)
    assert empty


@pytest.mark.parametrize("words", [[], ["r1", "-E", "digits"]])
def test_one_of_both_is_named(cli, run, words):
    run()
    code, out, err = cli("archive", *words)
    assert (code, out, err) == (2, "", "hpctrack: name runs, or an experiment with --experiment\n")


def test_completion_offers_none(cli, settings, connection, run):
    user = connection.info.user
    run(user_name=user, slurm_job_id=7), run(user_name=user, slurm_job_id=8, experiment="pilot")
    assert cli("archive", "-E", "pilot")[0] == 0
    with completions.source(settings) as source:
        assert [word.text for word in source.runs("")] == ["r1"]
        assert [word.text for word in source.experiments("")] == ["digits"]


def test_the_interface(settings, run):
    run(), run()
    with Client(settings=settings) as client:
        first = client.run(1)
        first.archive()
        assert (first.archived, client.run(1).archived) == (True, True)
        assert [one.id for one in client.runs()] == [2]
        assert [one.id for one in client.runs(archived=True)] == [1, 2]
        experiment = client.experiment("digits")
        assert len(experiment.runs()) == 1
        experiment.archive()
        assert (experiment.archived, client.experiments()) == (True, [])
        assert [one.info.runs for one in client.experiments(archived=True)] == [2]
        first.unarchive()
        assert [one.id for one in client.runs()] == [1]
        experiment.unarchive()
        assert [one.info.runs for one in client.experiments()] == [2]


def test_lists_look_at_few_rows_however_many_are_archived(connection, insert):
    insert("experiments", name="e")
    connection.execute(
        "INSERT INTO runs (experiment_id, archived, status)"
        " SELECT 1, i % 1000 > 0, 'COMPLETED' FROM generate_series(1, 60000) i"
    )
    connection.execute("VACUUM ANALYZE runs")
    look = lists.Look(RunFilter(archived=False), lists.NEWEST_FIRST, None, True, (), 51)
    query, parameters = lists.page_query(look, newest=True)
    plan = connection.execute(filters.sql.SQL("EXPLAIN ") + query, parameters).fetchall()
    assert "runs_listed" in str(plan)
    page = lists.fetch_page(connection, RunFilter(archived=False), fold=True)
    assert (page.total, page.counted) == (60, True)


def test_at_a_site_everybody_archives_their_own(roles):
    mine, theirs = roles.submit("alice", "e"), roles.submit("bob", "e")
    code, _, err = roles.run("bob", "archive", f"r{mine}")
    assert (code, "belongs to" in err) == (77, True)
    assert roles.run("bob", "archive", "-E", "e")[0] == 77
    assert roles.run("bob", "archive", "-E", "default")[0] != 0
    assert roles.run("alice", "archive", "-E", "e")[:2] == (0, f"experiment e, r{mine}: archived\n")
    found = json.loads(roles.run("bob", "status", "--json")[1])["runs"]
    assert [one["id"] for one in found] == [theirs]
    assert "e " in roles.run("bob", "experiment", "list")[1]
    assert roles.query("owner", "SELECT id FROM runs WHERE archived") == [(mine,)]
    with pytest.raises(errors.StoreDenied):
        Client(settings=roles.of("bob")).run(mine).archive()
