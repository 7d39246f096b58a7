"""Efficiency in show and in the columns of status, on real PostgreSQL."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timedelta, timezone

import pytest

from tests.support.paths import DOCS

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)
GIB = 1 << 30
COLUMNS = "run,cpus,cputime,cpueff,reqmem,maxmem,memeff,timeeff"


@pytest.fixture
def run(insert):
    """Insert a run that was requeued once; in its second attempt it used little."""
    experiment = insert("experiments", name="e")
    run_id = insert(
        "runs", experiment_id=experiment, status="COMPLETED", time_created=NOW, time_started=NOW,
        time_ended=NOW + timedelta(hours=1), time_limit=timedelta(hours=20), attempt=1, slurm_job_id=14,
    )  # fmt: skip
    for attempt, cpu, memory in ((0, 28000.0, 15 * GIB), (1, 720.0, GIB)):
        insert(
            "attempts", run_id=run_id, attempt=attempt, time_started=NOW, time_ended=NOW + timedelta(hours=1),
            resources={
                "elapsed_s": 3600, "cpu_s": cpu, "max_rss_bytes": memory,
                "req_tres": {"cpu": 8, "mem": 16 * GIB}, "alloc_tres": {"cpu": 8, "mem": 16 * GIB},
            },
        )  # fmt: skip
    return run_id


def test_show_tells_shares_and_what_was_asked_for_in_vain(printed, run):
    lines = [" ".join(line.split()) for line in printed("show", "14").splitlines()]
    assert "efficiency, attempt 1 cpu 97% of 8 memory 94% of 16 GiB time 5% of 20:00:00" in lines
    assert "efficiency, attempt 2 cpu 2% of 8 memory 6% of 16 GiB time 5% of 20:00:00" in lines
    start = lines.index("Could have asked for less") + 1
    assert lines[start : start + 3] == [
        "kept 0.2 of 8 processors busy: fewer would have done (-c, -n)",
        "used 6 % of its memory: --mem=2G would have done",
        "took 5 % of its time limit: a shorter --time starts sooner",
    ]
    told = json.loads(printed("show", "14", "--json"))
    assert told["hints"] == lines[start : start + 3]
    assert [resources["cpu_efficiency"] for resources in told["resources"]] == [28000 / 28800, 0.025]
    page = (DOCS / "json.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in told["resources"][0])


def test_columns_of_the_latest_attempt(printed, run, insert):
    bare = insert("runs", experiment_id=1, status="PENDING", time_created=NOW)
    _, first, second, _ = printed("status", "--format", COLUMNS).splitlines()
    assert first.split("  ")[0] == f"r{run}"
    assert first.split() == f"r{run} 8 12:00 2% 16 GiB 1 GiB 6% 5%".split()
    assert second.split() == [f"r{bare}", *"-------"]
    for more in ([], ["--all"]):
        rows = csv.DictReader(io.StringIO(printed("status", "--csv", "--format", COLUMNS, *more)))
        found = {row["run"]: row for row in rows}
        assert float(found[f"r{run}"]["cpueff"]) == 0.025
        assert found[f"r{run}"]["maxmem"] == str(GIB)
        assert float(found[f"r{run}"]["cputime"]) == 720
        assert found[f"r{bare}"]["memeff"] == ""


def test_what_runs_is_reckoned_until_now_by_our_samples(printed, connection, insert):
    insert("experiments", name="e")
    now = datetime.now(timezone.utc)
    run_id = insert(
        "runs", experiment_id=1, status="RUNNING", time_created=now, time_started=now - timedelta(hours=1),
        time_limit=timedelta(hours=2), slurm_job_id=15,
    )  # fmt: skip
    insert(
        "attempts", run_id=run_id, attempt=0, time_started=now - timedelta(hours=1),
        resources={"alloc_tres": {"cpu": 2}, "req_tres": {"mem": 4 * GIB}},
    )  # fmt: skip
    for node in ("n1", "n2"):
        insert("usage", run_id=run_id, attempt=0, node=node, time=now, cpu_s=1800.0, memory_bytes=GIB)
    (used,) = json.loads(printed("show", "15", "--json"))["resources"]
    assert used["over"] is False
    assert used["cpu_efficiency"] == pytest.approx(0.5, abs=0.05)
    assert used["memory_efficiency"] == 0.5
    assert used["time_efficiency"] == pytest.approx(0.5, abs=0.05)
    assert "Could have asked for less" not in printed("show", "15")
