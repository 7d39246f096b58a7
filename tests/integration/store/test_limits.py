"""What is too long, too deep or no text is refused or cut where it enters, and stops nobody else."""

from __future__ import annotations

import json
import os

import psycopg
import pytest

from hpctrack import Client, Experiment, errors, limits
from hpctrack.slurm.sbatch import submission
from hpctrack.store import database as store
from hpctrack.store.write import registration
from hpctrack.stream.wire import records
from tests.support.journals import Journal, one, stored

DEEP = json.loads("[" * 101 + "]" * 101)


def nested(levels: int) -> str:
    return '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def write(settings, **fields) -> str:
    """Leave a submission record in the spool that PostgreSQL does not know; return its path."""
    record = submission.mint(settings, 1.7e9)
    run = {"experiment": "e", "kind": "command", **fields.pop("run", {})}
    given = {
        "uuid": record.uuid,
        "user_name": "u",
        "time": "2026-01-31T12:00:00Z",
        **fields.pop("submission", {}),
    }
    return records.write(settings.spool, record._replace(submission=given, run=run, **fields))


BAD = {
    "an experiment's name": {"run": {"experiment": "é" * 5000}},
    "no experiment": {"run": {"experiment": None}},
    "a note": {"run": {"comment": "x" * 100_000}},
    "a job's name": {"run": {"job_name": "x" * 5000}},
    "a job id": {"run": {"job_id": "x"}},
    "a kind": {"run": {"kind": "neither"}},
    "a client's run, which nobody submits": {"run": {"kind": "client"}},
    "tags": {"run": {"tags": {"a": "x" * (1 << 20)}}},
    "deep args": {"run": {"args": json.loads(nested(900))}},
    "NUL": {"run": {"comment": "a\0b"}},
    "a surrogate": {"run": {"comment": "\ud800"}},
    "a time": {"submission": {"time": "yesterday evening"}},
    "a script": {"submission": {"script": "x" * (5 << 20)}},
    "a line": {"submission": {"submit_line": "x" * (1 << 20)}},
    "an environment": {"submission": {"env": {"A": "x" * (4 << 20)}}},
    "no UUID": {"submission": {"uuid": "x"}},
    "a secret": {"secret": "no hexadecimal"},
    "no secret": {"secret": 5},
    "tasks": {"tasks": "1-"},
    "many tasks": {"tasks": "0-99999999999"},
}


@pytest.mark.parametrize("what", [*BAD, "no record", "a deep record"])
def test_a_bad_record_is_set_apart_and_keeps_no_other_from_registration(database, connection, caplog, what):
    if what in BAD:
        bad = write(database, **BAD[what])
    else:
        bad = write(database)
        with open(bad, "w", encoding="ascii") as file:
            file.write("[" * 100_000 if what == "a deep record" else "nonsense")
    # Names of files are random: those behind and those before it.
    others = [write(database, run={"comment": str(number)}) for number in range(6)]
    assert registration.register_pending(database, connection) == 6
    assert not any(os.path.exists(records._marker(path)) for path in [bad, *others])
    assert one(connection, "SELECT count(*) FROM runs") == (6,)
    [(path, reason)] = records.refused(database.spool)
    assert path == bad
    assert reason
    assert len([r for r in caplog.records if bad in r.getMessage()]) == 1
    assert registration.register_pending(database, connection) == 0
    assert len([r for r in caplog.records if bad in r.getMessage()]) == 1
    assert bad not in [path for path, _, _ in records.registered_before(database.spool, 1e12)]
    records.try_refused_again(database.spool)
    assert registration.register_pending(database, connection) == 0
    assert len([r for r in caplog.records if bad in r.getMessage()]) == 2


def test_sync_and_doctor_tell_of_what_is_set_apart(cli, database, connection):
    bad = write(database, run={"experiment": "x" * 3000})
    assert registration.register_pending(database, connection) == 0
    code, out, _ = cli("doctor")
    assert code
    assert f"{os.path.basename(bad)} can't be registered" in out.replace("\n", "")


LONG = "x" * 300_000
HUGE = '{"a": "' + "x" * (100 << 20) + '"}'


@pytest.mark.parametrize(
    "words",
    [
        ("note", "r1", LONG), ("tag", "r1", "a=" + LONG), ("experiment", "rename", "e", LONG),
        ("experiment", "rename", "e", "é" * 600), ("run", "-E", LONG, "--", "true"),
        ("run", "--note", LONG, "--", "true"), ("run", "-T", LONG, "--", "true"),
        ("sbatch", "-E", LONG, "x"), ("sbatch", "--note", LONG, "x"), ("sbatch", "-T" + LONG, "x"),
    ],
    ids=lambda words: " ".join(word[:10] for word in words),
)  # fmt: skip
def test_commands_say_at_once_what_is_too_long(cli, run, words):
    run(experiment="e")
    code, _, err = cli(*words)
    assert code == 2
    assert "at most" in err
    assert len(err) < 1000


