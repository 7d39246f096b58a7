"""slurmctld is reconfigured, or started anew, while jobs complete for their requeue.

From 24.11 on sacct then says ``Restarts 1`` of both executions, for good. Each job is in a database of its
own, whose reconciler looks at other times.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import books
from tests.support.lab import RESTARTED, SAFE, Lab, opened
from tests.support.local_conf import configured, reconfigure

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SCRIPT = RESTARTED % 1 + " && exit 4; sleep 300"
#: Which passes are made: all, all but those between the first start and the last end, only those at the end.
WATCHED, STOPPED, LATE = NAMES = ("watched", "stopped", "late")


@pytest.fixture(scope="module")
def held(cluster: Any) -> Iterator[Path]:
    """A file: while it is there, jobs complete."""
    held, epilog = cluster.directory / "held", cluster.directory / "etc" / "epilog"
    epilog.write_text(f"#!/bin/sh\nwhile [ -e {held} ]; do sleep 0.1; done\n")
    epilog.chmod(0o755)
    with configured(cluster, f"Epilog={epilog}"):
        yield held
        held.unlink(missing_ok=True)


@pytest.fixture
def labs(cluster: Any, wheel_server: Any) -> Iterator[dict[str, Lab]]:
    """A database and a reconciler for each job."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(opened(cluster, wheel_server, f"cluster_{name}")) for name in NAMES}


def said(labs: dict[str, Lab]) -> set[str]:
    """What squeue says of the jobs now."""
    jobs = ",".join(str(lab.jobs[name]) for name, lab in labs.items())
    return set(labs[WATCHED].root("squeue", "-a", "-h", "-j", jobs, "-o", "%T").split())


def is_over(lab: Lab, name: str) -> bool:
    """Whether accounting has the ends of both executions."""
    return [row["State"] for row in lab.accounted(lab.jobs[name])] == ["REQUEUED", "FAILED"]


@pytest.mark.parametrize(
    "away",
    [
        pytest.param(False, id="reconfigured"),
        pytest.param(True, id="restarted without slurmdbd", marks=pytest.mark.slow),
    ],
)
def test_both_executions_are_told(labs, cluster, held, await_until, away):
    for name, lab in labs.items():
        lab.submit(name, *SAFE, "-J", name, "--mem=50", wrap=SCRIPT)
    for name in (WATCHED, STOPPED):
        labs[name].until_status(name, "RUNNING")
    await_until(lambda: said(labs) == {"RUNNING"}, 30, "all run")
    held.touch()
    for name, lab in labs.items():
        lab.command("scontrol", "requeue", lab.jobs[name])
    await_until(lambda: said(labs) == {"COMPLETING"}, 30, "all complete")
    watched = labs[WATCHED]
    try:
        try_a_pass(watched)
        if away:
            cluster.daemon("stop", "slurmdbd")
            cluster.daemon("restart", "slurmctld")
        else:
            reconfigure(cluster)
        try_a_pass(watched)
        held.unlink()
        while said(labs) - {"RUNNING"}:
            try_a_pass(watched)
    finally:
        cluster.daemon("start", "slurmdbd")
    for name, lab in labs.items():
        await_until(lambda lab=lab, name=name: is_over(lab, name), 90, f"accounting of {name}")
        lab.until(lambda lab=lab, name=name: lab.run(name)["time_ended"], 60, f"the end of {name}")
    for name, lab in labs.items():
        check(lab, name)


def try_a_pass(lab: Lab) -> None:
    """Make a pass; without slurmdbd it may fail."""
    try:
        lab.step()
    except (AssertionError, subprocess.TimeoutExpired):
        lab.connection.rollback()


def check(lab: Lab, name: str) -> None:
    """Compare with accounting."""
    rows, attempts = lab.accounted(lab.jobs[name]), lab.attempts(name)
    assert [attempt["status"] for attempt in attempts] == ["REQUEUED", "FAILED"]
    for row, attempt in zip(rows, attempts, strict=True):
        books.assert_equal(row, attempt)
    assert (lab.run(name)["status"], lab.run(name)["attempt"]) == ("FAILED", 1)
