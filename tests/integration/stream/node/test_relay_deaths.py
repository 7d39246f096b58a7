"""Processes of a job that die alone: what the others then see to. Without Slurm."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest

from tests.support.waiting import eventually

_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def orphanage():
    """Take in orphans, and reap none until the end: as PID 1 of many a container does."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    orphans: list[int] = []
    yield orphans
    prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    for pid in orphans:
        os.waitpid(pid, 0)


def test_a_script_that_nobody_reaps_has_ended_all_the_same(job, collector, orphanage):
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    process = job.start("#!/bin/sh\necho $$ > pid\nread line < go\n")
    relay, script = job.relay(process), eventually(lambda: _number(job.folder / "pid"))
    eventually(lambda: collector.messages("start"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    orphanage += [relay, script]
    eventually(lambda: collector.messages("event"))
    os.kill(script, signal.SIGKILL)
    eventually(lambda: job.run_folders() == [])
    assert len(collector.messages("fin")) == 1


def test_how_a_script_ended_is_known_though_its_relay_was_killed(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    process = job.start('#!/bin/sh\nread line < go\necho "step=1 loss=1" >> $HPCTRACK_JOURNAL\nexit 3\n')
    relay = job.relay(process)
    eventually(lambda: collector.messages("start"))
    os.kill(relay, signal.SIGKILL)
    (job.folder / "go").write_text("on\n")
    assert process.wait(30) == 3
    assert collector.messages("fin") == []
    assert job.sync(collector) == [True]
    [fin] = collector.messages("fin")
    assert (fin["exit_code"], fin["exit_signal"], collector.steps()) == (3, None, [1])


def test_how_a_script_ended_is_known_though_its_relay_stood_still(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    process = job.start("#!/bin/sh\nread line < go\nexit 3\n", flush=0.1)
    relay = job.relay(process)
    eventually(lambda: collector.messages("start"))
    os.kill(relay, signal.SIGSTOP)
    (job.folder / "go").write_text("on\n")
    assert process.wait(30) == 3
    assert collector.messages("fin") == []
    assert job.sync(collector) == [True]
    [fin] = collector.messages("fin")
    assert (fin["exit_code"], fin["exit_signal"]) == (3, None)


@pytest.mark.parametrize("closed", [(0, 1, 2), (0,), (1,), (0, 2), (1, 2)])
@pytest.mark.parametrize("mode", ["supervise", "command"])
def test_standard_streams_that_are_closed_are_nobodys(job, collector, closed, mode):
    """Neither ours, for which they would be taken, nor the script's."""
    job.submit()
    job.find_collector_at(collector.address)
    look = "#!/bin/sh\nfor n in 0 1 2; do [ -e /proc/self/fd/$n ] || printf %s $n >> closed; done\nexit 4\n"
    shut = " ".join(f"{descriptor}>&-" for descriptor in closed)
    process = job.start(look, mode=mode, prefix=("/bin/sh", "-c", f'exec "$@" {shut}', "sh"))
    assert process.wait(60) == 4
    assert (job.folder / "closed").read_text() == "".join(map(str, closed))
    eventually(lambda: job.run_folders() == [])
    assert [fin["exit_code"] for fin in collector.messages("fin")] == [4]
    assert collector.messages("event") == []


def test_rows_of_other_nodes_are_delivered_though_the_relay_never_saw_them(job, collector):
    job.submit()
    os.mkfifo(job.folder / "go")
    process = job.start(
        "#!/bin/sh\nread line < go\nHPCTRACK_RUN_DIR=/nowhere"
        ' "$PYTHON" -S -c "import hpctrack; hpctrack.log(step=7, loss=1.0)"\n',
        SLURM_JOB_NUM_NODES="2",
    )
    os.kill(job.relay(process), signal.SIGKILL)
    (job.folder / "go").write_text("on\n")
    assert process.wait(30) == 0
    job.sync(collector)
    assert collector.steps() == [7]


def _number(path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0
