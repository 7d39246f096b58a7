"""Every verb, with names in every field that would command a terminal, hide, or turn the order of letters."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
import uuid
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from hpctrack.cli.table_of_verbs import VERBS
from tests.support.verbs import EXAMPLES, WITHOUT_CONFIGURATION

NOW = datetime.now(timezone.utc)
LONG_AGO = NOW - timedelta(days=9)
#: A screen that is emptied, a title, a link, the clipboard, C1 controls, a bell, backspaces, a returned
#: carriage, turned and isolated letters, tags, what has no width, other ends of lines, a stack of marks.
EVIL = (
    "=e\x1b[2J\x1b]0;t\x07\x1b]8;;http://x\x1b\\\x1b]52;c;eA==\x07\x9b1m\x9d0;t\x9c\x07\x08\x08\r\x7f\u202eli\u202c\u2066ve\u2069"
    "\u200b\u200d\u2060\ufeff\xad\ufe0f\U000e0041\U000e007f\U000e0101\u2028\u2029\x85\x0b\x0c\n!fake line\te"
    + "\u0301" * 60 + "\ufff9\u115f\u3164\x1b[8m$(touch pwned)`touch pwned`\\"
)  # fmt: skip
#: As much of it as the shortest fields take: 255 bytes.
SHORT = (
    "=e\x1b[2J\x1b]0;t\x07\x9b1m\x08\r\x7f\u202eli\u2066ve\u2069\u200b\ufeff\xad\ufe0f\U000e0041\u2028\x85\x0b"
    "\n!fake line\te" + "\u0301" * 60
)
#: What may be there: colours, and what draws a bar on its line.
ALLOWED = re.compile(r"\x1b\[[\d;]*m|\x1b\[\d*[AK]|\r")

#: Runs each command line in a terminal of its own; prints exit codes and what was said.
IN_TERMINALS = """
import json, os, pty, sys
from hpctrack.cli import group, main
from hpctrack.cli.terminal import detail, listing
from hpctrack.cli.verbs import compare, experiment, metrics, plot, show, status
from hpctrack.store.metrics import curves
from hpctrack.store.read import lists, queries
told = []
for arguments in json.load(sys.stdin):
    pid, leader = pty.fork()
    if pid == 0:
        main.main([os.fsdecode(word.encode("utf-8", "surrogateescape")) for word in arguments])
    os.write(leader, b"n\\n\\x04")
    said = b""
    while True:
        try:
            said += os.read(leader, 65536)
        except OSError:
            break
    os.close(leader)
    told.append((os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode("utf-8", "surrogateescape")))
