"""The page of ``hpctrack collector --status``."""

import io
from contextlib import redirect_stdout
from datetime import datetime, timedelta, timezone
from uuid import UUID

from hpctrack.cli.terminal import collectors as page
from hpctrack.cli.terminal import table
from hpctrack.store.write.collectors import CollectorRow

STARTED = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
STATS = {
    "uptime_s": 205.8, "unknown_runs": 1, "kernel_drops": 0, "rejected": {}, "waiting": 0, "lag_s": 0.0,
    "received": {"datagrams": 1119, "bytes": 256036, "accepted": 1104, "pings": 1, "unknown run": 14},
    "stored": {"batches": 719, "rows": 1051, "messages": 1, "joined": 1047, "pieces": 1047},
    "streams": 59, "held_bytes": 0, "commit_s": 0.0078, "commit_total_s": 16.6691, "trouble": None,
    "slurm_trouble": None, "slurm_passes": 12, "slurm_interval_s": 60.0,
    "slurm_commands": {"sacct": {"commands": 10, "failures": 0, "seconds": 2.704, "longest_s": 0.347}},
}  # fmt: skip


def drawn(stats=STATS, silent=2.0):
    row = CollectorRow(
        UUID(int=1), "head1", 2707, ("10.0.0.1:7755", "10.1.0.1:7755"), STARTED,
        STARTED + timedelta(seconds=206), stats, silent, silent < 30,
    )  # fmt: skip
    out = io.StringIO()
    with redirect_stdout(out):
        table.Output().print(*page.draw(row))
    return out.getvalue().splitlines()


def test_a_healthy_collector():
    head, since, *rest = drawn()
    assert head == "head1, process 2707: live, reconciles"
    assert since.endswith(", for 3:28")
    assert rest == [
        "  listens on  10.0.0.1:7755 10.1.0.1:7755",
        "  received    1,119 datagrams, 250 KiB, 1 ping of hpctrack doctor",
        "  refused     unknown run 15",
        "  stored      1,051 rows, 1 message; 59 journals open",
        "  a commit    23 ms on average of 719, the last 8 ms",
        "  Slurm       asked 12 times, every 1:00 or early",
        "  sacct       10 times, 270 ms on average, 347 ms at most",
    ]


def test_what_is_not_well_is_told():
    stored = {**STATS["stored"], "held": 24, "dropped": 3, "torn": 2, "committed": 5, "ignored": 1}
    asked = {"squeue": {"commands": 4, "failures": 2, "seconds": 40.0, "longest_s": 90.0}}
    shown = drawn(
        {
            **STATS, "stored": stored, "slurm_commands": asked, "slurm_trouble": "squeue: no answer",
            "trouble": "PostgreSQL can't be reached", "waiting": 1200, "lag_s": 3.21, "held_bytes": 2048,
            "kernel_drops": 7, "rejected": {"22003": 2},
        },
        silent=95,
    )  # fmt: skip
    assert shown[0] == "head1, process 2707: silent for 1:35"
    for line in (
        "  trouble       PostgreSQL can't be reached",
        "  waiting       1,200 datagrams for PostgreSQL, 3.2 s; 2 KiB for what is missing before them",
        "  out of order  24 held for what was missing before them, 3 asked for again",
        "  set aside     2 rows refused by PostgreSQL (22003 2), 2 lines damaged",
        "  repeated      6 datagrams, to no effect",
        "  lost          7 datagrams in the kernel (net.core.rmem_max); sent again",
        "                squeue: no answer",
        "  squeue        4 times, 10.0 s on average, 1:30 at most, failed 2 times",
    ):
        assert line in shown


def test_one_that_has_only_begun_or_is_of_another_version():
    for stats in ({}, {"received": None, "stored": {}, "slurm_commands": []}):
        assert drawn(stats)[0] == "head1, process 2707: live, reconciles"
