"""hpctrack logs: the right file, from the right place on, as long as the run lives."""

from __future__ import annotations

import os
import pwd
import select
import subprocess
import sys
import time
from datetime import datetime, timezone

import pytest

from hpctrack.cli.verbs import logs

NOW = datetime.now(timezone.utc)


@pytest.fixture
def written(run, tmp_path):
    """Insert an array whose tasks wrote to files of their own."""
    for task in range(3):
        (tmp_path / f"slurm-14_{task}.out").write_bytes(b"task %d\nsecond\n\xff\x00 third\nlast" % task)
        run(
            array_job_id=14, array_task_id=task, status="COMPLETED", time_started=NOW, time_ended=NOW,
            stdout_path=str(tmp_path / f"slurm-14_{task}.out"), stderr_path=str(tmp_path / "all.err"),
        )  # fmt: skip
    (tmp_path / "all.err").write_text("trouble\n")


def output(database, *arguments):
    """Run hpctrack logs as a process; returns exit code, stdout, stderr."""
    names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
    done = subprocess.run(
        [sys.executable, "-m", "hpctrack.cli.main", "logs", *arguments],
        capture_output=True, check=False, timeout=60, env={**os.environ, **names},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.decode()


def test_a_task_of_an_array_has_its_own_file_byte_for_byte(database, written):
    assert output(database, "14_1") == (0, b"task 1\nsecond\n\xff\x00 third\nlast", "")
    assert output(database, "14_1", "--err") == (0, b"trouble\n", "")
    assert output(database, "14_2", "-f") == (0, b"task 2\nsecond\n\xff\x00 third\nlast", "")
    assert output(database, "14_2", "-f", "-n", "1") == (0, b"last", "")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (0, b""),
        (1, b"last"),
        (2, b"\xff\x00 third\nlast"),
        (4, b"task 0\nsecond\n\xff\x00 third\nlast"),
        (9, None),
    ],
)
def test_the_last_lines(database, written, tmp_path, lines, expected):
    everything = (tmp_path / "slurm-14_0.out").read_bytes()
    assert output(database, "14_0", "-n", str(lines))[1] == (everything if expected is None else expected)


def test_the_last_lines_of_a_large_file(database, run, tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(100_000)))
    run(slurm_job_id=14, stdout_path=str(path), time_started=NOW)
    lines = output(database, "14", "--lines", "30000")[1].splitlines()
    assert lines == [b"%d" % number for number in range(70_000, 100_000)]


@pytest.fixture
def follower(database, run, tmp_path):
    """Follow a run that still waits; yields the process, a reader, and the file to be."""
    run(slurm_job_id=14, status="PENDING")
    names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "hpctrack.cli.main", "logs", "-f", "14"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env={**os.environ, **names},
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def read_until(stream, wanted):
    data = b""
    deadline = time.monotonic() + 30
    while wanted not in data:
        ready, _, _ = select.select([stream], [], [], max(deadline - time.monotonic(), 0))
        assert ready, f"{wanted!r} never came: {data!r}"
        data += os.read(stream.fileno(), 65536)
    return data


def test_following_goes_on_across_a_requeue_to_the_end(follower, connection, tmp_path):
    path = tmp_path / "slurm-14.out"
    assert b"r1 is PENDING; waiting for its output" in read_until(follower.stderr, b"\n")
    path.write_bytes(b"first\n")
    connection.execute(
        "UPDATE runs SET status = 'RUNNING', time_started = now(), stdout_path = %s", (str(path),)
    )
    read_until(follower.stdout, b"first\n")
    with path.open("ab") as file:
        file.write(b"second\n")
    assert read_until(follower.stdout, b"second\n") == b"second\n"
    # Slurm empties the file when the job starts again.
    path.write_bytes(b"")
    connection.execute("UPDATE runs SET attempt = 1")
    assert b"r1: attempt 2" in read_until(follower.stderr, b"attempt 2\n")
    with path.open("ab") as file:
        file.write(b"again\n")
    read_until(follower.stdout, b"again\n")
    # An attempt on another node may have a file of another name.
    other = tmp_path / "slurm-14.n2.out"
    other.write_bytes(b"elsewhere\n")
    connection.execute("UPDATE runs SET attempt = 2, stdout_path = %s", (str(other),))
    read_until(follower.stdout, b"elsewhere\n")
    with other.open("ab") as file:
        file.write(b"the end\n")
    connection.execute("UPDATE runs SET status = 'COMPLETED', time_ended = now()")
    assert read_until(follower.stdout, b"the end\n") == b"the end\n"
    assert follower.wait(30) == 0


def test_following_sees_that_the_next_attempt_wrote_as_much(follower, connection, tmp_path):
    path = tmp_path / "slurm-14.out"
    path.write_bytes(b"attempt 0\n")
    connection.execute(
        "UPDATE runs SET status = 'RUNNING', time_started = now(), stdout_path = %s", (str(path),)
    )
    read_until(follower.stdout, b"attempt 0\n")
    for text in (b"attempt 1\n", b"attempt 2\nand more\n"):
        path.write_bytes(text)
        assert read_until(follower.stdout, text) == text


