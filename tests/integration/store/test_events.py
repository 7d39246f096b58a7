"""Events: a row a change, whoever makes it; one notification a transaction; at a site nobody's."""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg
import pytest

from hpctrack import Client, Experiment
from hpctrack.settings import Settings
from hpctrack.store import database as store
from hpctrack.store.schema import setup
from hpctrack.store.write import changes, events
from tests.support import postgres_servers

DENIED = psycopg.errors.InsufficientPrivilege


@pytest.fixture
def told(connection):
    """Take what was written since; kinds of events by run."""

    def take():
        taken = events.take(connection, 1000)
        assert events.take(connection, 1000) == []
        return [(event.run_id or f"e{event.experiment_id}", event.kind) for event in taken]

    return take


def test_every_change_by_people_is_told_once(connection, run, told):
    ids = [run(args={"lr": 1}), run()]
    assert told() == [(run_id, "created") for run_id in ids]
    changes.tag(connection, ids, {"a": True})
    changes.tag(connection, ids, {"a": True})  # changes nothing
    changes.untag(connection, ids[:1], ["a"])
    changes.note(connection, ids[:1], "x")
    changes.archive(connection, ids[1:])
    assert told() == [(1, "tags"), (2, "tags"), (1, "tags"), (1, "note"), (2, "archived")]
    connection.execute("UPDATE runs SET args = '{}', time_seen = now() WHERE id = 1")
    connection.execute("UPDATE runs SET time_seen = now(), time_updated = now(), status = status")
    connection.execute("UPDATE experiments SET archived = true")
    assert told() == [(1, "args"), ("e1", "archived")]
    changes.delete(connection, ids)
    assert sorted(told()) == [(1, "deleted"), (2, "deleted")]
    connection.execute("DELETE FROM runs")
    assert told() == []


def test_what_the_reconciler_and_clients_say(connection, database, register, told):
    tasks = register(14, tasks=[0, 1, 2])
    assert sorted(told()) == sorted((run_id, "created") for run_id in tasks.values())
    connection.execute("UPDATE runs SET status = 'RUNNING', time_started = now() WHERE task = 1")
    connection.execute("UPDATE runs SET status = 'FAILED', time_ended = now() WHERE task = 1")
    assert told() == [(tasks[1], "status"), (tasks[1], "ended"), (tasks[1], "status")]
    with Client(settings=database) as client:
        run = Experiment(client, "walk").get_run()
        with run.track():
            run.add_metrics(step=1, loss=0.5)
    assert told() == [
        (run.id, "created"), (run.id, "status"), (run.id, "ended"), (run.id, "status"),
    ]  # fmt: skip
    connection.execute("UPDATE runs SET status = 'RUNNING' WHERE id = %s", [run.id])
    connection.execute("UPDATE runs SET status = 'FAILED' WHERE id = %s", [run.id])  # as SQLTrack's client
    assert ("ended" in dict.fromkeys(kind for _, kind in told())) is True


def test_one_notification_a_transaction_which_says_nothing(connection, database, run, insert):
    heard = []
    with store.connect(database, autocommit=True) as listener:
        listener.add_notify_handler(heard.append)
        events.listen(listener, lambda: None)
        with connection.transaction():
            ids = [run() for _ in range(5)]
            changes.tag(connection, ids, {"a": True})
            events.hear(listener)
            assert heard == []
        deadline = time.monotonic() + 10
        while not heard and time.monotonic() < deadline:
            events.hear(listener)
        assert [(one.channel, one.payload) for one in heard] == [("hpctrack", "")]
        connection.execute("UPDATE runs SET time_seen = now()")
        insert("metrics", run_id=ids[0], step=1)
        changes.tag(connection, ids[:1], {"b": True})
        while len(heard) < 2 and time.monotonic() < deadline:
            events.hear(listener)
        time.sleep(0.1)
        events.hear(listener)
        assert len(heard) == 2


def test_an_event_is_given_to_one_taker_and_comes_back_from_one_that_fails(connection, database, run, told):
    for _ in range(4):
        run()
    with store.connect(database) as other:
        assert [event.run_id for event in events.take(other, 2)] == [1, 2]
        assert [event.run_id for event in events.take(connection, 10)] == [3, 4]
        other.rollback()
    assert told() == [(1, "created"), (2, "created")]


def test_what_nobody_takes_goes_after_a_while(connection, run, told, monkeypatch):
    monkeypatch.setattr(events, "_BATCH", 2)
    for _ in range(6):
        run()
    connection.execute("UPDATE events SET time = now() - interval '25 h' WHERE run_id < 6")
    assert events.discard(connection, timedelta(days=1)) == 5
    assert told() == [(6, "created")]


@pytest.mark.parametrize(
    "command",
    [
        "SELECT * FROM events",
        "SELECT count(*) FROM events",
        "INSERT INTO events (run_id, kind) VALUES (1, 'ended')",
        "DELETE FROM events",
        "TRUNCATE events",
        "BEGIN; LOCK TABLE events IN ACCESS SHARE MODE",
        "SELECT announce('hpctrack')",
        "CREATE TEMP TABLE runs (id bigint);"
        " CREATE TRIGGER t AFTER INSERT ON runs FOR EACH ROW EXECUTE FUNCTION hpctrack.note_event('ended')",
    ],
)
def test_events_are_nobodys_at_a_site(roles, command):
    roles.submit("alice")
    for name in ("alice", "reader"):
        with pytest.raises(DENIED):
            roles.query(name, command)
    with store.connect(roles.of("collector"), autocommit=True) as connection:
        assert [event.kind for event in events.take(connection, 10)] == ["created"]


def test_a_users_settings_keep_no_event_from_being_written(roles):
    run = roles.submit("alice")
    with store.connect(roles.of("alice"), autocommit=True) as alice:
        alice.execute("CREATE TEMP TABLE events (LIKE hpctrack.run_latest)")
        alice.execute("SET search_path = pg_temp, hpctrack")
        alice.execute("UPDATE hpctrack.runs SET comment = 'x' WHERE id = %s", [run])
        assert alice.execute("SELECT count(*) FROM pg_temp.events").fetchone() == (0,)
    assert roles.query("owner", "SELECT kind FROM hpctrack.events ORDER BY id") == [("created",), ("note",)]


def test_a_full_queue_of_notifications_stops_nobody(tmp_path):
    """Anybody who can connect may fill it: by listening without ever reading."""
    binaries = postgres_servers.wheel_binaries()
    for server in postgres_servers.run(binaries, tmp_path, max_notify_queue_pages=64):
        settings = Settings(dsn={**server.params, "dbname": "postgres"}, data_dir=str(tmp_path / "d"))
        setup.apply(settings)
        deaf = psycopg.connect(**settings.dsn, autocommit=True)
        deaf.execute("LISTEN x")
        deaf.execute("BEGIN")
        deaf.execute("SELECT 1")
        loud = psycopg.connect(**settings.dsn, autocommit=True)
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            for number in range(100):
                loud.execute("SELECT pg_notify('x', %s || repeat('x', 7900))", [str(number)])
        with Client(settings=settings) as client:
            run = Experiment(client, "walk").get_run()
            run.set_comment("it works")
            assert run.comment == "it works"
        assert loud.execute("SELECT count(*) FROM hpctrack.events").fetchone() == (2,)
        deaf.close()
        loud.close()
