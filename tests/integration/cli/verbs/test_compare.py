"""hpctrack compare on real PostgreSQL."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from tests.support.paths import DOCS

NOW = datetime.now(timezone.utc)
DOCUMENTED = DOCS / "json.md"
LONG = "/opt/cuda/bin:/usr/local/bin:/usr/bin:/bin"


@pytest.fixture
def pair(connection, insert, run):
    """Insert two runs, r1 and r2, that differ in a little of everything."""
    connection.execute("ALTER TABLE metrics ADD COLUMN loss double precision")
    for lr, path, commit, script, losses, hours in (
        (0.1, LONG, "aaaa", "#!/bin/sh\npython train.py\n", (3, 1, 2), 1),
        (0.2, "/usr/bin", "bbbb", "#!/bin/sh\npython train.py --fast\n", (4, 0.5), 2),
    ):
        name = uuid.uuid4()
        insert(
            "submissions", uuid=name, user_name="alice", time=NOW, script=script,
            submit_line="sbatch train.sh", git={"commit": commit, "branch": "main"},
            env={"PATH": path, "HOME": "/home/alice", "SLURM_SUBMIT_DIR": path},
        )  # fmt: skip
        run_id = run(
            submission=name, args={"lr": lr, "model": {"depth": 3}}, tags={"best": True}, status="COMPLETED",
            time_started=NOW - timedelta(hours=hours), time_ended=NOW, partition="gpu",
            latest={"last": {"loss": losses[-1]}},
        )  # fmt: skip
        insert(
            "attempts", run_id=run_id, attempt=0, status="COMPLETED",
            time_started=NOW - timedelta(hours=hours), time_ended=NOW,
            resources={"alloc_tres": {"cpu": 4}, "req_tres": {"mem": hours * 2**30}},
        )  # fmt: skip
        for step, loss in enumerate(losses):
            insert("metrics", run_id=run_id, step=step, loss=loss)


def test_what_differs_stands_side_by_side(cli, pair):
    code, out, err = cli("compare", "r1", "r2")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for expected in (
        "r1 train.sh COMPLETED",
        "lr 0.1 0.2",
        "args (1 alike)",
        "commit aaaa bbbb",
        "elapsed 1:00:00 2:00:00",
        "memory requested 1 GiB 2 GiB",
        "-python train.py",
        "+python train.py --fast",
        f"r1 {LONG}",
        "r2 /usr/bin",
        "loss last 2 0.5",
        "min 1 0.5",
        "max 3 4",
    ):
        assert expected in lines, out
    assert "depth" not in out
    assert "HOME" not in out
    assert "SLURM_SUBMIT_DIR" not in out
    assert "SLURM_SUBMIT_DIR" in cli("compare", "r1", "r2", "--all")[1]


def test_json_has_the_documented_keys(cli, pair):
    code, out, _ = cli("compare", "r2", "r1", "--json")
    told = json.loads(out)
    assert code == 0
    section = (
        DOCUMENTED.read_text(encoding="utf-8")
        .split("`hpctrack compare RUN RUN... --json`")[1]
        .split("\n## ")[0]
    )
    assert set(told) == set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    assert told["runs"] == ["r2", "r1"]
    assert told["differences"]["args"] == {"lr": [0.2, 0.1]}
    assert told["differences"]["run"]["elapsed"] == [7200, 3600]
    assert told["metrics"]["loss"] == {"last": [0.5, 2], "minimum": [0.5, 1], "maximum": [4, 3]}
    assert told["scripts"][0].startswith("--- r2\n+++ r1\n")


def test_tasks_of_an_array_and_runs_without_anything_can_be_compared(cli, insert, run):
    name = uuid.uuid4()
    insert("submissions", uuid=name, user_name="alice", time=NOW)
    for task in range(3):
        run(submission=name, task=task, array_job_id=14, array_task_id=task, args={"seed": task})
    code, out, _ = cli("compare", "14")
    assert code == 0
    assert re.search(r"^ +seed +0 +1 +2$", out, re.MULTILINE)
    assert "metrics" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["r1"], 2, "name at least two runs"), (["r1", "r9"], 3, "no run r9"), ([], 2, "Missing argument")],
)
def test_failures_are_one_line(cli, run, arguments, code, said):
    run()
    exit_code, out, err = cli("compare", *arguments)
    assert (exit_code, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1
