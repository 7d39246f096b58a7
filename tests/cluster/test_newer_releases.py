"""What not every release of Slurm can do. What this one can't is skipped, with the release that can."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.lab import RESTARTED, SAFE, Lab, opened
from tests.support.local_conf import configured

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

#: Uses two seconds of processor time and 40 MB, waits for a file, and uses one more second.
WORK = """\
cat > {name}.py <<'END'
import os, time
ballast = bytearray(40_000_000)
def work(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
work(2)
time.sleep(1.5)
open("{name}.ready", "w").close()
while not os.path.exists("{name}.go"):
    time.sleep(0.1)
work(1)
END
/usr/bin/python3 {name}.py
"""


@pytest.fixture
def release(cluster: Any) -> tuple[int, int]:
    """Year and month of Slurm's release."""
    said = subprocess.run(
        ["sbatch", "--version"], check=True, env=cluster.env(), capture_output=True, text=True
    )
    match = re.search(r"(\d+)\.(\d+)", said.stdout)
    assert match, said
    return int(match[1]), int(match[2])


@pytest.fixture
def needs(release: tuple[int, int]) -> Callable[[int, int], None]:
    """Skip where Slurm is older."""

    def check(year: int, month: int) -> None:
        if release < (year, month):
            pytest.skip(f"Slurm {year}.{month:02d} and newer")

    return check


@pytest.fixture(scope="module")
def lab(cluster: Any, wheel_server: Any) -> Iterator[Lab]:
    """A database and a reconciler; jobs have an external step, and expedited requeues are allowed."""
    contain = ["PrologFlags=Contain"] if cluster.layout.cgroup else []
    with (
        configured(cluster, *contain, "SlurmctldParameters=enable_expedited_requeue"),
        opened(cluster, wheel_server, "cluster_newer") as lab,
    ):
        yield lab


def ended(lab: Lab, name: str, seconds: float = 60) -> dict[str, Any]:
    """Wait until a run is over, and nothing is to be looked up any more soon."""
    lab.until(lambda: bool(lab.run(name)["time_ended"]), seconds, f"the end of {name}")
    return lab.run(name)


@pytest.mark.parametrize(
    ("since", "size", "change"),
    [((22, 5), ("-N2", "-n2"), "NumNodes=1"), ((26, 5), ("--mem=200",), "MinMemoryNode=100")],
    ids=["nodes", "memory"],
)
def test_a_job_that_changes_its_size_while_it_runs(
    lab, cluster, release, needs, await_until, since, size, change
):  # fmt: skip
    needs(*since)
    if not cluster.layout.cgroup and "Memory" in change:
        pytest.skip("jobs have an external step where there are control groups")
    name = change.partition("=")[0]
    job = lab.submit(name, *size, "-J", name, wrap=WORK.format(name=name))
    lab.command("rm", "-f", f"{name}.ready", f"{name}.go")
    await_until(lambda: lab.command("sh", "-c", f"ls {name}.ready || :"), 60, "it works")
    lab.step()
    lab.root("scontrol", "update", f"JobId={job}", change)
    lab.until(lambda: len(lab.accounted(job)) == 2, 30, "its second row")
    lab.command("touch", f"{name}.go")
    run = ended(lab, name)
    [attempt] = lab.attempts(name)
    assert (run["status"], run["attempt"]) == ("COMPLETED", 0)
    first, last = lab.accounted(job)
    assert [first["State"], last["State"]] == ["RESIZING", "COMPLETED"]
    began, over = attempt["time_started"].timestamp(), attempt["time_ended"].timestamp()
    assert (began, over) == (int(first["Start"]), int(last["End"]))
    used = attempt["resources"]
    assert used["elapsed_s"] == over - began
    if release >= (26, 5):
        assert 2.5 < used["cpu_s"] < 10
        assert used["max_rss_bytes"] > 40_000_000
    else:
        assert "cpu_s" not in used, "Slurm has not measured it"
    assert [status for _, status in lab.timeline(name)] == ["PENDING", "RUNNING", "COMPLETED"]


def test_an_expedited_requeue(lab, needs):
    """Slurm holds the job, since no epilog failed."""
    needs(25, 11)
    script = RESTARTED % 1 + " && exit 0; sleep 2; exit 3"
    job = lab.submit("expedited", *SAFE, "-J", "expedited", "--requeue=expedite", wrap=script)
    lab.until(lambda: lab.run("expedited")["reason"] == "job requeued in held state", 60, "it is held")
    print(
        "expedited: squeue said", list(lab.backend.said[job]), lab.run("expedited"), lab.attempts("expedited")
    )
    lab.command("scontrol", "release", job)
    run = ended(lab, "expedited", 120)
    rows = lab.accounted(job)
    assert [attempt["status"] for attempt in lab.attempts("expedited")] == [row["State"] for row in rows]
    assert (run["status"], run["attempt"]) == ("COMPLETED", 1)


def test_a_heterogeneous_job_with_an_external_component(alice, needs):
    needs(26, 5)
    script = alice.write("mixed.sh", "#!/bin/bash\necho 'loss=1' >> $HPCTRACK_JOURNAL\nexit 3\n")
    done = alice.hpctrack("sbatch", "--parsable", "-n1", ":", "--external", "-n1", script)
    assert "untracked" not in done.stderr
    job = int(done.stdout.split(";")[0])
    shown = alice.ended(job, rows=1)
    alice.run("scancel", str(job), check=False)
    assert (shown["state"], shown["exit_code"]) == ("FAILED", 3)


def test_runs_are_named_by_their_sluids(alice, needs, await_until):
    needs(25, 11)
    script = alice.write("again.sh", f"#!/bin/bash\n{RESTARTED % 1} && exit 0\nsleep 300\n")
    job = alice.sbatch("-H", script)

    def found() -> str:
        return alice.run("squeue", "-h", "-j", str(job), "-O", "SLUID").stdout.strip()

    def is_known(sluid: str) -> bool:
        return alice.hpctrack("show", sluid, "--json", check=False).returncode == 0

    first = found()
    await_until(lambda: is_known(first), 30, f"{first}, which waits")
    alice.run("scontrol", "release", str(job))
    await_until(lambda: alice.shown(job)["state"] == "RUNNING", 30, "it runs")
    assert alice.shown(first.lower())["slurm_job_id"] == job
    alice.run("scontrol", "requeue", str(job))
    alice.ended(job, 60)
    second = alice.run("sacct", "-n", "-X", "-j", str(job), "-o", "SLUID").stdout.strip()
    assert first != second
    assert [alice.shown(sluid)["slurm_job_id"] for sluid in (first, second)] == [job, job]
