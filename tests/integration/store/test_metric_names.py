"""No name of a metric meets a name of hpctrack's, of SQL's, of psycopg's or of the readers'."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
import sqltrack
from psycopg import sql

import hpctrack
from hpctrack import resources
from hpctrack.store.ingest import ingestion, summaries
from hpctrack.store.metrics import statistics
from hpctrack.stream.wire import journal
from tests.support.journals import BASE, Journal, one, stored
from tests.support.roles import PASSWORD

_SYSTEM = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
#: What the axes of exported tables are called beside BASE.
_AXES = ("run", "restarts")
_ODD = (
    "%", "%s", "%%", "%(name)s", "%b", "{", "}", "{}", "{0}", "{columns}", "{{x}}", ":x", "::text", "$1",
    "?", "?|", "'", "''", '"', '""', "\\", "\\x", "--", "/*", "*/", ";", "a;b", "a.b", "metrics.m", "m.*",
    "journal 0", "*", " ", "  ", "\t", "x y", " x", "x ", "=", "#", "!", "@", "NaN", "nan", "inf", "null",
    "NULL", "true", "0", "-1", "1e5", "[0]", "()", "größe", "損失", "\u0301", "\u202e", "\U000e0041",
    "e\u0301", "é", "İ", "ß", "ẞ", "\x01", "\x7f", "\x85", "\u2028", "x" * 63, "x" * 64, "ä" * 31, "ä" * 32,
    "y" * 62 + "ä", "z" * 200, "v0", "v1", "excluded.x", "pg_temp",
)  # fmt: skip
_AT_ONCE = 150
#: A table has room for 1,600 columns, dropped ones included: each half of the names has one of its own.
_halves = pytest.mark.parametrize("half", [0, 1])
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


def _words(connection) -> list[str]:
    """Return every word that stands in `sql/`, every keyword of PostgreSQL's, and names that are odd."""
    words = {word for (word,) in connection.execute("SELECT word FROM pg_get_keywords()")}
    words |= {name for (name,) in connection.execute(
        "SELECT typname::text FROM pg_type WHERE typname !~ '^_' AND typtype = 'b'"
    )}  # fmt: skip
    words |= {name for (name,) in connection.execute(
        "SELECT attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " WHERE c.relnamespace = current_schema()::regnamespace AND NOT attisdropped"
    )}  # fmt: skip
    for path in resources.folder("sql").rglob("*.sql"):
        code = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        words.update(_WORD.findall(code))
    words |= {word.upper() for word in ("m", "journal", "new", "old", "excluded", "value", "key", "last")}
    return sorted({*words, *_SYSTEM, *_AXES, *BASE, *_ODD})


def _chunks(words: list[str]) -> list[list[str]]:
    return [words[begin : begin + _AT_ONCE] for begin in range(0, len(words), _AT_ONCE)]


def _log_twice(ingest, connection, run_id: int, other_id: int, chunks) -> dict:
    """Log each name twice on one step, beside somebody else's rows; return what should be stored."""
    log, other = Journal(run_id), Journal(other_id)
    expected = {}
    for step, chunk in enumerate(chunks):
        for again in (0.0, 0.5):
            row = {name: index + again for index, name in enumerate(chunk)}
            piece = log.lines(journal.Row.of(0, step, None, None, row))
            outcome = ingest.store([piece, other.rows({"step": step, "others": again})])
            assert not outcome.rejected
            expected[step, 0.0] = row
    assert stored(connection, other_id) == {(step, 0.0): {"others": 0.5} for step in range(len(chunks))}
    return expected


def _declare(connection, names) -> list[str]:
    """Give names a column as a setup file does; return those that PostgreSQL lets have one."""
    declared = [n for n in names if n not in (*BASE, *_SYSTEM) and 0 < len(n.encode()) < 64]
    add = sql.SQL(", ").join(
        map(sql.SQL("ADD COLUMN {} double precision").format, map(sql.Identifier, declared))
    )
    connection.execute(sql.SQL("ALTER TABLE metrics {}").format(add))
    return declared


@pytest.fixture
def ends(connection):
    """Check that others' and the run's own rows come back equal, by the table and by the views."""

    def check(run_id, expected):
        assert stored(connection, run_id) == expected
        names = {name: value for row in expected.values() for name, value in row.items()}
        found = connection.execute(
            "SELECT name, value FROM metric_values WHERE run_id = %s", [run_id]
        ).fetchall()
        assert dict(found) == names
        assert len(found) == len(names)
        assert summaries.renew(connection, run_id)
        found = connection.execute(
            "SELECT name, last FROM metric_summary WHERE run_id = %s", [run_id]
        ).fetchall()
        assert dict(found).items() <= names.items()
        assert len(found) == min(len(names), statistics.MOST)
        (last,) = one(connection, "SELECT last FROM run_latest WHERE run_id = %s", run_id)
        assert last == names
        assert one(connection, "SELECT count(*) FROM rejected") == (0,)

    return check


def test_names_without_a_column(connection, plain, run, ends):
    run_id = run()
    ends(run_id, _log_twice(plain, connection, run_id, run(), _chunks(_words(connection))))


