"""Two hosts that datagrams really have to cross: a node in a network namespace, and a firewall between."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.chain import Chain
from tests.support.journals import stored
from tests.support.network import Network, network_of_two
from tests.support.site_of_fakes import Site
from tests.support.waiting import eventually

#: Logs until it is told to end; what it logged last stands in a file.
SCRIPT = """\
#!/bin/sh
exec "$PYTHON" -c '
import hpctrack, os, time
step = 0
while not os.path.exists("enough") or step < 100:
    hpctrack.log(step=step, loss=step / 7)
    step += 1
    if step >= 100:
        time.sleep(0.05)
print(step)
'
"""
DETOUR = "no answer from the collector: journals go through the spool"


@pytest.fixture
def network():
    yield from network_of_two()


class Job:
    """A job that was submitted on the head and runs on the node, as Slurm would start it."""

    def __init__(self, site: Site, network: Network) -> None:
        self.work = site.work
        code, _, errors = site.sbatch(
            site.script(SCRIPT), environ={"HPCTRACK_FLUSH": "2s", "HPCTRACK_NODE_DIR": str(site.folder)}
        )
        assert code == 0, errors
        node = site.folder / "slurm_script"
        shutil.copy(site.fake / "script", node)
        node.chmod(0o700)
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(site.folder), "PYTHON": sys.executable,
            "SLURM_JOB_ID": "14", "SLURM_CLUSTER_NAME": "fake", "SLURMD_NODENAME": "n1",
        }  # fmt: skip
        self.process = subprocess.Popen(
            network.on_node(str(node)), env=environ, cwd=self.work, stdin=subprocess.DEVNULL,
            stdout=(self.work / "out").open("w"), stderr=(self.work / "err").open("w"),
        )  # fmt: skip

    def end(self) -> dict[tuple[int, float], dict[str, float]]:
        """Let it end; return what it has logged."""
        (self.work / "enough").touch()
        assert self.process.wait(60) == 0, (self.work / "err").read_text()
        assert (self.work / "err").read_text() == ""
        return {(step, 0.0): {"loss": step / 7} for step in range(int((self.work / "out").read_text()))}

    def close(self) -> None:
        """End what a test that failed has left: the script has a process group of its own."""
        (self.work / "enough").touch()
        self.process.wait(30)


class Head:
    """What one sees there."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def stored(self) -> dict[tuple[int, float], dict[str, float]]:
        return stored(self.chain.connection, self._run())

    def _run(self) -> int:
        return self.chain.connection.execute("SELECT max(id) FROM runs").fetchone()[0]

    def shown(self) -> dict:
        done = self.chain.hpctrack("show", f"r{self._run()}", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def told(self) -> list[str]:
        """Return what the run's timeline says that happened on the node."""
        query = "SELECT raw FROM transitions WHERE run_id = %s AND source = 'relay' AND status IS NULL"
        return [raw for (raw,) in self.chain.connection.execute(query, [self._run()])]

    def says(self, what: str) -> bool:
        """Whether the relay has said so, to whoever reads its journal."""
        journals = self.chain.folder.rglob("*.relay.journal")
        return any(what.encode() in journal.read_bytes() for journal in journals)

    def check(self, logged) -> None:
        assert self.stored() == logged
        assert self.chain.accounts(self._run()) == (len(logged), 0, 0)


@pytest.fixture
def server(wheel_server):
    return wheel_server


@pytest.fixture
def site(tmp_path, database):
    return Site(tmp_path, database)


@pytest.fixture
def head(site, network, connection):
    settings = site.settings._replace(collector_bind=network.head, auto_columns=True)
    chain = Chain(settings, connection, site.folder)
    chain.collect()
    yield Head(chain)
    chain.close()


@pytest.fixture
def job(site, network, head):
    """Submit and start the job."""
    started = []

    def run():
        started.append(Job(site, network))
        return started[-1]

    yield run
    for process in started:
        process.close()


def test_datagrams_cross(head, job):
    running = job()
    eventually(lambda: len(head.stored()) >= 100)
    head.check(running.end())
    assert head.told() == [] and head.chain.spooled() == []


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_what_the_network_loses_is_sent_again(network, head, job, share):
    network.lose(share)
    running = job()
    eventually(lambda: len(head.stored()) >= 100)
    time.sleep(3)
    logged = running.end()
    if head.chain.spooled():  # the end of the job does not wait for a network like this
        assert head.chain.hpctrack("sync").returncode == 0
    eventually(lambda: len(head.stored()) == len(logged))
    head.check(logged)


def test_a_firewall_from_the_start(network, head, job):
    """The job ends on time, all it said is in the spool, and the timeline says why it came late."""
    network.drop(begin=True)
    running = job()
    eventually(lambda: head.says(DETOUR))  # a job that ends sooner says nothing of it
    logged = running.end()
    assert head.stored() == {} and head.chain.spooled()
    for _ in range(2):
        assert head.chain.hpctrack("sync").returncode == 0
        head.check(logged)
    assert head.told() == [DETOUR] and head.chain.spooled() == []
    assert DETOUR in head.chain.hpctrack("show", "14").stdout.replace("\n", " ")


@pytest.mark.slow
def test_a_firewall_that_comes_and_goes(network, head, job):
    """Half a minute after the first silence metrics come through the spool while the job runs."""
    running = job()
    eventually(lambda: len(head.stored()) >= 100)
    network.drop(begin=True)
    before = len(head.stored())
    eventually(lambda: len(head.stored()) > before + 300, 120)
    assert running.process.poll() is None and head.told() == [DETOUR]
    network.drop(begin=False)
    eventually(lambda: head.chain.spooled() == [], 60)
    head.check(running.end())


def test_a_host_with_ipv6_alone_is_tracked_like_any_other(tmp_path):
    script = """
        ip link set lo up; ip address delete 127.0.0.1/8 dev lo
        hpctrack run -- sh -c 'echo step=1 loss=0.5 >> $HPCTRACK_JOURNAL; sleep 1'
        hpctrack sync; hpctrack status --csv -o state,rows
    """
    own = {"HPCTRACK_DATA_DIR": str(tmp_path / "data"), "HPCTRACK_IDLE_EXIT": "1s"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], env={**os.environ, **own, "PATH": path}, cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == ["state,rows", "COMPLETED,1"], done.stderr