print(json.dumps(told))
"""


def forbidden(said: str) -> set[str]:
    """Return what a terminal would obey, or hide."""
    rest = ALLOWED.sub("", said)
    bad = {
        char for char in rest if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }
    bad |= set(re.findall("[\u034f\u115f\u1160\u3164\ufe00-\ufe0f\U000e0100-\U000e01ef]", rest))
    if "\u0301" * 10 in rest:
        bad.add("a stack of marks")
    if re.search(r"\x1b\[(?:[\d;]*;)?8m", said.replace("8;5;8m", "")):
        bad.add("concealed")
    return bad


def text_columns(connection, table):
    query = (
        "SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
        " WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped"
    )
    return {
        name: kind for name, kind in connection.execute(query, (table,)) if kind in ("text", "jsonb", "_text")
    }


@pytest.fixture
def spoilt(connection, insert):
    """A run that is over, and all that belongs to it, with such a text in every column that takes it."""
    submission = uuid.uuid4()
    experiment = insert("experiments", name="e")
    insert("submissions", uuid=submission, user_name="alice", time=NOW, script="#!/bin/sh\n", submit_line="x")
    for number in (1, 2):
        insert(
            "runs", experiment_id=experiment, status="FAILED", submission=submission, task=number,
            slurm_job_id=16 + number, time_created=LONG_AGO, time_started=LONG_AGO, time_ended=LONG_AGO,
            exit_code=1, cluster="demo",
        )  # fmt: skip
        insert("attempts", run_id=number, attempt=0, status="FAILED", time_ended=NOW, resources={"cpus": 1})
        insert("transitions", run_id=number, attempt=0, status="FAILED", time=NOW, source="user")
        insert("usage", run_id=number, attempt=0, node="n", time=NOW, cpu_s=1.0)
        insert("streams", run_id=number, journal_id="j", attempt=0, watermark=1, lost=3)
        insert(
            "rejected", run_id=number, journal_id="j", start_offset=0, end_offset=1, reason="r", payload=b"x"
        )
        for step in range(3):
            insert(
                "metrics", run_id=number, step=step, extra={EVIL: step / 2, "word": EVIL, EVIL + "2": EVIL}
            )
        insert("run_latest", run_id=number, last={EVIL: 1.5, "word": EVIL}, rows=3, lost=3)
    insert("run_relationships", from_id=1, kind="k", to_id=2)
    insert("shares", owner="alice", run_id=1, user_name="bob")
    insert("experiments", name="other")
    insert("experiment_relationships", from_id=experiment, kind="k", to_id=experiment + 1)
    insert("clusters", name="c", unreachable_since=NOW, error="e")
    insert("collectors", id=uuid.uuid4(), host="h", pid=1, addresses="{a}", started=NOW, heartbeat=NOW)
    tables = (
        "experiments", "submissions", "runs", "attempts", "transitions", "usage", "streams", "rejected",
        "run_relationships", "experiment_relationships", "clusters", "collectors", "shares",
    )  # fmt: skip
    value = Jsonb({EVIL: EVIL, "n": {EVIL: [EVIL]}, "best": None})
    values = {"text": (EVIL, SHORT), "_text": ([EVIL],), "jsonb": (value, Jsonb({EVIL: "max"}))}
    kept = set()
    for table in tables:
        for column, kind in text_columns(connection, table).items():
            condition = " WHERE id = 1" if (table, column) == ("experiments", "name") else ""
            change = sql.SQL("UPDATE {} SET {} = %s" + condition).format(
                sql.Identifier(table), sql.Identifier(column)
            )
            kept.add((table, column))
            for value in values[kind]:
                with contextlib.suppress(psycopg.errors.CheckViolation):
                    connection.execute(change, (value,))
                    kept.discard((table, column))
                    break
    chosen = {("runs", "kind"), ("runs", "visible"), ("transitions", "source"), ("shares", "account")}
    assert kept == chosen
    return "r1"


OF_RUNS = [
    ["share", "r1"], ["share", "r1", "--json"],
    ["show", "r1"], ["show", "r1", "--json"], ["show", "r1", "--script"], ["show", "r1", "--env"],
    ["show", "r1", "--plot", EVIL], ["show", "r1", "--plot", "nothing"], ["show", EVIL],
    ["metrics", "r1"], ["metrics", "r1", "--csv"], ["metrics", "r1", "--json"], ["metrics", "r1", "--last"],
    ["metrics", "r1", "--last", "--csv"], ["metrics", "r1", EVIL], ["metrics", "r1", EVIL + "none"],
    ["plot", "r1", EVIL], ["plot", "r1", "r2", EVIL], ["plot", "r1", "no" + EVIL], ["plot", "r1", EVIL + "2"],
    ["plot", "r1", EVIL, "-o", "/nowhere/" + EVIL + ".svg"], ["plot", "r1", "r2", EVIL, "-o", "x.svg"],
    ["plot", "r1", "r2", EVIL, "-o", "x.html"],
    ["logs", "r1"], ["logs", "r1", "--err"],
    ["compare", "r1", "r2"], ["compare", "r1", "r2", "--json"], ["compare", "r1", EVIL],
]  # fmt: skip
#: What is tried of verbs of which more is to be tried than their example, with such a word in each place.
MORE = {
    "sbatch": [["sbatch", "-E", "x", "/nowhere/" + EVIL]],
    "run": [["run", "-E", EVIL, "--", "/nowhere/" + EVIL]],
    "templates": [["templates", EVIL], ["templates", "array", "-o", "/nowhere/" + EVIL]],
    "status": [
        ["status"], ["status", "--json"], ["status", "--csv", "--all"], ["status", "--parsable"],
        ["status", "--count"], ["status", "--array"], ["status", "--where", EVIL], ["status", "--user", EVIL],
        ["status", "-o", f"job,name,experiment,args.{EVIL.replace(',', '')},tags,args,latest,nodes,reason"],
        ["status", "--sort", EVIL], ["status", "--since", EVIL], ["status", "--state", EVIL],
        ["status", EVIL], ["status", "-c", EVIL], ["status", "-o", EVIL],
    ],
    **{
        verb: [command for command in OF_RUNS if command[0] == verb]
        for verb in ("show", "metrics", "plot", "logs", "compare")
    },
    "export": [
        ["export", "r1", "--to", "/nowhere/" + EVIL + ".csv"],
        ["export", "-E", EVIL, "--to", "/nowhere/a.csv"],
    ],
    "link": [
        ["link", "r1", EVIL, "r2"], ["link", "r1", EVIL, EVIL], ["link", "r1", "no" + EVIL, "r2", "--remove"],
    ],
    "experiment": [
        ["experiment", "list"], ["experiment", "list", "--json"], ["experiment", "show", EVIL],
        ["experiment", "show", "no" + EVIL], ["experiment", "rename", "other", EVIL],
        ["experiment", "rename", "other", "other" + EVIL], ["experiment", "delete", EVIL],
        ["experiment", "delete", "-y", "other" + EVIL],
    ],
    "delete": [["delete", "r1"], ["delete", EVIL]],
    "setup": [["setup", "/nowhere/" + EVIL], ["setup", "--user", EVIL]],
    "collector": [["collector", "--status"], ["collector", "--status", "--json"]],
    "prune": [
        ["prune", "--older-than", "1d"], ["prune", "--older-than", EVIL],
        ["prune", "--older-than", "1d", "-E", EVIL],
    ],
    "doctor": [["doctor"], ["doctor", "-c", EVIL]],
    "completion": [["completion", EVIL]],
}  # fmt: skip


def tried(verb: str) -> list[list[str]]:
    """Return what is tried of a verb, and words and options that it does not know."""
    example = [verb, *EXAMPLES.get(verb, ())]
    evil = [[*example[:place], EVIL, *example[place + 1 :]] for place in range(1, len(example))]
    unknown = [[verb, f"--{EVIL}"], [verb, EVIL, EVIL + "2"], [verb, "a\udcff\udc9b2J"]]
    return [*MORE.get(verb, [example, *evil]), *unknown]


def told_in_terminals(database, tmp_path, commands):
    names = {f"HPCTRACK_DSN_{name.upper()}": value for name, value in database.dsn.items()}
    more = {
        "HPCTRACK_DATA_DIR": database.data_dir,
        "HPCTRACK_SPOOL": str(tmp_path / "spool"),
        "COLUMNS": "300",
    }
    paths = {"HOME": str(tmp_path), "PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", IN_TERMINALS], input=json.dumps(commands), capture_output=True, text=True,
        check=False, cwd=tmp_path, env={**os.environ, **names, **more, **paths, "TERM": "xterm-256color"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_is_tried_is_a_verb():
    assert {*MORE, *EXAMPLES, *WITHOUT_CONFIGURATION} <= set(VERBS)


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_nothing_that_a_verb_says_commands_the_terminal(database, spoilt, tmp_path):
    ours = [verb for verb in VERBS if verb != "psql"]  # which speaks for itself
    commands = [command for verb in ours for command in tried(verb)]
    told = told_in_terminals(database, tmp_path, commands)
    wrong = []
    for command, (code, said) in zip(commands, told, strict=True):
        bad = forbidden(said)
        # Scripts and what programs said have lines, and so have cells of CSV.
        if not {"--csv", "--script"} & set(command) and command != ["show", "r1"]:
            bad |= set(re.findall(r"^\s*!fake", said, re.MULTILINE))
        if bad or code == 70 or "Traceback" in said:
            named = " ".join(word.replace(EVIL, "EVIL") for word in command)
            wrong.append(f"{named}: {code} {sorted(bad)} {ascii(said)[-300:]}")
    assert not wrong, "\n".join(wrong)


def test_json_is_exact_and_csv_has_no_formulas(cli, spoilt):
    (first, _) = json.loads(cli("status", "--json")[1])["runs"]
    assert first["name"] == first["experiment"] == EVIL
    assert first["last"] == {EVIL: 1.5, "word": EVIL}
    for command in (["status", "--csv", "-o", "run,name,step,args"], ["metrics", "r1", "--csv"]):
        rows = list(csv.reader(io.StringIO(cli(*command)[1])))
        cells = [cell for row in rows for cell in row]
        assert "'" + EVIL in cells
        assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in cells)


READS = (
    "status", "status --json", "status --csv --all", "status --parsable", "status -o args,tags,latest",
    "status --where args.a.a=1", "show r1", "show r1 --json", "compare r1 r2", "compare r1 r2 --json",
    "experiment list", "experiment list --json", "experiment show e", "experiment show e --json",
    "metrics r1", "metrics r1 --json", "metrics r1 --csv", "metrics r1 --last --json",
)  # fmt: skip


@pytest.mark.parametrize("depth", [100, 127])
def test_values_nested_as_deep_as_fits_are_read_by_all(printed, connection, insert, depth):
    nested = json.dumps(0)
    for level in range(depth - 1):
        nested = f'{{"a": {nested}}}' if level % 2 else f"[{nested}]"
    nested = f'{{"a": {nested}}}'
    experiment = insert("experiments", name="e")
    connection.execute("UPDATE experiments SET tags = %s", (nested,))
    for number in (1, 2):
        insert("runs", experiment_id=experiment, status="RUNNING", slurm_job_id=number)
        connection.execute("INSERT INTO run_latest (run_id, last) VALUES (%s, %s)", (number, nested))
        connection.execute("INSERT INTO metrics (run_id, extra) VALUES (%s, %s)", (number, nested))
    connection.execute("UPDATE runs SET args = %(it)s, tags = %(it)s, env = %(it)s", {"it": nested})
    for command in READS:
        assert printed(*command.split())
    with pytest.raises(psycopg.errors.CheckViolation):
        deep = '{"a": ' * 900 + "0" + "}" * 900
        connection.execute("UPDATE runs SET args = %s WHERE id = 1", (deep,))


def test_a_large_value_of_one_run_is_in_nobodys_way(cli, connection, insert):
    experiment = insert("experiments", name="e")
    for number in range(1, 4):
        insert("runs", experiment_id=experiment, status="RUNNING", slurm_job_id=number, args={"lr": number})
    large = {"text": "x" * 90_000, "many": [str(uuid.uuid4()) for _ in range(2000)]}
    for column in ("args", "tags"):
        connection.execute(
            sql.SQL("UPDATE runs SET {} = %s WHERE id = 2").format(sql.Identifier(column)), (Jsonb(large),)
        )
    insert("run_latest", run_id=2, last={"text": "y" * 90_000})
    code, out, _ = cli("status", "--json")
    first, second, third = json.loads(out)["runs"]
    assert (code, first["args"], third["args"]) == (0, {"lr": 1}, {"lr": 3})
    assert len(out) < 10_000
    for key in ("args", "tags", "last"):
        assert re.fullmatch(r"too large for a list: \d+ bytes", second[key][""])
    whole = json.loads(cli("show", "r2", "--json")[1])
    assert whole["args"] == whole["tags"] == large
