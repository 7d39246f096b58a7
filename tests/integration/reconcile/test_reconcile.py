"""The reconciler on a real PostgreSQL, with executable stand-ins for squeue and sacct."""

from __future__ import annotations

import threading
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from psycopg import sql

from hpctrack import errors, reconcile
from hpctrack.reconcile.attempts import UNKNOWN
from hpctrack.run import conditions
from hpctrack.slurm import accounting, command
from hpctrack.store import database as store
from hpctrack.store import statements
from hpctrack.store.read import filters, lists, queries
from hpctrack.view import remarks
from tests.support.relay_says import say
from tests.support.slurm_says import T0, epoch, line, row

# ---- A life ------------------------------------------------------------------------------------------------


def test_from_the_queue_to_the_end(slurm, register, once, get, fetch):
    run_id = register(10)
    slurm.says("squeue", line(10, "PENDING", Reason="Priority"))
    assert once().changed == (run_id,)
    assert (get(run_id)["status"], get(run_id)["reason"]) == ("PENDING", "Priority")
    slurm.says("squeue", line(10, TimeLimit="1-00:00:00", Account="lab", QOS="high", BatchHost="n1"))
    once()
    run = get(run_id)
    assert (run["status"], run["time_started"]) == ("RUNNING", T0 + timedelta(seconds=5))
    assert (run["account"], run["qos"], run["time_limit"]) == ("lab", "high", timedelta(days=1))
    slurm.says("squeue")
    slurm.says("sacct", row(10, "OUT_OF_MEMORY", ExitCode="0:125"))
    assert once().changed == (run_id,)
    run = get(run_id)
    assert (run["status"], run["time_ended"]) == ("OUT_OF_MEMORY", T0 + timedelta(seconds=50))
    attempt = fetch("SELECT * FROM attempts WHERE run_id = %s", run_id)
    assert (attempt["slurm_exit_code"], attempt["slurm_exit_signal"], attempt["batch_host"]) == (0, 125, "n1")
    assert attempt["slurm_job_id"] == 10
    steps = fetch("SELECT * FROM transitions WHERE run_id = %s ORDER BY id", run_id, many=True)
    assert [(step["status"], step["source"]) for step in steps] == [
        ("PENDING", "submit"), ("RUNNING", "squeue"), ("OUT_OF_MEMORY", "sacct"),
    ]  # fmt: skip
    assert once().changes == (), "nothing is asked about what is over"


def test_one_squeue_and_chunks_of_sacct(slurm, register, once, connection):
    for job in range(1, 1202):
        register(job)
    slurm.says("squeue", *[line(job) for job in range(1, 101)])
    slurm.says("sacct", *[row(job) for job in range(1, 1202)])
    report = once()
    assert len(report.changed) == 1201
    calls = slurm.calls("sacct")
    slurm.says("squeue")
    assert [len(argv[argv.index("-j") + 1].split(",")) for _, argv, _ in calls] == [500, 500, 101]
    ended = connection.execute("SELECT count(*) FROM runs WHERE time_ended IS NOT NULL").fetchone()
    assert ended == (1101,)


def test_a_quiet_pass_writes_nothing(slurm, register, once, fetch):
    register(10)
    slurm.says("squeue", line(10))
    once()
    before = fetch("SELECT xmin, * FROM runs")
    assert once().changes == ()
    assert fetch("SELECT xmin, * FROM runs") == before
    assert fetch("SELECT * FROM clusters")["unreachable_since"] is None


def test_users_and_clusters_are_kept_apart(slurm, register, once, get):
    alices, bobs, far = register(10), register(11, user="bob"), register(12, cluster="far")
    slurm.says("squeue", line(10), line(11, UserName="bob"), line(12))
    assert once(user="bob").changed == (bobs,)
    assert "--user=bob" in slurm.calls("squeue")[0][1]
    assert once().changed == (alices,)
    assert get(far)["status"] == "PENDING"


# ---- Arrays ------------------------------------------------------------------------------------------------


def test_tasks_that_slurm_adds_become_runs(slurm, register, once, fetch):
    register(20, tasks=[0, 1], partition="main", tags={"a": 1})
    slurm.says("squeue", line(20, "PENDING", JobArrayID="20_[1-3]"), line(21, JobArrayID="20_0"))
    once()
    rows = fetch("SELECT * FROM runs ORDER BY array_task_id", many=True)
    assert [row["array_task_id"] for row in rows] == [0, 1, 2, 3]
    assert [row["slurm_job_id"] for row in rows] == [21, None, None, None]
    assert {(row["array_job_id"], row["user_name"], row["experiment_id"]) for row in rows} == {
        (20, rows[0]["user_name"], rows[0]["experiment_id"])
    }
    assert [row["tags"] for row in rows] == [{"a": 1}] * 4
    steps = fetch("SELECT source FROM transitions WHERE run_id = %s", rows[3]["id"], many=True)
    assert [step["source"] for step in steps] == ["squeue"]
    assert once().changes == ()


