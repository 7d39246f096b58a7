"""What waits: for which database, of which run, and what is said and done about it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from hpctrack.store import database as store
from hpctrack.store.write import registration
from hpctrack.stream.collector import courier, launch
from hpctrack.stream.disk import folders
from hpctrack.stream.wire import records
from tests.support.commands import PROGRAM, environment, hpctrack
from tests.support.sender import whole
from tests.support.spooled import Left, lines, logged
from tests.support.waiting import eventually

pytestmark = pytest.mark.parametrize("server", ["wheel"], indirect=True)


def delete(settings, left: Left) -> None:
    with store.connect(settings, autocommit=True) as connection:
        gone = connection.execute("DELETE FROM runs WHERE submission = %s", [left.record.uuid])
        assert gone.rowcount == 1


def known(settings) -> set[str]:
    with store.connect(settings, autocommit=True) as connection:
        return {str(row[0]) for row in connection.execute("SELECT uuid FROM submissions").fetchall()}


def delivered(settings, left: Left) -> bool:
    """Sync until the folder is gone: the collector may be at it at the same time."""
    return bool(
        eventually(lambda: hpctrack(settings, "sync").returncode == 0 and not os.path.exists(left.folder))
    )


def age(left: Left, seconds: float = 1000.0) -> None:
    then = time.time() - seconds
    for name in os.listdir(left.folder):
        os.utime(os.path.join(left.folder, name), (then, then))


def test_folders_of_deleted_runs_keep_no_other_from_being_delivered(settings, request):
    gone = [Left(settings) for _ in range(4)]
    for folder in gone:
        folder.journal(lines(1000, 10))
    registration.register_pending(settings)
    for folder in gone:
        delete(settings, folder)
    left = Left(settings)
    left.journal(lines(0, 10))
    request.getfixturevalue("quiet_collector")
    run = hpctrack(settings, "sync")
    assert run.returncode == 0, run.stderr
    assert delivered(settings, left) and logged(settings) == whole(10)
    assert "4 folders of journals" in run.stderr and "hpctrack prune" in run.stderr
    again = hpctrack(settings, "sync")
    assert (again.stdout, again.stderr) == ("nothing waits\n", ""), "it is said once"
    assert "4 folders of journals" in hpctrack(settings, "doctor").stdout, "doctor says all there is"
    assert all(os.path.exists(folder.folder) for folder in gone)
    pruned = hpctrack(settings, "prune", "--older-than", "90d", "--yes")
    assert "4 folders of their journals" in pruned.stdout, pruned.stderr
    assert not any(os.path.exists(folder.folder) for folder in gone)
    assert hpctrack(settings, "sync").stdout == "nothing waits\n"


def set_back(settings) -> None:
    """Leave PostgreSQL as one that was restored from a back-up from before all submissions."""
    with store.connect(settings, autocommit=True) as connection:
        connection.execute("TRUNCATE submissions, runs CASCADE")


@pytest.mark.parametrize("verb", ["prune", "delete"])
def test_what_a_restored_database_does_not_know_is_not_deleted(settings, verb, request):
    """It is registered again by who delivers."""
    left, other = Left(settings), Left(settings)
    left.journal(lines(0, 10))
    registration.register_pending(settings)
    os.utime(records.path(settings.spool, left.record), (0, 0))
    age(left, 400 * 86400.0)
    set_back(settings)
    with store.connect(settings, autocommit=True) as connection:
        registration.register(connection, other.record)
    told = hpctrack(settings, "status").stderr
    assert "wait for their submission to be registered" in told and "deleted" not in told
    if verb == "prune":
        hpctrack(settings, "prune", "--older-than", "1s", "--yes")
    else:
        hpctrack(settings, "delete", "latest", "--yes", "--force")
    assert os.path.exists(left.folder) and os.path.exists(records.path(settings.spool, left.record))
    request.getfixturevalue("quiet_collector")
    assert delivered(settings, left) and logged(settings) == whole(10)


@pytest.mark.parametrize("again", [False, True], ids=["before its owner", "after a restore"])
def test_what_a_stranger_deleted_by_its_uuid_is_kept(settings, again, request):
    """UUIDs are no secrets: they stand in datagrams and in names of folders."""
    left = Left(settings)
    left.journal(lines(0, 10))
    registration.register_pending(settings)
    set_back(settings)
    strangers = left.record._replace(secret=os.urandom(32).hex())
    for record in (left.record, strangers) if again else (strangers,):
        set_back(settings)
        with store.connect(settings, autocommit=True) as connection:
            registration.register(connection, record)
    delete(settings, left)
    set_back(settings)
    os.utime(records.path(settings.spool, left.record), (0, 0))
    age(left, 400 * 86400.0)
    pruned = hpctrack(settings, "prune", "--older-than", "1s", "--yes")
    assert pruned.stdout.endswith("deleted 0 runs and 0 submission records in the spool\n"), pruned.stderr
    request.getfixturevalue("quiet_collector")
    assert delivered(settings, left) and logged(settings) == whole(10)


def test_a_collector_registers_again_what_a_restored_database_does_not_know(settings, quiet_collector):
    left = Left(settings)
    left.journal(lines(0, 10))
    registration.register_pending(settings)
    set_back(settings)
    eventually(
        lambda: (
            courier.Courier(settings, launch.read_addresses(settings)).deliver_all()
            or not os.path.exists(left.folder)
        )
    )
    assert logged(settings) == whole(10)


def test_delete_takes_the_journals_of_its_runs_along(settings):
    left, other = Left(settings), Left(settings)
    left.journal(lines(0, 10))
    other.journal(lines(0, 10))
    registration.register_pending(settings)
    with store.connect(settings, autocommit=True) as connection:
        find = "SELECT id FROM runs WHERE submission = %s"
        (run_id,) = connection.execute(find, [left.record.uuid]).fetchone()
    done = hpctrack(settings, "delete", f"r{run_id}", "--yes", "--force")
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(left.folder) and os.path.exists(other.folder)


def test_a_dry_run_of_prune_counts_the_journals_that_go_with_their_runs(settings):
    left, other = Left(settings), Left(settings)
    left.journal(lines(0, 10)), other.journal(lines(0, 10))
    registration.register_pending(settings)
    with store.connect(settings, autocommit=True) as connection:
        ended = "status = 'FAILED', time_ended = now() - interval '100 days'"
        query = f"UPDATE runs SET {ended} WHERE submission = %s"
        assert connection.execute(query, [left.record.uuid]).rowcount == 1
    would, does = (hpctrack(settings, "prune", "--older-than", "90d", flag).stdout for flag in ("-n", "-y"))
    assert does.replace("deleted", "would delete") == would
    assert "deleted 1 run and 0 submission records in the spool, and 1 folder of their journals" in does
    assert not os.path.exists(left.folder) and os.path.exists(other.folder)


def test_what_a_living_process_may_write_to_is_not_pruned(settings):
    left = Left(settings)
    left.journal(lines(0, 10))
    registration.register_pending(settings)
    delete(settings, left)
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, "HPCTRACK_SPOOL_DIR": left.folder})
    try:
        pruned = hpctrack(settings, "prune", "--older-than", "90d", "--yes")
        assert pruned.returncode == 0 and f"{left.folder} stays" in pruned.stderr
        assert os.path.exists(left.folder)
    finally:
        process.kill()
        process.wait(30)


def test_a_run_that_is_hidden_from_us_is_not_deleted(settings, quiet_collector):
    """Row-level security may hide a run from a role that is another today."""
    left = Left(settings)
    left.journal(lines(0, 10))
    registration.register_pending(settings)
    with store.connect(settings, autocommit=True) as connection:
        connection.execute("ALTER TABLE runs FORCE ROW LEVEL SECURITY")
        assert connection.execute("SELECT count(*) FROM known_runs(%s, %s)", [
            [left.record.uuid], [-1]]).fetchone() == (1,)  # fmt: skip


@pytest.mark.parametrize("mark", ["unregistered", "refused"])
def test_a_run_whose_marks_can_not_be_seen_is_not_deleted(settings, mark):
    """Whether PostgreSQL was told of a run is not concluded from a folder that can't be looked into."""
    left = Left(settings)
    left.journal(lines(0, 10))
    path = records.path(settings.spool, left.record)
    os.utime(path, (0, 0))
    if mark == "refused":
        records.set_refused(path, "for a while")
    shown = os.path.join(settings.spool, mark)
    os.rename(shown, shown + ".away")
    os.symlink(shown, shown)  # ELOOP, whoever looks
    pruned = hpctrack(settings, "prune", "--older-than", "90d", "--yes")
    assert os.path.exists(left.folder) and os.path.exists(path), pruned.stdout
    os.unlink(shown)
    os.rename(shown + ".away", shown)
    assert hpctrack(settings, "sync").returncode in (0, 69)
    assert known(settings) == {left.record.uuid}