def test_the_api_says_at_once_what_does_not_fit(database, run, insert):
    run_id = run(experiment="e")
    with Client(settings=database) as client:
        mine, experiment = client.run(f"r{run_id}"), client.experiment("e")
        for call in (
            lambda: mine.set_comment(LONG),
            lambda: mine.set_comment("a\0b"),
            lambda: mine.set_comment("\ud800"),
            lambda: mine.add_tags(**{"a": LONG}),
            lambda: mine.add_tags(deep=DEEP),
            lambda: mine.add_args({f"a{i}": "x" * 10_000 for i in range(200)}),
            lambda: mine.add_link("k" * 300, mine),
            lambda: experiment.set_comment(LONG),
            lambda: experiment.add_tags(a=LONG),
            lambda: experiment.add_link("k" * 300, experiment),
            lambda: Experiment(client, "x" * 3000),
        ):
            with pytest.raises(errors.UsageError):
                call()


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("UPDATE runs SET args = %s", nested(900)),
        ("UPDATE runs SET args = %s", json.dumps({"a": "x" * (3 << 20)})),
        ("UPDATE runs SET env = %s", nested(900)), ("UPDATE runs SET tags = %s", nested(900)),
        ("UPDATE runs SET tags = %s", json.dumps({"a": "x" * (1 << 20)})),
        ("UPDATE runs SET comment = %s", LONG),
        ("UPDATE runs SET job_name = %s", LONG), ("UPDATE runs SET node_list = %s", LONG),
        ("UPDATE runs SET stdout_path = %s", LONG), ("UPDATE runs SET reason = %s", LONG),
        ("UPDATE experiments SET name = %s", "x" * 1001), ("UPDATE experiments SET comment = %s", LONG),
        ("UPDATE experiments SET tags = %s", nested(900)),
        ("INSERT INTO run_latest (run_id, last) SELECT id, %s FROM runs", nested(900)),
        ("INSERT INTO run_latest (run_id, last) SELECT id, %s FROM runs", HUGE),
        ("INSERT INTO run_relationships SELECT id, %s, id FROM runs", "k" * 256),
        ("INSERT INTO experiment_relationships SELECT id, %s, id FROM experiments", "k" * 256),
        ("INSERT INTO metrics (run_id, extra) SELECT id, %s FROM runs", nested(900)),
        ("INSERT INTO metrics (run_id, extra) SELECT id, %s FROM runs", json.dumps({"a": "x" * (10 << 20)})),
    ],
    ids=lambda value: value[:60],
)  # fmt: skip
def test_sql_takes_no_more_than_fits_either(connection, run, statement, value):
    run()
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(statement, [value])
    # Nor by way of a value that another table has packed.
    column = "text" if "jsonb" not in statement and not value.startswith("{") else "jsonb"
    connection.execute(f"CREATE TEMPORARY TABLE packed (v {column})")
    connection.execute("INSERT INTO packed VALUES (%s)", [value])
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(statement.replace("%s", "(SELECT v FROM packed)"))


def test_long_values_of_metrics_stay_out_of_lists(connection, ingest, run):
    run_id = run()
    log = Journal(run_id)
    row = {f"name {i}": "x" * 200_000 for i in range(7)} | {"big": 10**4000, "x": 0.5}
    ingest.store([log.rows({"step": 0, **row})])
    assert stored(connection, run_id) == {(0, 0.0): row}
    (size, count) = one(
        connection,
        "SELECT length(last::text), (SELECT count(*) FROM jsonb_object_keys(last)) FROM run_latest",
    )
    assert (size < 20_000, count) == (True, 9)


def test_names_without_end_do_not_make_lists_long(connection, plain, run):
    run_id = run()
    log = Journal(run_id)
    for turn in range(60):
        row = {f"{turn} {i} " + "n" * 900: "v" * 900 for i in range(20)}
        assert not plain.store([log.rows({"step": turn, **row})]).rejected
    assert one(connection, "SELECT length(last::text) < 1200000 FROM run_latest") == (True,)


def test_the_same_bounds_stand_in_code_and_schema(connection):
    query = "SELECT string_agg(pg_get_constraintdef(oid), ' ') FROM pg_constraint WHERE conname ~ '^fitting'"
    (text,) = one(connection, query)
    for limit in (limits.EXPERIMENT, limits.NOTE, limits.LINK, limits.JOB_NAME, limits.PATH, limits.SCRIPT):
        assert f"<= {limit.most})" in text


def test_what_comes_along_is_cut_and_says_so(database):
    source = submission.Source(
        argv=["hpctrack", "sbatch", "x" * (1 << 20)], script="#!/bin/sh\n" + "#" * (5 << 20),
        arguments=["y" * (2 << 20)], work_dir="/" + "d" * 5000, time=1.7e9,
        environ={"LONG": "z" * 100_000, **{f"V{i}": "v" * 30_000 for i in range(60)}},
    )  # fmt: skip
    own = submission.Own("e" * 3000, ("t=" + "t" * (1 << 20),), "n" * 100_000)
    made = submission.make(database, source, own, submission.Job(name="j" * 3000), None)
    for text, limit in (
        (made.submission["submit_line"], limits.SUBMIT_LINE), (made.submission["script"], limits.SCRIPT),
        (made.submission["work_dir"], limits.PATH), (made.run["experiment"], limits.EXPERIMENT),
        (made.run["comment"], limits.NOTE), (made.run["job_name"], limits.JOB_NAME),
    ):  # fmt: skip
        assert len(text.encode()) <= limit.most
        assert text.endswith("bytes)")
    assert len(json.dumps(made.submission["env"])) < limits.ENV.most
    assert "bytes)" in made.submission["env"]["LONG"]
    with store.connect(database, autocommit=True) as connection:
        assert len(registration.register(connection, made)) == 1