def test_tasks_are_asked_for_one_by_one_and_then_through_their_array(slurm, register, once, get):
    runs = register(20, tasks=[0, 1, 2])
    never = {"JobIDRaw": "20", "Start": "None", "NodeList": "None assigned"}
    slurm.says("sacct", row("20_0", JobIDRaw="21"), row("20_[1]", "CANCELLED by 7", **never))
    once()
    asked = [argv[argv.index("-j") + 1] for _, argv, _ in slurm.calls("sacct")]
    assert asked == ["20_0,20_1,20_2", "20"]
    assert get(runs[0])["status"] == "COMPLETED"
    assert get(runs[1])["status"] == "CANCELLED"
    assert (get(runs[2])["status"], get(runs[2])["time_ended"]) == ("PENDING", None)


def test_large_arrays_are_asked_for_at_once(slurm, register, once):
    register(20, tasks=list(range(1000)))
    slurm.says("sacct", *[row(f"20_{task}", JobIDRaw=str(100 + task)) for task in range(1000)])
    assert len(once().changed) == 1000
    assert [argv[argv.index("-j") + 1] for _, argv, _ in slurm.calls("sacct")] == ["20"]


def test_a_job_that_nobody_knows_is_asked_for_ever_more_rarely(slurm, register, once, get, connection):
    run_id = register(10)
    once()
    assert get(run_id)["missing_since"]
    connection.execute("UPDATE runs SET missing_since = now() - interval '10 days'")
    slurm.calls("sacct")
    once()
    assert (get(run_id)["status"], get(run_id)["reason"]) == ("PENDING", UNKNOWN)
    for _ in range(5):
        once()
    assert len(slurm.calls("sacct")) <= 1
    connection.execute("UPDATE clusters SET time_checked = now() - interval '8 days'")
    once()
    assert len(slurm.calls("sacct")) == 1, "after a long pause it is asked for again"


def test_the_users_settings_of_slurm_change_nothing(slurm, register, connection, get):
    run_id = register(10)
    slurm.says("squeue", line(10))
    odd = {
        "SQUEUE_STATES": "CD", "SQUEUE_USERS": "nobody", "SLURM_CLUSTERS": "far", "SACCT_FORMAT": "jobid",
        "SLURM_TIME_FORMAT": "%H", "SLURM_BITSTR_LEN": "8", "LC_ALL": "de_DE.UTF-8", "SQUEUE_FORMAT2": "name",
        "TZ": "Pacific/Chatham",
    }  # fmt: skip
    backend = accounting.CommandLine("mini", {**slurm.environ, **odd})
    reconcile.run_once(connection, backend, "mini")
    assert get(run_id)["status"] == "RUNNING"
    [[_, argv, environ]] = slurm.calls("squeue")
    assert "-a" in argv
    assert environ["SLURM_TIME_FORMAT"] == "%s"
    assert environ["SLURM_BITSTR_LEN"] == "0"
    assert environ["LC_ALL"] == "C"
    assert not {"SQUEUE_STATES", "SQUEUE_USERS", "SLURM_CLUSTERS", "SACCT_FORMAT", "SQUEUE_FORMAT2"} & set(
        environ
    )


def test_sacct_is_asked_from_before_the_oldest_submission(slurm, register, once, connection):
    register(10)
    connection.execute("UPDATE submissions SET time = now() - interval '7 days'")
    once()
    [[_, argv, _]] = slurm.calls("sacct")
    since = int(argv[argv.index("-S") + 1].removeprefix("uts"))
    week = timedelta(days=7).total_seconds()
    assert since < datetime.now().timestamp() - week
    assert "-D" in argv


def test_another_cluster_is_asked_with_m(slurm, register, connection, get):
    run_id = register(10)
    slurm.says("squeue", line(10))
    reconcile.run_once(connection, slurm.backend(remote=True), "mini")
    [[_, argv, _]] = slurm.calls("squeue")
    assert argv[:2] == ["-M", "mini"]
    assert get(run_id)["status"] == "RUNNING"


def test_commands_and_failures_are_counted(slurm, register, once):
    register(10)
    counter = command.counters["squeue"]
    before = (counter.commands, counter.failures)
    slurm.says("squeue", exit=1)
    once()
    version_and_jobs = 2
    assert (counter.commands, counter.failures) == (before[0] + version_and_jobs, before[1] + 1)


# ---- Early checks ------------------------------------------------------------------------------------------


