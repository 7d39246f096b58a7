"""Ids of rows, which users of SQL and clients of SQLTrack may bring, are nobody's means against others."""

from __future__ import annotations

import functools
import os
import signal
import threading
import uuid

import psycopg
import pytest
import sqltrack

from hpctrack import errors
from hpctrack.store import database as store
from hpctrack.store.write import registration
from hpctrack.stream.wire import datagrams
from tests.support.collectors import Collector
from tests.support.roles import PASSWORD
from tests.support.sender import Sender, message, rows, stats
from tests.support.waiting import eventually

GIVEN = psycopg.errors.UniqueViolation
TABLES = ("runs", "experiments")


@pytest.fixture
def experiment(roles):
    roles.query("alice", "INSERT INTO experiments (name) VALUES ('alices')")
    return roles.query("alice", "SELECT id FROM experiments")[0][0]


@pytest.fixture
def bring(roles, experiment):
    """Insert a row with an id of one's own; returns the id."""

    def insert(table, id_, name="alice", connection=None):
        columns, value = ("experiment_id", experiment) if table == "runs" else ("name", f"n{uuid.uuid4()}")
        command = f"INSERT INTO {table} (id, {columns}) VALUES (%s, %s) RETURNING id"
        return (connection or roles.connect(name)).execute(command, (id_, value)).fetchone()[0]

    return insert


def newest(roles, table) -> int:
    [(given,)] = roles.query("owner", f"SELECT coalesce(pg_sequence_last_value('{table}_id_seq'), 0)")
    return given


def test_future_ids_that_somebody_takes_keep_nobody_from_registering(roles, bring):
    """Neither taken ones, nor those in a transaction that stays open."""
    for table in TABLES:
        for number in range(newest(roles, table) + 1, newest(roles, table) + 30):
            assert bring(table, number) == number
        with store.connect(roles.of("alice")) as session:
            for _ in range(30):
                bring(table, newest(roles, table) + 3, connection=session)
            before = newest(roles, table)
            assert roles.submit("bob", f"bobs {table}") > 0
            assert newest(roles, table) > before
    taken = "INSERT INTO runs (id, experiment_id) SELECT %s + n, %s FROM generate_series(1, 5000) n"
    roles.query("alice", taken, newest(roles, "runs"), 1)
    run = roles.submit("bob")
    assert run == newest(roles, "runs")
    assert roles.query("bob", "SELECT user_name FROM runs WHERE id = %s", run) == [(roles.role("bob"),)]


@pytest.mark.parametrize("table", TABLES)
def test_what_was_given_once_is_never_given_again(roles, bring, table):
    alice = roles.connect("alice")
    with store.connect(roles.of("alice")) as other:
        undone = bring(table, None, connection=other)
        other.rollback()
    own, gone = bring(table, None), bring(table, newest(roles, table) + 7)
    skipped = gone - 1
    elsewhere = bring(table, None, connection=roles.connect("owner"))
    alice.execute(f"DELETE FROM {table} WHERE id IN (%s, %s)", (own, gone))
    latest = bring(table, None)
    alice.execute(f"DELETE FROM {table} WHERE id = %s", [latest])  # the session's own, given last
    for name in ("alice", "bob", "owner", "collector"):
        for id_ in (undone, own, gone, skipped, elsewhere, latest, 1):
            with pytest.raises(GIVEN, match=f"id {id_} of {table} was given before"):
                bring(table, id_, name)
    assert bring(table, None) > latest


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("id_", [2**31 - 1, 2**31, 2**63 - 1, 0, -1, -(2**63), 1_500_000])
def test_an_id_is_small_and_nobody_jumps_to_the_last(roles, bring, table, id_):
    for name in ("alice", "owner"):
        before = newest(roles, table)
        with pytest.raises(psycopg.errors.CheckViolation, match=f"id {id_} of {table} can't be chosen"):
            bring(table, id_, name)
        assert newest(roles, table) == before
    with pytest.raises(psycopg.errors.CheckViolation):
        roles.query("owner", f"ALTER TABLE {table} DISABLE TRIGGER give_id; SELECT")
        bring(table, 2**31, "owner")


@pytest.mark.parametrize("table", TABLES)
def test_an_id_stays_as_it_is(roles, bring, table):
    id_ = bring(table, None)
    for new in (id_ + 100, 2**31 - 1, 1 if id_ > 1 else 2):
        with pytest.raises(psycopg.errors.CheckViolation, match="stays as it is"):
            roles.query("alice", f"UPDATE {table} SET id = %s WHERE id = %s", new, id_)
    assert roles.query("alice", f"UPDATE {table} SET id = id WHERE id = %s", id_) == 1


