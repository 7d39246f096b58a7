"""What could not be sent when it happened: delivered from the spool, by hand and by the collector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hpctrack import settings as configuration
from hpctrack.script import journal_lines
from hpctrack.store import database as store
from hpctrack.store import embedded
from hpctrack.store.write import collectors, registration
from hpctrack.stream.collector import courier, launch
from hpctrack.stream.disk import folders
from hpctrack.stream.node import spool
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import Address
from tests.support.commands import PROGRAM, environment, hpctrack
from tests.support.sender import whole
from tests.support.spooled import Left, lines, logged
from tests.support.waiting import PATIENCE, eventually


def test_what_waits_is_registered_and_delivered_and_once_more_adds_nothing(settings, quiet_collector):
    left = Left(settings)
    left.journal([*lines(0, 3000), b"step=3, loss=1\n"])
    left.journal([journal_lines.format_message("args", {"lr": 0.1})], kind="relay")
    other = Left(settings)
    other.journal([])
    first = hpctrack(settings, "sync")
    assert (first.returncode, first.stderr) == (0, "")
    assert len(first.stdout.splitlines()) == 1
    assert "2 folders of journals delivered" in first.stdout
    assert logged(settings) == whole(3000)
    assert not os.path.exists(left.folder)
    second = hpctrack(settings, "sync")
    assert (second.returncode, second.stdout) == (0, "nothing waits\n")
    with store.connect(settings, autocommit=True) as connection:
        assert connection.execute("SELECT sum(rows), sum(duplicates) FROM streams").fetchone() == (3000, 0)
        told = connection.execute("SELECT raw FROM transitions WHERE raw LIKE '%comma%'").fetchone()
        assert told == ("a line can't be read, a comma follows step: step=3, loss=1",)
        assert connection.execute("SELECT count(*) FROM runs WHERE args = '{\"lr\": 0.1}'").fetchone() == (1,)
    assert quiet_collector.process.poll() is None


def test_a_copy_that_is_delivered_again_changes_nothing(settings, quiet_collector):
    left = Left(settings)
    path = left.journal(lines(0, 500))
    with open(path, "rb") as file:
        content = file.read()
    assert hpctrack(settings, "sync").returncode == 0
    folders.make(left.folder)
    identity = folders.Identity(
        left.record.uuid, -1, record=records.path(settings.spool, left.record), closed=True
    )
    folders.write_identity(left.folder, identity)
    with open(path, "wb") as file:
        file.write(content + b"".join(lines(500, 100)))
    assert hpctrack(settings, "sync").returncode == 0
    assert logged(settings) == whole(600)
    with store.connect(settings, autocommit=True) as connection:
        assert connection.execute("SELECT rows, watermark FROM streams").fetchall() == [
            (600, len(content) + sum(map(len, lines(500, 100))))
        ]
    assert quiet_collector.process.poll() is None


def test_a_journal_of_a_newer_version_stays_and_keeps_no_other_from_delivery(settings, quiet_collector):
    left, other = Left(settings), Left(settings)
    newer = left.journal(lines(500, 3))
    with open(newer, "r+b") as file:
        file.write(b"# hpctrack journal 3")
    beside = left.journal(lines(0, 50))
    alone = other.journal(lines(50, 50))
    run = hpctrack(settings, "sync")
    assert run.returncode == 65
    assert f"{os.path.basename(newer)}: a newer hpctrack wrote it (journal 3)" in run.stderr
    assert logged(settings) == whole(100)
    assert os.path.exists(newer)
    assert not os.path.exists(alone)
    assert os.path.exists(beside) or os.path.dirname(beside) == os.path.dirname(newer)


@pytest.mark.parametrize(
    ("name", "make", "code"),
    [
        ("log.journal", os.mkdir, 65),
        ("log.journal", os.mkfifo, 65),
        ("shell.journal", lambda path: os.symlink("/etc/passwd", path), 65),
        ("log.9999999999999999999.part", os.mkdir, 0),
    ],
    ids=["a folder", "a FIFO", "a link", "a part of what is too long for any disk"],
)
def test_what_is_no_journal_keeps_none_from_delivery_and_is_named(
    settings, quiet_collector, name, make, code
):
    left = Left(settings)
    left.journal(lines(0, 10))
    strange = os.path.join(left.folder, f"{'0' * 16}.{name}")
    make(strange)
    run = hpctrack(settings, "sync")
    assert eventually(lambda: logged(settings) == whole(10))
    assert os.path.lexists(strange)
    assert (run.returncode, strange in run.stderr) == (code, code != 0), run.stderr


def test_without_a_collector_everything_stays_and_one_line_says_so(settings):
    left = Left(settings)
    path = left.journal(lines(0, 10))
    settings = settings._replace(collector=(Address("127.0.0.1", 9),))
    run = hpctrack(settings, "sync")
    assert run.returncode == 69
    assert "no collector answers" in run.stderr.splitlines()[-1]
    assert "127.0.0.1:9" in run.stderr
    assert "Traceback" not in run.stderr
    assert os.path.exists(path)


def test_an_interrupted_sync_goes_on_where_it_was(settings, quiet_collector):
    left = Left(settings)
    left.journal(lines(0, 60_000))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "sync"], env=environment(settings), cwd=settings.data_dir,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    eventually(lambda: len(logged(settings)) > 100)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) in (130, 0)
    second = hpctrack(settings, "sync")
    assert second.returncode == 0
    assert logged(settings) == whole(60_000)
    eventually(lambda: not os.path.exists(left.folder))  # the collector may have begun with it, too
    assert quiet_collector.process.poll() is None


def test_the_collector_delivers_what_it_can_read(settings, quiet_collector):
    left = Left(settings)
    left.journal(lines(0, 200))
    registration.register_pending(settings)
    own = courier.Courier(settings, launch.read_addresses(settings))
    own.deliver_all()
    assert logged(settings) == whole(200)
    assert not os.path.exists(left.folder)
    assert quiet_collector.process.poll() is None


def test_what_waits_is_noted_until_it_is_delivered(connection, insert):
    experiment = insert("experiments", name="e")
    first, second = (insert("runs", experiment_id=experiment) for _ in range(2))
    insert("run_latest", run_id=first, rows=3)

    def waiting():
        return dict(connection.execute("SELECT run_id, waiting FROM run_latest").fetchall())

    collectors.note_waiting(connection, {first: 10, second: 20})
    assert waiting() == {first: 10, second: 20}
    collectors.note_waiting(connection, {second: 5})
    assert waiting() == {first: 0, second: 5}
    collectors.note_waiting(connection, {})
    assert waiting() == {first: 0, second: 0}


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_rows_that_wait_are_counted(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(spool, "_CHUNK", chunk)
    left = Left(configuration.Settings(data_dir=str(tmp_path)))
    message = journal_lines.format_message("args", {"lr": 0.1})
    left.journal([b"\n", *lines(0, 3), message, b"# remark\n", b"\n\n", *lines(3, 2), b"torn"])
    left.journal([message, message], kind="relay")
    left.journal(lines(0, 4), kind="shell")
    (waiting,) = spool.pending(str(tmp_path / "spool"), str(tmp_path / "node"))
    assert spool.count_rows(waiting) == 9


def test_a_deleted_run_is_not_waited_for(settings, request):
    gone, left = Left(settings), Left(settings)
    gone.journal(lines(1000, 10))
    left.journal(lines(0, 10))
    registration.register_pending(settings)
    with store.connect(settings, autocommit=True) as connection:
        delete = "DELETE FROM runs WHERE submission = %s"
        assert connection.execute(delete, [gone.record.uuid]).rowcount == 1
    # Only now: a collector that had read the record by then would register it once more.
    quiet_collector = request.getfixturevalue("quiet_collector")
    courier.Courier(settings, launch.read_addresses(settings)).deliver_all()
    assert logged(settings) == whole(10)
    assert os.path.exists(gone.folder)
    assert quiet_collector.process.poll() is None


def test_in_the_personal_mode_it_starts_what_it_needs(tmp_path, wheel_server):
    assert wheel_server
    personal = configuration.Settings(
        data_dir=str(tmp_path / "data"), node_dir=str(tmp_path / "node"), embedded_listen="127.0.0.1",
        collector_bind="127.0.0.1", idle_exit=6.0,
    )  # fmt: skip
    os.makedirs(personal.data_dir)
    left = Left(personal)
    left.journal(lines(0, 300))
    try:
        run = hpctrack(personal, "sync")
        assert run.returncode == 0, run.stderr
        assert "started a collector" in run.stderr
        assert logged(personal) == whole(300)
        assert not os.path.exists(left.folder)
        with store.connect(personal, autocommit=True) as connection:
            connection.execute("UPDATE runs SET time_ended = now()")
        eventually(lambda: embedded.running(personal) is None)
    finally:
        embedded.stop(personal)