def test_an_early_check_of_a_success_asks_sacct_alone(slurm, register, once, get):
    run_id, other = register(10), register(11)
    slurm.says("sacct", row(10), row(11))
    report = once(only=[run_id])
    assert (report.changed, report.waiting) == ((run_id,), ())
    assert get(run_id)["status"] == "COMPLETED"
    assert get(other)["status"] == "PENDING"
    assert slurm.calls("squeue") == []


def test_an_early_check_of_a_failure_makes_sure_that_it_is_not_requeued(slurm, register, once, get):
    run_id = register(10)
    slurm.says("sacct", row(10, "FAILED"))
    slurm.says("squeue", line(10, "COMPLETING", NodeList="n1", StartTime=epoch(5)))
    report = once(only=[run_id])
    assert (get(run_id)["status"], report.waiting) == ("COMPLETING", (run_id,))
    slurm.says("squeue")
    report = once(only=[run_id])
    assert (get(run_id)["status"], report.waiting) == ("FAILED", ())


def test_of_a_failure_squeue_is_asked_before_sacct(slurm, register, connection, once, get):
    """What sacct says of a job that is being cancelled is not final until squeue lets it go."""
    run_id = register(10)
    say(connection, run_id, "hello", time=T0.timestamp() + 5)
    say(connection, run_id, "fin", time=T0.timestamp() + 9, exit_signal=15)
    slurm.says("sacct", row(10, "CANCELLED by 4242", ExitCode="0:15"))
    once(only=[run_id])
    assert [call[0] for call in slurm.calls()] == ["squeue", "sacct"]
    assert (get(run_id)["status"], get(run_id)["exit_signal"]) == ("CANCELLED", 15)


def test_an_early_check_that_comes_too_early(slurm, register, once, get):
    run_id = register(10)
    slurm.says("sacct", row(10, "RUNNING", End="Unknown"))
    report = once(only=[run_id])
    assert (get(run_id)["time_ended"], report.waiting) == (None, (run_id,))
    assert slurm.calls("squeue") == []


def test_an_end_that_is_no_success_is_asked_about_once_more(slurm, register, once, get, connection, fetch):
    """Of a job that cancels itself the exit code is in accounting only after squeue has let it go."""
    cancelled, succeeded = register(10), register(11)
    slurm.says("sacct", row(10, "CANCELLED by 0"), row(11))
    once()
    assert (get(cancelled)["status"], get(succeeded)["recheck_after"]) == ("CANCELLED", None)
    slurm.says("sacct", row(10, "CANCELLED by 0", ExitCode="0:15"))
    slurm.calls()
    assert once().changes == ()
    assert slurm.calls("sacct") == [], "not at once"
    connection.execute("UPDATE runs SET recheck_after = recheck_after - interval '21 seconds'")
    assert once().changed == (cancelled,)
    assert [argv[argv.index("-j") + 1] for _, argv, _ in slurm.calls("sacct")] == ["10"]
    assert fetch("SELECT * FROM attempts WHERE run_id = %s", cancelled)["slurm_exit_signal"] == 15
    connection.execute("UPDATE runs SET recheck_after = recheck_after - interval '21 seconds'")
    assert once().changed == (cancelled,)
    assert get(cancelled)["recheck_after"] is None
    slurm.calls()
    assert once().changes == ()
    assert slurm.calls("sacct") == []


def test_what_has_ended_costs_nothing_however_much_it_is(register, connection):
    register(10)
    connection.execute(
        "INSERT INTO runs (experiment_id, status, submission, task, cluster, time_ended, kind)"
        " SELECT experiment_id, 'FAILED', submission, n, cluster, now(), kind FROM runs,"
        " generate_series(1, 20000) n"
    )
    connection.execute("ANALYZE runs")
    query = statements.composable("load_open_runs")
    explain = sql.SQL("EXPLAIN ") + query.format(columns=statements.composable("stored_run"))
    rows = connection.execute(
        explain, {"cluster": "mini", "user": None, "ids": None, "most": 9, "turn": 0.5}
    ).fetchall()
    assert "runs_open" in " ".join(row[0] for row in rows)


def test_who_is_looked_up_once_more_is_over_for_early_checks(slurm, register, once):
    run_id = register(10)
    slurm.says("sacct", row(10, "FAILED"))
    once()
    slurm.calls()
    assert once(only=[run_id]).waiting == ()
    assert slurm.calls() == []


def test_a_requeue_after_the_end_reopens_the_run(slurm, register, once, get):
    run_id, other = register(10), register(11)
    slurm.says("squeue", line(11))
    slurm.says("sacct", row(10))
    once()
    assert get(run_id)["time_ended"]
    slurm.says("squeue", line(11), line(10, "PENDING", RestartCnt="1", SubmitTime=epoch(300)))
    assert once().changed == (run_id,)
    assert (get(run_id)["status"], get(run_id)["time_ended"]) == ("PENDING", None)
    assert get(other)["status"] == "RUNNING"