@_halves
def test_names_that_the_collector_makes_columns_for(connection, ingest, run, ends, half):
    for chunk in _chunks(_words(connection)[half::2]):
        run_id = run()
        ends(run_id, _log_twice(ingest, connection, run_id, run(), [chunk]))
        made = connection.execute(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = 'metrics'::regclass AND attnum > 0"
            " AND NOT attisdropped AND attname <> ALL (%s)", [list(BASE)],
        ).fetchall()  # fmt: skip
        assert len(made) > 1
        drop = sql.SQL(", ").join(sql.SQL("DROP COLUMN {}").format(sql.Identifier(name)) for (name,) in made)
        connection.execute(sql.SQL("ALTER TABLE metrics {}").format(drop))


@_halves
def test_names_that_setup_files_make_columns_for(connection, plain, run, ends, half):
    words = _words(connection)[half::2]
    assert len(_declare(connection, words)) > 600
    run_id = run()
    ends(run_id, _log_twice(plain, connection, run_id, run(), _chunks(words)))


@pytest.fixture
def logged(connection, run, request):
    """A run that logged every name, half of them into columns or none; returns its id and what it logged."""
    words = _words(connection)
    if request.param:
        _declare(connection, words[::2])
    run_id = run()
    plain = ingestion.Ingestion(connection, lambda _connection, _messages: frozenset())
    expected = _log_twice(plain, connection, run_id, run(), _chunks(words))
    return run_id, {name: value for row in expected.values() for name, value in row.items()}


@pytest.mark.parametrize("logged", [True, False], indirect=True, ids=["columns", "extra"])
def test_commands_show_metrics_of_every_name(logged, printed, tmp_path):
    run_id, given = logged
    told = json.loads(printed("metrics", f"r{run_id}", "--json"))
    assert {n: v for row in told["rows"] for n, v in row["values"].items()} == given
    told = json.loads(printed("metrics", f"r{run_id}", "--last", "--json"))
    assert {name: entry["value"] for name, entry in told["last"].items()} == given
    rows = list(csv.reader(io.StringIO(printed("metrics", f"r{run_id}", "--csv"), newline="")))
    assert {len(row) for row in rows} == {4 + len(given)}
    for form in ("csv", "jsonl", "parquet"):
        printed("export", f"r{run_id}", "-o", str(tmp_path / f"rows.{form}"))
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    axes = {"run", "step", "progress", "time", "restarts"}
    exported = {n: v for line in lines for n, v in json.loads(line).items() if n not in axes}
    assert sorted(exported.values()) == sorted(given.values())
    assert "others" in printed("compare", f"r{run_id}", f"r{run_id + 1}")
    [told] = [r for r in json.loads(printed("status", "--json"))["runs"] if r["run"] == f"r{run_id}"]
    assert told["last"] == given
    printed("show", f"r{run_id}")
    for name in ("m", "journal_column", "value", "select", "%s", "{}", "x y", "run_id", "損失"):
        printed("plot", f"r{run_id}", name)
        column = f'metrics."{name}"'
        assert str(given[name]) in printed("status", "-o", column, "--csv", "--sort", column)
        assert f"r{run_id}" in printed("status", "--where", f"{column} = {given[name]}", "-o", "run")


@pytest.mark.parametrize("logged", [True, False], indirect=True, ids=["columns", "extra"])
def test_the_api_reads_metrics_of_every_name(logged, database):
    run_id, given = logged
    with hpctrack.Client(settings=database) as client:
        mine = client.run(f"r{run_id}")
        assert mine.metric_names() == sorted(given)
        for how in ("arrow", "pandas"):
            table = mine.metrics(format=how)
            columns = [table[name] for name in (table.column_names if how == "arrow" else table.columns)[3:]]
            found = [c.drop_null().to_pylist() if how == "arrow" else c.dropna().tolist() for c in columns]
            assert found == [[given[name]] for name in sorted(given)]
        names = ["m", "journal_column", "%s", "{}", "x y"]
        assert mine.metrics(names).columns[3:].tolist() == names


@_halves
def test_runs_of_sqltracks_client_go_on_whatever_columns_there_are(roles, tmp_path, monkeypatch, half):
    monkeypatch.chdir(tmp_path)
    owner = roles.connect("owner")
    words = _declare(owner, _words(owner)[half::2])
    client = sqltrack.Client(**{**roles.of("alice").dsn, "password": PASSWORD}, schema="hpctrack")
    run = sqltrack.Experiment(client, name="e").get_run()
    reserved = {w for (w,) in owner.execute("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")}
    # Its statements do not quote names.
    usable = [w for w in words if _WORD.fullmatch(w) and w == w.lower() and w not in reserved]
    usable = [w for w in usable if w not in ("client", "self")]
    with run.track():
        for step, chunk in enumerate(_chunks(usable)):
            for again in (0.0, 0.5):
                run.add_metrics(step=step, **{name: index + again for index, name in enumerate(chunk)})
    latest = "SELECT r.status::text, l.last_step, l.last FROM runs r JOIN run_latest l ON l.run_id = r.id"
    [(status, step, last)] = roles.query("alice", latest)
    assert (status, step, {*last}) == ("COMPLETED", len(_chunks(usable)) - 1, {*usable})