@pytest.mark.parametrize(("tasks", "task"), [("1-3", -1), ("1-3", 4), (None, 0)])
def test_journals_of_no_task_of_their_submission_are_told_and_stay(settings, tasks, task):
    """A process that is started with half of the environment does not know its task."""
    left = Left(settings, tasks=tasks)
    left.journal(lines(0, 10))
    registration.register_pending(settings)
    folders.write_identity(left.folder, folders.read_identity(left.folder)._replace(task=task))
    told = hpctrack(settings, "sync")
    assert told.returncode == 65 and f"no task {task}" in told.stderr
    hpctrack(settings, "prune", "--older-than", "1s", "--yes")
    assert os.path.exists(left.folder)


# --- other databases ---


@pytest.fixture
def away(settings):
    """The same user's settings while another server is configured, which can't be reached."""
    return settings._replace(dsn={"host": "db.cluster.example", "port": "5499", "dbname": "site"})


def test_a_submission_waits_for_the_database_that_it_is_for(settings, away, quiet_collector):
    left = Left(settings, place=away.place)
    left.journal(lines(0, 10))
    own = Left(settings, place=settings.place)
    run = hpctrack(settings, "sync")
    assert run.returncode == 0, run.stderr
    assert known(settings) == {own.record.uuid} and os.path.exists(left.folder)
    assert "1 submission and 1 folder of journals" in run.stderr
    assert "db.cluster.example:5499/site" in run.stderr and "--here" in run.stderr
    courier.Courier(settings, launch.read_addresses(settings)).deliver_all()
    for verb in (["status"], ["doctor"], ["prune", "--older-than", "90d", "--yes"]):
        hpctrack(settings, *verb)
        assert known(settings) == {own.record.uuid} and os.path.exists(left.folder)
    here = hpctrack(settings, "sync", "--here")
    assert here.returncode == 0, here.stderr
    assert delivered(settings, left) and logged(settings) == whole(10)