@pytest.mark.parametrize("table", TABLES)
def test_sessions_that_bring_the_same_ids_at_once_get_each_once(roles, bring, table):
    """Also where the sequence hands its numbers to sessions in blocks."""
    roles.query("owner", f"ALTER SEQUENCE {table}_id_seq CACHE 3")
    first = newest(roles, table) + 1
    got: list[int] = []

    def take(name: str) -> None:
        with psycopg.connect(**roles.of(name).dsn, autocommit=True, options="-csearch_path=hpctrack") as own:
            for id_ in range(first, first + 200):
                for wanted in (id_, None):
                    try:
                        got.append(bring(table, wanted, connection=own))
                    except (GIVEN, psycopg.errors.InsufficientPrivilege):
                        continue

    threads = [threading.Thread(target=take, args=[name]) for name in ("alice", "bob", "alice")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) >= 600
    assert len(set(got)) == len(got)


def test_no_number_of_the_schema_can_be_chosen_or_moved_by_a_user(roles):
    """Sequences are the owner's; where the table has no trigger for it, nobody may name the column."""
    sequences = roles.query(
        "owner",
        "SELECT s.oid, c.relname, a.attname FROM pg_class s"
        " JOIN pg_depend d ON d.objid = s.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0"
        " JOIN pg_class c ON c.oid = d.refobjid"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid"
        " WHERE s.relkind = 'S' AND s.relnamespace = 'hpctrack'::regnamespace",
    )
    assert {table for _, table, _ in sequences} == {
        "events", "experiments", "metric_names", "rejected", "runs", "transitions",
    }  # fmt: skip
    for sequence, table, column in sequences:
        for name in ("alice", "reader", "nobody"):
            role = roles.role(name)
            for right in ("USAGE", "SELECT", "UPDATE"):
                query = "SELECT has_sequence_privilege(%s, %s::oid, %s)"
                assert roles.query("owner", query, role, sequence, right) == [(False,)]
            if table not in TABLES:
                for right in ("INSERT", "UPDATE"):
                    query = "SELECT has_column_privilege(%s, %s, %s, %s)"
                    assert roles.query("owner", query, role, table, column, right) == [(False,)]
    run = roles.submit("alice")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        roles.query(
            "alice",
            "INSERT INTO transitions (id, run_id, source) OVERRIDING SYSTEM VALUE VALUES (99, %s, 'user')",
            run,
        )
    assert roles.query("alice", "INSERT INTO transitions (run_id, source) VALUES (%s, 'user')", run) == 1


def test_registering_again_takes_no_ids(roles):
    record = roles.record("alice")
    first = registration.register(roles.connect("alice"), record)
    before = [newest(roles, table) for table in TABLES]
    for _ in range(3):
        assert registration.register(roles.connect("alice"), record) == first
    roles.submit("alice")
    assert [newest(roles, table) for table in TABLES] == [before[0] + 1, before[1]]


