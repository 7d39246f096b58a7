"""Whatever goes wrong between the reconciler and Slurm: nothing is concluded from it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hpctrack import reconcile
from hpctrack.reconcile.attempts import UNKNOWN
from hpctrack.store import database as store
from tests.support.relay_says import say
from tests.support.slurm_says import T0, epoch, line, row

# ---- Trouble -----------------------------------------------------------------------------------------------

TROUBLES = {
    "hangs": {"sleep": 60},
    "fails": {"stderr": "squeue: error: something broke\n", "exit": 1},
    "can't reach slurmctld": {
        "stderr": "slurm_load_jobs error: Unable to contact slurm controller\n",
        "exit": 1,
    },
    "prints garbage": {"raw": "Segmentation fault (core dumped)\n"},
    "is cut short": {"raw": "10\x1f"},
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_when_squeue_fails_nothing_is_concluded(slurm, register, connection, once, get, fetch, trouble):
    run_id = register(10)
    slurm.says("squeue", line(10))
    once()
    before = get(run_id)
    slurm.says("squeue", **TROUBLES[trouble])
    slurm.says("sacct", row(10, "FAILED"))
    backend = slurm.backend(timeout=1)
    report = reconcile.run_once(connection, backend, "mini")
    assert report.changed == ()
    assert report.error
    assert get(run_id) == before
    first = fetch("SELECT * FROM clusters")
    assert first["unreachable_since"] >= first["time_checked"]
    assert first["error"] == report.error
    reconcile.run_once(connection, backend, "mini")
    assert fetch("SELECT * FROM clusters")["unreachable_since"] == first["unreachable_since"], (
        "since the first"
    )
    slurm.says("squeue")
    assert once().changed == (run_id,)
    assert get(run_id)["status"] == "FAILED"
    assert fetch("SELECT * FROM clusters")["unreachable_since"] is None


@pytest.mark.parametrize(
    "hold",
    [
        "UPDATE runs SET tags = '{}' WHERE slurm_job_id = 10",
        "DELETE FROM experiments WHERE name = 'held'",
        "UPDATE attempts SET reason = 'mine' WHERE slurm_job_id = 10",
    ],
)
def test_a_run_that_a_session_holds_keeps_no_other_from_its_state(
    slurm, register, database, connection, once, get, hold
):
    held = register(10, experiment="held")
    array = register(20, tasks=[0, 1], experiment="held")
    other = register(11)
    connection.execute("SET lock_timeout = '200ms'")
    slurm.says("squeue", line(10), line(11))
    once()
    slurm.says("squeue", line(21, JobArrayID="20_7"))
    slurm.says("sacct", row(10), row(11))
    with store.connect(database) as session:
        session.execute(hold)
        report = once()
        assert report.error is None
        assert other in report.changed
        assert held not in report.changed
        session.rollback()
    assert held in once().changed
    assert [get(run_id)["status"] for run_id in (held, other)] == ["COMPLETED", "COMPLETED"]
    tasks = connection.execute("SELECT task FROM runs WHERE array_job_id = 20 ORDER BY task").fetchall()
    assert [task for (task,) in tasks] == [*array, 7]


def test_when_sacct_fails_the_living_are_still_known(slurm, register, once, get, fetch):
    lives, gone = register(10), register(11)
    slurm.says("squeue", line(10))
    slurm.says("sacct", stderr="sacct: error: Problem talking to the database: Connection refused\n", exit=1)
    report = once()
    assert "Connection refused" in report.error
    assert get(lives)["status"] == "RUNNING"
    assert (get(gone)["status"], get(gone)["time_ended"]) == ("PENDING", None)
    assert fetch("SELECT * FROM clusters")["unreachable_since"]
    slurm.says("sacct", row(11))
    assert once().error is None
    assert get(gone)["status"] == "COMPLETED"
    assert fetch("SELECT * FROM clusters")["error"] is None


def test_without_accounting_slurmctld_remembers(slurm, register, once, get):
    run_id, forgotten = register(10), register(11)
    slurm.says("sacct", stderr="Slurm accounting storage is disabled\n", exit=1)
    ended = line(10, "FAILED", exit_code="768", StartTime=epoch(5), EndTime=epoch(50), NodeList="n1")
    slurm.says("squeue", ended)
    assert once().error is None
    run = get(run_id)
    assert (run["status"], run["time_ended"]) == ("FAILED", T0 + timedelta(seconds=50))
    assert get(forgotten)["time_ended"] is None
    assert "--states=all" in slurm.calls("squeue")[-1][1]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_when_sacct_fails_no_end_is_concluded(slurm, register, connection, get, fetch, once, trouble):
    gone = register(10)
    slurm.says("squeue")
    once()
    slurm.says("sacct", **TROUBLES[trouble])
    for _ in range(2):
        report = reconcile.run_once(connection, slurm.backend(timeout=1), "mini", grace=timedelta(0))
        assert report.error
    assert (get(gone)["status"], get(gone)["time_ended"]) == ("PENDING", None)
    assert fetch("SELECT * FROM clusters")["error"] == report.error
    slurm.says("sacct", row(10, "TIMEOUT"))
    once()
    assert get(gone)["status"] == "TIMEOUT"


def test_jobs_that_privatedata_hides_never_end(slurm, register, connection, get):
    """Without an operator's rights both commands leave out what is others': exit code 0 and no line."""
    ours, theirs = register(10), register(11, user="bob")
    slurm.says("squeue", line(10))
    for _ in range(3):
        reconcile.run_once(connection, slurm.backend(), "mini", grace=timedelta(0))
    assert get(ours)["status"] == "RUNNING"
    assert (get(theirs)["status"], get(theirs)["reason"], get(theirs)["time_ended"]) == (
        "PENDING", UNKNOWN, None,
    )  # fmt: skip


def test_a_purged_job_of_which_only_the_relay_knows_ends_as_its_script_did(slurm, register, connection, get):
    run_id = register(10)
    bodies = [("hello", {}), ("fin", {"exit_code": 4})]
    for kind, body in bodies:
        say(connection, run_id, kind, time=T0.timestamp(), **body)
    for _ in range(2):
        reconcile.run_once(connection, slurm.backend(), "mini", grace=timedelta(0))
    run = get(run_id)
    assert (run["status"], run["exit_code"], run["reason"]) == ("FAILED", 4, UNKNOWN)


def test_ten_thousand_tasks_cost_two_commands(slurm, register, once, fetch):
    register(20, tasks=list(range(10_000)))
    running = [line(30 + task, JobArrayID=f"20_{task}") for task in range(50)]
    slurm.says("squeue", *running, line(20, "PENDING", JobArrayID="20_[500-9999%50]"))
    ended = [row(f"20_{task}", JobIDRaw=str(100_000 + task)) for task in range(50, 500)]
    slurm.says("sacct", *ended)
    once()
    counts = "SELECT status::text AS status, count(*) AS n FROM runs GROUP BY 1 ORDER BY 1"
    found = {counted["status"]: counted["n"] for counted in fetch(counts, many=True)}
    assert found == {"COMPLETED": 450, "PENDING": 9500, "RUNNING": 50}
    assert len(slurm.calls()) == 2


def test_a_collector_that_comes_back_after_a_week(slurm, register, once, get, connection):
    run_id = register(10)
    connection.execute("UPDATE submissions SET time = time - interval '7 days'")
    days = -7 * 86400
    slurm.says("squeue", line(10, SubmitTime=epoch(days), StartTime=epoch(days + 5)))
    once()
    connection.execute("UPDATE clusters SET time_checked = now() - interval '7 days'")
    slurm.says("squeue")
    slurm.says("sacct", row(10, "NODE_FAIL", Submit=epoch(days), Start=epoch(days + 5), End=epoch(days + 50)))
    once()
    run = get(run_id)
    assert (run["status"], run["time_ended"]) == ("NODE_FAIL", T0 + timedelta(seconds=days + 50))


def test_a_job_of_another_user_or_time_that_has_the_same_id(slurm, register, once, get):
    run_id = register(10)
    year = -365 * 86400
    slurm.says("squeue", line(10, UserName="bob"))
    slurm.says("sacct", row(10, "FAILED", Submit=epoch(year), Start=epoch(year), End=epoch(year + 9)))
    once()
    assert (get(run_id)["status"], get(run_id)["time_ended"]) == ("PENDING", None)
    slurm.says("squeue", line(10))
    once()
    assert get(run_id)["status"] == "RUNNING"


@pytest.mark.parametrize("when", ["9999-12-31T23:59:59Z", "0001-01-01Z"])  # beyond these the tables refuse
def test_absurd_times_of_one_run_keep_no_other_from_its_state(connection, slurm, register, once, get, when):
    """People call register_submission() themselves, and may write into rows of their own runs."""
    told, changed, good = register(10), register(11), register(12)
    connection.execute(
        "UPDATE submissions s SET time = %s FROM runs WHERE submission = uuid AND id = %s", (when, told)
    )
    slurm.says("squeue", line(10), line(11), line(12))
    once()
    assert get(good)["status"] == "RUNNING"
    connection.execute(
        "UPDATE runs SET time_seen = %s, missing_since = %s WHERE id = %s", (when, when, changed)
    )
    connection.execute(
        "UPDATE attempts SET status = 'NODE_FAIL', time_ended = %s, time_started = %s WHERE run_id = %s",
        (when, when, changed),
    )
    slurm.says("squeue")
    slurm.says("sacct", row(10), row(11, "FAILED"), row(12))
    once()
    assert (get(good)["status"], get(good)["time_ended"]) == ("COMPLETED", T0 + timedelta(seconds=50))
    assert get(changed)["status"] in ("NODE_FAIL", "FAILED")
