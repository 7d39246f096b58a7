"""The relay and disks: what could not be shipped is delivered from the spool, and what was is given back."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from hpctrack.stream.disk import holes
from tests.support.relayed_job import LOG, Job, MemoryCollector
from tests.support.waiting import eventually

RELAY_SECONDS = 31
"""After so many seconds without acknowledgement a relay copies to the spool."""


def test_no_collector_the_job_ends_at_once_and_sync_delivers(job):
    job.submit()
    job.run(LOG, LAST="5000", flush=600)
    assert job.run_folders() == []
    assert {file.kind for file in job.spooled()} == {"relay", "log"}, "the shell has said nothing"
    assert not any(file.whole for file in job.spooled())
    collector = MemoryCollector(job.key)
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(5000)) and len(collector.messages("fin")) == 1
    assert collector.messages("args") == [{"lr": 0.1, "password": "***"}]
    (start,) = collector.messages("start")
    assert start["stdout"] and start["work_dir"]
    assert job.spooled() == [] and job.sync(collector) == []


def test_a_brief_job_that_nobody_answered_makes_no_fuss(job):
    """Its collector may only just have been started: what it said is delivered a moment later."""
    job.submit()
    job.run("#!/bin/sh\necho 'step=1 loss=1' >> $HPCTRACK_JOURNAL\n")
    collector = MemoryCollector(job.key)
    job.sync(collector)
    collector.close()
    assert collector.steps() == [1] and collector.messages("event") == []


def test_syncing_twice_adds_nothing(job, tmp_path):
    job.submit()
    job.run(LOG, LAST="500")
    (folder,) = job.spool.glob("journals/*")
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", folder, copy], check=True)
    collector = MemoryCollector(job.key)
    job.sync(collector)
    subprocess.run(["cp", "-a", copy, folder], check=True)
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(500)) and job.spooled() == []


def test_a_record_that_never_comes_does_not_hold_up_the_job(job):
    job.run("#!/bin/sh\necho 'step=1 loss=1' >> $HPCTRACK_JOURNAL\n", flush=600)
    collector = MemoryCollector(job.key)
    job.submit()
    assert job.sync(collector) == [True]
    collector.close()
    assert collector.steps() == [1] and len(collector.messages("hello")) == 1


def test_sync_delivers_what_a_killed_job_left_on_this_host(job):
    job.submit()
    process = job.start(LOG, LAST="100", REST="30")
    eventually(lambda: b"!args" in job.journal("log").read_bytes())
    job.journal("relay")  # it has the folder's lock by then: a script may be faster
    collector = MemoryCollector(job.key)
    assert job.sync(collector) == []  # it lives
    job.kill(process)
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(100)) and job.run_folders() == []


def test_transport_spool_sends_nothing(tmp_path):
    job = Job(tmp_path, transport="spool")
    collector = MemoryCollector(job.key)
    job.record = job.record._replace(collector=(collector.address,))
    job.submit()
    process = job.start(LOG, LAST="100", REST="4")
    eventually(lambda: {file.kind for file in job.spooled()} == {"relay", "log"})
    eventually(lambda: job.sync(collector) == [False])  # while the relay goes on there: delivered, and left
    assert sorted(collector.steps()) == list(range(100))
    process.wait(30)
    assert (len(collector.messages("start")), len(collector.messages("fin"))) == (1, 0)
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(100)) and len(collector.messages("fin")) == 1
    assert job.spooled() == []


def test_a_spool_that_can_not_be_written_keeps_the_run_folder(job):
    job.submit()
    (job.spool / "journals").write_text("in the way")
    job.run(LOG, LAST="100", flush=600)
    assert len(job.run_folders()) == 1
    (job.spool / "journals").unlink()
    collector = MemoryCollector(job.key)
    assert job.sync(collector) == [True]
    collector.close()
    assert sorted(collector.steps()) == list(range(100)) and job.run_folders() == []


def test_after_half_a_minute_of_silence_journals_are_in_the_spool_while_the_job_runs(job):
    job.submit()
    process = job.start(LOG, LAST="1000", REST="60")
    eventually(lambda: {file.kind for file in job.spooled()} == {"relay", "log"}, RELAY_SECONDS + 30)
    with job.journal("shell").open("a") as file:
        file.write("step=1000 loss=1\n")
    eventually(
        lambda: any(
            file.kind == "shell" and Path(file.path).read_bytes().endswith(b"step=1000 loss=1\n")
            for file in job.spooled()
        )
    )
    log = next(Path(file.path) for file in job.spooled() if file.kind == "log")
    assert log.read_bytes() == job.journal("log").read_bytes()
    collector = MemoryCollector(job.key)
    job.find_collector_at(collector.address)
    eventually(lambda: len(collector.steps()) == 1001, 40)
    eventually(lambda: job.spooled() == [], 20)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)
    collector.close()
    assert sorted(collector.steps()) == list(range(1001)) and len(collector.messages("fin")) == 1
    assert job.run_folders() == [] and list(job.spool.glob("journals/*")) == []


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from another node"])
def test_acknowledged_space_is_given_back(job, collector, elsewhere):
    job.submit()
    job.find_collector_at(collector.address)
    script = LOG.replace("exec", "HPCTRACK_RUN_DIR=/not/on/this/node exec") if elsewhere else LOG
    process = job.start(script, LAST="60000", REST="30")
    eventually(lambda: len(collector.steps()) == 60_000)
    journal = next(job.spool.glob("journals/*/*.log.journal")) if elsewhere else job.journal("log")
    assert journal.stat().st_size > 7 << 20
    try:
        eventually(lambda: journal.stat().st_blocks * 512 < 3 << 20, 15)
    except AssertionError:
        if not holes.punch(os.open(journal, os.O_RDWR), 4096, 4096):
            pytest.skip("the file system can't punch holes")
        raise
    assert journal.read_bytes()[:9] == b"# hpctrac"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)
    assert sorted(collector.steps()) == list(range(60_000))


def test_lines_before_what_the_spool_has_are_counted(job, collector):
    """PostgreSQL was set back before them, and their journal is gone."""
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start(LOG, LAST="3000", REST="3")
    eventually(lambda: len(collector.steps()) == 3000)
    collector.close()
    with job.journal("log").open("a") as file:
        file.write("step=3000 loss=1\n")
    process.wait(60)
    assert [file.lines for file in job.spooled() if file.kind == "log"] == [3000]
    other = MemoryCollector(job.key)
    job.sync(other)
    other.close()
    assert other.steps() == [3000] and max(other.gaps()) == 3000 and other.torn() == 0