def _at_once(*calls) -> list[BaseException | None]:
    """Call all of them, each in a thread; return what they raised."""
    raised: list[BaseException | None] = []

    def call(one) -> None:
        try:
            one()
        except errors.HpctrackError as error:
            raised.append(error)
        else:
            raised.append(None)

    threads = [threading.Thread(target=call, args=(one,)) for one in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


def _twice_at_once(roles):
    """The command itself, and a collector that finds its record in the spool."""
    record = roles.record("alice")._replace(tasks="0-3")
    names = ("alice", "alice", "collector")
    connections = [store.connect(roles.of(name), autocommit=True) for name in names]
    calls = [functools.partial(registration.register, connection, record) for connection in connections]
    assert _at_once(*calls) == [None] * len(calls)
    for connection in connections:
        connection.close()
    return 4


def _while_it_is_held(roles):
    """Somebody renames the experiment, and takes their time."""
    roles.submit("alice", "held")
    record = roles.record("bob", "held")._replace(tasks="0-9")
    with store.connect(roles.of("alice")) as other:
        other.execute("UPDATE experiments SET name = 'other' WHERE name = 'held'")
        for _ in range(2):
            with pytest.raises(errors.StoreBusy):
                registration.register(roles.connect("bob"), record)
        other.rollback()
    return 1 + len(registration.register(roles.connect("bob"), record))


def _refused(roles):
    """A record of somebody else's, which their login may not register."""
    record = roles.record("bob")
    registration.register(roles.connect("bob"), record)
    for _ in range(3):
        with pytest.raises(errors.HpctrackError):
            registration.register(roles.connect("alice"), record)
    return 1


def _again(roles):
    """Registered already, all of it."""
    record = roles.record("alice")._replace(tasks="1,5")
    for _ in range(3):
        assert len(registration.register(roles.connect("alice"), record)) == 2
    return 2


def _tried(roles):
    """A look at whether all is well."""
    for _ in range(2):
        assert "a submission can be registered" in roles.run("alice", "doctor")[1]
    assert roles.query("owner", "SELECT count(*) FROM run_keys k WHERE NOT EXISTS"
                       " (SELECT FROM runs r WHERE r.submission = k.submission)") == [(0,)]  # fmt: skip
    return 0


@pytest.mark.parametrize("way", [_again, _twice_at_once, _while_it_is_held, _refused, _tried])
def test_a_number_is_drawn_when_it_is_used(roles, collect_as, monkeypatch, way):
    """However it is registered: ids go on where they were."""
    monkeypatch.setenv("HPCTRACK_COLLECTOR", ":".join(map(str, collect_as("collector"))))
    first = roles.submit("alice")
    made = way(roles)
    last = roles.submit("bob")
    assert roles.query("owner", "SELECT array_agg(id ORDER BY id) FROM runs") == [
        ([*range(first, first + made + 2)],)
    ]
    assert last == first + made + 1


def test_a_submission_without_runs_gets_an_echo_and_nothing_else(roles, collect_as):
    address = collect_as("collector")
    record = roles.record("alice")
    with registration.trial(roles.connect("alice"), record):
        sender = Sender(address, uuid.UUID(record.uuid), bytes.fromhex(record.secret))
        sender.ping()
        sender.send(datagrams.seal(sender.key, sender.header(b"journal1", 0, 100), rows(0)))
        eventually(lambda: stats(roles.connect("owner"))["received"].get("unknown run"))
    for table in ("runs", "run_keys", "metrics", "rejected", "experiments"):
        assert roles.query("owner", f"SELECT count(*) FROM {table}") == [(0,)], table


def test_sqltracks_client_may_bring_ids(roles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = sqltrack.Client(**{**roles.of("alice").dsn, "password": PASSWORD}, schema="hpctrack")
    experiment = sqltrack.Experiment(client, experiment_id=100, name="mine")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    run = sqltrack.Run(client, experiment_id=100, run_id="SLURM_JOB_ID")
    assert (experiment.id, run.id) == (100, 4711)
    again = sqltrack.Run(client, run_id="SLURM_JOB_ID")
    with again.track():
        again.set_comment("requeued")
    assert roles.query("alice", "SELECT id, experiment_id, comment, status::text FROM runs") == [
        (4711, 100, "requeued", "COMPLETED")
    ]
    assert roles.submit("bob") == 4712
    assert experiment.get_run().id == 4713
    with pytest.raises(GIVEN):
        sqltrack.Run(client, experiment_id=100, run_id=4712)  # bob's, which alice does not see


def test_a_secret_goes_with_the_last_run_of_its_submission(roles):
    record = roles.record("alice")._replace(tasks="0-2")
    runs = registration.register(roles.connect("alice"), record)
    keys = "SELECT count(*) FROM run_keys"
    for task, left in ((0, 1), (1, 1), (2, 0)):
        roles.query("alice", "DELETE FROM runs WHERE id = %s", runs[task])
        assert roles.query("owner", keys) == [(left,)], task
    kept = roles.submit("bob", "kept")
    roles.submit("bob", "other")
    roles.query("bob", "DELETE FROM experiments WHERE name = 'other'")
    assert roles.query(
        "owner", "SELECT r.id FROM runs r JOIN run_keys USING (submission)"
    ) == [(kept,)]  # fmt: skip
    assert registration.register(roles.connect("alice"), record).keys() == {0, 1, 2}
    assert roles.query("owner", keys) == [(2,)]


#: What becomes of alice's run while the collector knows its key: by whom, and how.
REPLACED = {
    "deleted": (),
    "registered again by its owner": ("alice",),
    "registered by a stranger": ("bob",),
}


@pytest.mark.parametrize("by", REPLACED.values(), ids=REPLACED)
def test_what_is_under_way_for_a_deleted_run_reaches_no_other(roles, collect_as, by):
    record = roles.record("alice")
    [old] = registration.register(roles.connect("alice"), record).values()
    sender = Sender(collect_as("collector"), uuid.UUID(record.uuid), bytes.fromhex(record.secret))
    sender.ping()
    journal = b"journal1"
    sender.ship(journal, [rows(0)])
    roles.query("alice", "DELETE FROM runs WHERE id = %s", old)
    roles.query("alice", "DELETE FROM submissions WHERE uuid = %s", record.uuid)
    for name in by:
        submission = {**record.submission, "user_name": roles.role(name)}
        theirs = record._replace(submission=submission, secret=os.urandom(32).hex())
        [new] = registration.register(roles.connect(name), theirs).values()
        assert new > old
    bystander = roles.submit("bob", "bystander")
    hello = {"time": 1.7e9, "attempt": 0, "node": "n1"}
    fin = {"time": 1.7e9, "exit_code": 3, "stderr_tail": "alices"}
    told = [rows(3), message("args", of="alice"), message("hello", **hello),
            message("start", time=1.7e9, env={"OF": "alice"}), message("fin", **fin)]  # fmt: skip
    for number, body in enumerate(told, 1):
        header = sender.header(journal, 100 * number, 100 * number + 100)
        sender.send(datagrams.seal(sender.key, header, body))
    # Whatever comes behind it shows that this was looked at: of another run, and of the same.
    eventually(lambda: roles.query("owner", "SELECT reason FROM rejected") != [])
    for query in (
        "SELECT run_id FROM metrics", "SELECT run_id FROM streams", "SELECT run_id FROM attempts",
        "SELECT run_id FROM transitions WHERE source = 'relay'", "SELECT run_id FROM run_latest",
        "SELECT id FROM runs WHERE args ? 'of' OR env IS NOT NULL OR status <> 'PENDING'",
        "SELECT run_id FROM rejected WHERE run_id IS NOT NULL",
    ):  # fmt: skip
        assert roles.query("owner", query) == [], query
    assert roles.query("owner", "SELECT count(*) FROM runs WHERE id = %s", bystander) == [(1,)]


def test_a_run_that_was_given_another_name_gets_nothing_under_the_old_one(roles, collect_as):
    """People may write into rows of their own, also what the wire calls them."""
    records = [roles.record("alice") for _ in range(2)]
    first, second = (registration.register(roles.connect("alice"), record)[-1] for record in records)
    address = collect_as("collector")
    senders = [Sender(address, uuid.UUID(r.uuid), bytes.fromhex(r.secret)) for r in records]
    for sender, journal in zip(senders, (b"journal1", b"journal2"), strict=True):
        sender.ship(journal, [rows(0)])
    steps = "SELECT array_agg(step ORDER BY step) FROM metrics WHERE run_id = %s"
    assert [roles.query("alice", steps, run) for run in (first, second)] == [[([0, 1, 2],)]] * 2
    alice = roles.connect("alice")
    alice.execute("UPDATE runs SET task = 7 WHERE id = %s", [first])
    alice.execute("UPDATE runs SET submission = %s WHERE id = %s", [records[0].uuid, second])
    senders[0].send(datagrams.seal(senders[0].key, senders[0].header(b"journal1", 100, 200), rows(10)))
    eventually(lambda: roles.query("owner", "SELECT reason FROM rejected") != [])
    assert roles.query("alice", steps, first) == [([0, 1, 2],)]
    senders[0].ship(b"journal3", [rows(20)])
    assert roles.query("alice", steps, second) == [([0, 1, 2, 20, 21, 22],)]


@pytest.fixture
def collect_as(roles, collect):
    """Start a collector of a role; returns its address."""
    return lambda name: collect(roles.of(name)._replace(collector_bind="127.0.0.1")).address()


@pytest.fixture
def collect():
    started = []

    def run(settings):
        started.append(Collector(settings))
        return started[-1]

    yield run
    for process in started:
        process.end(signal.SIGKILL)


def test_ids_are_in_the_order_of_tasks_whatever_the_plan(connection, register):
    connection.execute("SET enable_nestloop = off")
    ids = register(14, tasks=[*range(200)])
    assert [ids[task] for task in range(200)] == sorted(ids.values())
