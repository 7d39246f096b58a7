"""hpctrack status --watch: what it draws, and how it gives the terminal back, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support import interrupts
from tests.support.terminals import Terminal
from tests.support.waiting import eventually


def test_watching_follows_the_database_until_q(terminal, run, connection):
    run(status="PENDING")
    screen = terminal("status", "--watch", "--interval", "0.2")
    screen.read_until(lambda text: "PENDING" in text)
    connection.execute("UPDATE runs SET status = 'RUNNING'")
    screen.read_until(lambda text: "RUNNING" in text)
    screen.type("q")
    assert screen.finish() == 0
    assert screen.text.count("\x1b[?1049h") == screen.text.count("\x1b[?1049l") == 1
    after = screen.text.rpartition("\x1b[?1049l")[2]
    assert "RUNNING" in after
    assert "Traceback" not in screen.text


def test_watching_ends_cleanly_on_ctrl_c_and_gives_the_terminal_back(terminal, run):
    run()
    screen = terminal("status", "--watch", "--interval", "30")
    screen.read_until(lambda text: "RUNNING" in text)
    screen.process.send_signal(signal.SIGINT)
    assert screen.finish() == 0
    assert "\x1b[?1049l" in screen.text
    assert "Traceback" not in screen.text


def test_watching_named_runs_ends_with_them(terminal, run, connection):
    run(slurm_job_id=14)
    screen = terminal("status", "--watch", "--interval", "0.2", "14")
    screen.read_until(lambda text: "RUNNING" in text)
    connection.execute("UPDATE runs SET status = 'COMPLETED', time_ended = now()")
    assert screen.finish() == 0
    assert "COMPLETED" in screen.text


def test_watching_survives_a_postgresql_that_drops_connections(terminal, run, connection):
    run(status="PENDING")
    screen = terminal("status", "--watch", "--interval", "0.2")
    screen.read_until(lambda text: "PENDING" in text)
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'hpctrack' AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    connection.execute("UPDATE runs SET status = 'RUNNING'")
    screen.read_until(lambda text: "RUNNING" in text)
    screen.type("q")
    assert screen.finish() == 0


def test_watching_into_a_pipe_writes_what_changed(database, run, connection):
    run(slurm_job_id=14, status="PENDING")
    names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "hpctrack.cli.main", "status", "14", "--watch", "--interval", "0.2"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={**os.environ, **names},
    )  # fmt: skip
    first = [process.stdout.readline() for _ in range(4)]
    connection.execute("UPDATE runs SET status = 'COMPLETED', time_ended = now()")
    rest = process.stdout.read()
    assert process.wait(30) == 0
    assert "PENDING" in first[1]
    assert "COMPLETED" in rest
    assert "\x1b" not in rest


#: After how many lines of its code a watch gets a signal.
LINES = range(1, 1 + 25 * 173, 173)


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGINT],
        [signal.SIGINT] * 2,
        [signal.SIGTERM],
        [signal.SIGHUP],
        [signal.SIGQUIT, signal.SIGINT],
    ],
    ids=["Ctrl-C", "Ctrl-C twice", "SIGTERM", "SIGHUP", "SIGQUIT, Ctrl-C"],
)
def test_whenever_a_signal_comes_the_terminal_is_given_back(database, run, tmp_path, numbers):
    run()
    plans = [[(line + 5 * later, number) for later, number in enumerate(numbers)] for line in LINES]
    watches = interrupts.run(
        database, tmp_path, ["status", "--watch", "--interval", "0.2"], plans, begin="_redraw",
        loaded=["hpctrack.cli.group", "hpctrack.cli.watching", "hpctrack.cli.terminal.screen"],
    )  # fmt: skip
    # 130 before the watch has begun, and once it has ended.
    codes = (-numbers[0], *((0, 130, -signal.SIGINT) if signal.SIGINT in numbers else ()))
    wrong = [watch for watch in watches if not watch.is_clean or watch.code not in codes]
    assert not wrong, "\n".join(f"{watch.plan}: {watch.code}: {watch.said[-300:]}" for watch in wrong)


def test_ctrl_z_gives_the_terminal_back_until_the_verb_goes_on(database, run):
    run()
    screen = Terminal(database, [], 100, command=["bash", "--norc", "--noediting", "-i"])
    try:
        screen.type(f"{sys.executable} -m hpctrack.cli.main status --watch --interval 30\n")
        screen.read_until(lambda text: "RUNNING" in text)
        screen.type("\x1a")
        screen.read_until(lambda text: "Stopped" in text)
        assert screen.text.count("\x1b[?1049h") == screen.text.count("\x1b[?1049l") == 1
        screen.type("fg\n")
        screen.read_until(lambda text: text.rpartition("Stopped")[2].count("RUNNING") >= 1)
        screen.type("q")
        screen.read_until(lambda text: text.count("\x1b[?1049l") == 2)
        screen.type("exit\n")
        assert screen.finish() == 0
        assert screen.text.count("\x1b[?1049h") == 2
    finally:
        screen.close()


def test_a_terminal_that_changes_its_size_is_drawn_anew(terminal, run):
    run()
    screen = terminal("status", "--watch", "--interval", "30")
    screen.read_until(lambda text: "RUNNING" in text)
    screen.process.send_signal(signal.SIGWINCH)
    screen.read_until(lambda text: text.count("every 30 s") == 2)
    screen.type("q")
    assert screen.finish() == 0


def test_ctrl_c_while_postgresql_does_not_answer(terminal, run, connection):
    run()
    screen = terminal("status", "--watch", "--interval", "0.2")
    screen.read_until(lambda text: "RUNNING" in text)
    with connection.transaction():
        connection.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
        waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        eventually(lambda: connection.execute(waits).fetchall())
        screen.process.send_signal(signal.SIGINT)
        assert screen.finish() == 0
    assert screen.text.count("\x1b[?1049h") == screen.text.count("\x1b[?1049l") == 1


def test_a_terminal_without_another_screen_gets_lines(terminal, run, connection):
    run(slurm_job_id=14)
    screen = terminal("status", "14", "--watch", "--interval", "0.2", TERM="dumb")
    screen.read_until(lambda text: "RUNNING" in text)
    connection.execute("UPDATE runs SET status = 'COMPLETED', time_ended = now()")
    assert screen.finish() == 0
    assert "COMPLETED" in screen.text
    assert "\x1b" not in screen.text