def test_a_server_that_got_another_name_is_known_again(settings, away):
    Left(settings, place=settings.place)
    assert registration.register_pending(settings) == 1
    mapping = records.known_places(settings.spool)
    records.note_place(settings.spool, away.place, mapping[settings.place])
    left = Left(settings, place=away.place)
    assert registration.register_pending(settings) == 1
    assert left.record.uuid in known(settings)


def test_another_port_is_another_server_if_one_has_ever_answered_there(settings):
    never, once = (settings._replace(dsn={**settings.dsn, "port": port}).place for port in ("1", "2"))
    Left(settings, place=never)
    records.note_place(settings.spool, once, "another/1/hpctrack")
    other = Left(settings, place=once)
    assert registration.register_pending(settings) == 1
    assert other.record.uuid not in known(settings)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"host": "db"}, {"host": "DB", "user": "", "password": "x"}, True),
        ({"host": "db", "password": "x"}, {"host": "db", "port": "5432", "password": "y"}, True),
        ({"host": "a,b"}, {"host": "b,a"}, True),
        ({"host": "db"}, {"host": "db", "port": "5433"}, False),
        ({"host": "db"}, {"host": "other"}, False),
        ({"host": "db", "dbname": "a"}, {"host": "db", "dbname": "b"}, False),
        ({"service": "a"}, {"service": "b"}, False),
        ({"host": "db"}, None, False),
    ],
)
def test_what_tells_databases_apart(settings, one, other, same):
    places = [settings._replace(dsn=dsn).place for dsn in (one, other)]
    assert (places[0] == places[1]) is same
    assert not any("x" in place.partition("schema")[0] for place in places)