def test_a_requeue_after_the_end_is_seen_though_no_other_run_is_open(slurm, register, once, get, connection):
    run_id = register(10)
    slurm.says("sacct", row(10))
    once()
    slurm.says("squeue", line(10, "PENDING", RestartCnt="1", SubmitTime=epoch(300)))
    assert once(user="bob").changes == ()
    assert once().changed == (run_id,)
    assert (get(run_id)["status"], get(run_id)["time_ended"]) == ("PENDING", None)
    connection.execute("UPDATE runs SET status = 'COMPLETED', time_ended = now() - interval '2 days'")
    slurm.calls()
    assert once().changes == ()
    assert slurm.calls() == [], "Slurm has forgotten it: there is nothing to ask"


def test_a_later_job_of_the_same_id_revives_nothing(slurm, register, once, get, connection):
    """It was not tracked, of the same user, and requeued."""
    run_id, other = register(10), register(11)
    slurm.says("squeue", line(11))
    slurm.says("sacct", row(10))
    once()
    connection.execute("UPDATE submissions SET time = time - interval '400 days' WHERE uuid = "
                       "(SELECT submission FROM runs WHERE id = %s)", (run_id,))  # fmt: skip
    for table, key in (("runs", "id"), ("attempts", "run_id")):
        query = f"UPDATE {table} SET time_ended = time_ended - interval '400 days' WHERE {key} = %s"
        connection.execute(query, (run_id,))
    slurm.says("squeue", line(11), line(10, RestartCnt="1", SubmitTime=epoch(300)))
    slurm.calls()
    assert once().changes == ()
    assert get(run_id)["status"] == "COMPLETED"
    assert get(other)["status"] == "RUNNING"
    assert slurm.calls("sacct") == []


def test_elapsed_stands_still_while_a_run_waits_to_be_started_again(slurm, register, once, connection):
    run_id = register(10)
    slurm.says("squeue", line(10))
    once()
    slurm.says("squeue", line(10, "PENDING", RestartCnt="1", SubmitTime=epoch(51), Reason="JobHeldUser"))
    slurm.says("sacct", row(10, "REQUEUED"))
    once()
    now = datetime.now(timezone.utc)
    assert queries.get_run(connection, run_id).elapsed(now) == timedelta(seconds=45)
    assert connection.execute("SELECT elapsed FROM jobs").fetchall() == [(timedelta(seconds=45),)]
    used = connection.execute("SELECT elapsed_s FROM attempt_resources ORDER BY attempt").fetchall()
    assert used == [(45,), (None,)]
    chosen = filters.RunFilter(where=conditions.parse("elapsed = 45s"))
    assert [listed.id for listed in lists.list_runs(connection, chosen)] == [run_id]


def test_what_slurm_did_not_answer_is_no_news_when_nobody_waits_for_it(slurm, register, once, connection):
    run_id = register(10)
    slurm.says("squeue", exit=1)
    once()
    [cluster] = queries.clusters(connection)
    assert (cluster.unreachable_since is not None, cluster.awaited) == (True, True)
    connection.execute("UPDATE runs SET status = 'CANCELLED', time_ended = now() WHERE id = %s", (run_id,))
    [cluster] = queries.clusters(connection)
    assert not cluster.awaited
    assert remarks.on_cluster(cluster, datetime.now(timezone.utc)) is None


# ---- Who may write -----------------------------------------------------------------------------------------


def test_without_the_lease_nothing_is_written(slurm, register, connection, once, get):
    run_id, ours, theirs = register(10), uuid.uuid4(), uuid.uuid4()
    slurm.says("squeue", line(10))
    now = datetime.now(timezone.utc)
    for name, lease in ((ours, now - timedelta(seconds=1)), (theirs, now + timedelta(minutes=1))):
        connection.execute(
            "INSERT INTO collectors (id, host, pid, addresses, lease) VALUES (%s, 'h', 1, '{}', %s)",
            (name, lease),
        )
    for lease in (ours, uuid.uuid4()):
        with pytest.raises(errors.LeaseLost):
            once(lease=lease)
        assert get(run_id)["status"] == "PENDING"
    assert once(lease=theirs).changed == (run_id,)


def test_passes_side_by_side_write_once(slurm, register, database, fetch):
    for job in range(1, 21):
        register(job)
    slurm.says("sacct", *[row(job) for job in range(1, 21)])
    found = []

    def work():
        with store.connect(database) as own:
            found.append(reconcile.run_once(own, slurm.backend(), "mini"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert fetch("SELECT count(*) FROM transitions")["count"] == 20 * 3
    assert sum(len(report.changed) for report in found) == 20