def test_what_another_attempt_wrote_is_not_taken_for_growth(tmp_path, capsysbinary):
    path = tmp_path / "out"
    path.write_bytes(b"attempt 1\n")
    growing = logs.Growing(path.open("rb", buffering=0))
    assert growing.copy()
    # No look at the file came in between, so it may as well have been the next instant.
    path.write_bytes(b"attempt 2\nand more\n")
    with pytest.raises(logs.Rewritten):
        growing.copy()
    assert capsysbinary.readouterr().out == b"attempt 1\n"
    growing.close()


def test_following_outlives_a_lost_connection(follower, connection, tmp_path):
    read_until(follower.stderr, b"\n")
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'hpctrack' AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    path = tmp_path / "out"
    path.write_bytes(b"here\n")
    connection.execute(
        "UPDATE runs SET time_started = now(), time_ended = now(), stdout_path = %s", (str(path),)
    )
    assert read_until(follower.stdout, b"here\n") == b"here\n"
    assert follower.wait(30) == 0


@pytest.mark.parametrize(
    ("run_values", "arguments", "said"),
    [
        ({"status": "PENDING"}, [], "r1 is PENDING: it has written nothing yet"),
        ({"kind": "command"}, [], "r1 is a command: it wrote to the terminal"),
        ({"time_started": NOW, "time_ended": NOW}, ["--err"], "r1 has not told where its stderr is"),
        ({"time_started": NOW, "time_ended": NOW}, ["-f"], "r1 has not told where its output is"),
        (
            {"stdout_path": "/nowhere/x.out", "node_list": "n3"},
            [],
            "/nowhere/x.out is not on this host, or no longer; r1 ran on n3",
        ),
        ({"stdout_path": "/dev/null"}, [], "r1 wrote to /dev/null, which is no file"),
    ],
)
def test_no_output_is_one_line(cli, run, run_values, arguments, said):
    run(**run_values)
    code, out, err = cli("logs", "r1", *arguments)
    assert (code, out) == (66, "")
    assert err.startswith(f"hpctrack: {said}")
    assert err.count("\n") == 1


def test_an_array_needs_a_task(cli, run):
    for task in range(2):
        run(array_job_id=14, array_task_id=task)
    code, _, err = cli("logs", "14")
    assert code == 3
    assert "14 means 2" in err


@pytest.mark.parametrize("options", [[], ["-f"], ["--err"], ["-n", "3"]])
def test_a_path_opens_nothing_that_is_not_the_runs_owners(database, connection, run, tmp_path, options):
    """Whoever is root would read any file out, or wait at a FIFO for ever."""
    secret, link, fifo = (tmp_path / name for name in ("secret", "link", "fifo"))
    secret.write_text("not yours\n")
    secret.chmod(0o600)
    link.symlink_to(secret)
    os.mkfifo(fifo)
    run(slurm_job_id=14, user_name="mallory", status="COMPLETED", time_started=NOW, time_ended=NOW)
    for path, said in (
        (secret, "it is left closed"), (link, "it is left closed"), (fifo, "which is no file"),
        ("/dev/zero", "which is no file"), ("/proc/self/environ", "it is left closed"),
    ):  # fmt: skip
        connection.execute("UPDATE runs SET stdout_path = %s, stderr_path = %s", (str(path), str(path)))
        code, out, err = output(database, "14", *options)
        assert (code, out) == (66, b""), path
        assert said in err
    connection.execute("UPDATE runs SET stdout_path = %s, stderr_path = %s", (str(secret), str(secret)))
    connection.execute("UPDATE runs SET user_name = session_user")
    assert output(database, "14", *options)[:2] == (0, b"not yours\n")


def test_what_belongs_to_the_runs_owner_or_is_for_everybody_is_read(database, connection, run, tmp_path):
    path = tmp_path / "out"
    path.write_text("all\n")
    run(slurm_job_id=14, user_name="mallory", stdout_path=str(path), time_started=NOW)
    assert output(database, "14")[:2] == (0, b"all\n")
    path.chmod(0o600)
    assert output(database, "14")[0] == 66
    os.chown(path, pwd.getpwnam("daemon").pw_uid, -1)
    connection.execute("UPDATE runs SET user_name = 'daemon'")
    assert output(database, "14")[:2] == (0, b"all\n")


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_a_log_keeps_its_colours_and_commands_no_terminal(terminal, cli, run, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(
        b"\x1b[1;31mred\x1b[0m \x1b[2J\x1b]0;t\x07 \xff \xe2\x80\xae\n 10%\r 20%\n\x1b[8mhidden\x1b["
    )
    run(stdout_path=str(log))
    screen = terminal("logs", "r1")
    assert screen.finish() == 0
    assert screen.text.replace("\r\n", "\n") == (
        "\x1b[1;31mred\x1b[0m \\x1b[2J\\x1b]0;t\\x07 \\xff \\u202e\n 10%\r 20%\n\\x1b[8mhidden\\x1b["
    )