# --- deliveries side by side, and troubles of one ---


def test_two_syncs_at_once_do_not_trip_over_each_other(settings, quiet_collector):
    left = [Left(settings) for _ in range(12)]
    for index, folder in enumerate(left):
        folder.journal(lines(100 * index, 100))
    environ = environment(settings)
    syncs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "sync"], env=environ, cwd=settings.data_dir,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    told = [sync.communicate(timeout=120) for sync in syncs]
    assert [sync.returncode for sync in syncs] == [0, 0, 0], told
    assert logged(settings) == whole(1200)
    eventually(lambda: not any(os.path.exists(folder.folder) for folder in left))


def test_a_folder_that_can_not_be_judged_is_told_and_stops_nobody(settings, quiet_collector):
    left, torn = Left(settings), Left(settings)
    left.journal(lines(0, 10))
    torn.journal(lines(500, 10))
    os.unlink(records.path(settings.spool, torn.record))
    run = hpctrack(settings, "sync")
    assert run.returncode == 65 and "Traceback" not in run.stderr
    assert torn.folder in run.stderr and "submission record" in run.stderr
    eventually(lambda: logged(settings) == whole(10))
    assert os.path.exists(torn.folder)
    told = hpctrack(settings, "doctor").stdout
    assert torn.folder in told and "submission record" in told
    assert torn.folder in hpctrack(settings, "status").stderr


def test_status_and_show_say_what_has_waited_for_long(settings):
    left = Left(settings)
    left.journal(lines(0, 10))
    registration.register_pending(settings)
    assert hpctrack(settings, "status").stderr == "", "a collector may be about to deliver it"
    age(left)
    for verb in (["status"], ["show", "r1"]):
        told = hpctrack(settings, *verb).stderr
        assert "1 folder of journals" in told and left.folder in told and "hpctrack sync" in told


def test_what_is_delivered_and_stays_in_place_waits_no_more(settings, quiet_collector):
    left = Left(settings)
    left.journal(lines(0, 10))
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, "HPCTRACK_SPOOL_DIR": left.folder})
    try:
        eventually(lambda: "1 delivered that stay" in hpctrack(settings, "sync").stdout)
        age(left)
        assert hpctrack(settings, "status").stderr == ""
    finally:
        process.kill()
        process.wait(30)
    assert delivered(settings, left)


def test_a_journal_of_another_host_stays_until_its_run_is_over(settings, quiet_collector):
    left = Left(settings)
    left.journal(lines(0, 10), kind="shell")
    identity = folders.read_identity(left.folder)
    folders.write_identity(left.folder, identity._replace(closed=False, host="elsewhere", boot="b", pid=1))
    eventually(lambda: "1 delivered that stay" in hpctrack(settings, "sync").stdout)
    with store.connect(settings, autocommit=True) as connection:
        connection.execute("UPDATE runs SET status = 'COMPLETED', time_ended = now() - interval '1 hour'")
    assert delivered(settings, left)
    assert logged(settings) == whole(10) and not os.path.exists(left.folder)
