"""The relay and its way to a collector: loss, other addresses, forgeries; who succeeds a dead relay."""

from __future__ import annotations

import itertools
import os
import signal
import time

from hpctrack.stream.wire import datagrams, layout
from tests.support.relayed_job import LOG, Job, MemoryCollector
from tests.support.waiting import eventually


def test_thirty_percent_loss_in_both_directions(job):
    collector = MemoryCollector(job.key, loss=0.3)
    job.submit()
    job.find_collector_at(collector.address)
    job.run(LOG, LAST="3000", REST="2", flush=600)
    collector.close()
    assert sorted(collector.steps()) == list(range(3000)) and len(collector.messages("fin")) == 1
    assert job.run_folders() == []


def test_a_record_and_a_collector_that_come_late(job):
    process = job.start(LOG, LAST="300", REST="6")
    time.sleep(1.0)
    job.submit()
    time.sleep(1.0)
    collector = MemoryCollector(job.key)
    job.find_collector_at(collector.address)
    eventually(lambda: len(collector.steps()) == 300, 20)
    assert process.poll() is None
    process.wait(60)
    collector.close()
    assert sorted(collector.steps()) == list(range(300)) and job.run_folders() == []


def test_a_collector_that_moves_is_found_again(job, tmp_path):
    first = MemoryCollector(job.key)
    job.submit()
    job.find_collector_at(first.address)
    process = job.start(LOG, LAST="10", REST="8")
    eventually(lambda: len(first.steps()) == 10)
    first.close()
    second = MemoryCollector(job.key)
    second.watermarks, second.bodies = dict(first.watermarks), first.bodies
    job.find_collector_at(second.address)
    with job.journal("shell").open("a") as file:
        file.write("step=10 loss=1\n")
    eventually(lambda: len(second.steps()) == 11, 20)
    process.wait(60)
    second.close()
    assert sorted(second.steps()) == list(range(11)) and len(second.messages("fin")) == 1


def test_several_addresses_are_tried_in_turn(tmp_path):
    job = Job(tmp_path)
    collector = MemoryCollector(job.key)
    job.record = job.record._replace(collector=("127.0.0.1:9", "nowhere.invalid:5", collector.address))
    job.submit()
    job.run(LOG, LAST="10", REST="8")
    collector.close()
    assert sorted(collector.steps()) == list(range(10))


def test_a_relay_that_was_killed_is_succeeded_by_the_next_attempt(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start(LOG, LAST="100", REST="30")
    eventually(lambda: len(collector.steps()) == 100)
    os.kill(job.relay(process), signal.SIGKILL)
    with job.journal("shell").open("a") as file:
        file.write("step=100 loss=1\n")
    job.kill(process)
    assert len(job.run_folders()) == 1
    job.run(LOG, FIRST="101", LAST="200", REST="2", SLURM_RESTART_COUNT="1")
    assert sorted(collector.steps()) == list(range(200))
    assert sorted(collector.attempts.values()).count(1) >= 2 and job.run_folders() == []


def test_a_supervisor_that_is_killed_leaves_a_relay_that_finishes(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start(
        '#!/bin/sh\necho "step=1 loss=1" >> $HPCTRACK_JOURNAL\n'
        'sleep 2\necho "step=2 loss=1" >> $HPCTRACK_JOURNAL\n'
    )
    eventually(lambda: collector.steps() == [1])
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    eventually(lambda: job.run_folders() == [])
    [fin] = collector.messages("fin")
    assert collector.steps() == [1, 2] and (fin["exit_code"], fin["exit_signal"]) == (None, None)
    assert [event["name"] for event in collector.messages("event")] == ["supervisor lost"]


def test_answers_that_are_not_the_collectors_change_nothing(job, collector):
    """Everything is acknowledged under another key, with the MAC of what was sent, or by what was sent."""
    job.submit()
    forger = MemoryCollector(bytes(32))

    def forged(datagram: bytes) -> bytes:
        return datagrams.answer(datagrams.peek(datagram), forger.key, 1 << 40, 1 << 41)

    def grafted(datagram: bytes) -> bytes:
        return forged(datagram)[: -layout.MAC_SIZE] + datagram[-layout.MAC_SIZE :]

    def any_of_them(datagram: bytes) -> bytes:
        return next(kinds)(datagram)

    kinds = itertools.cycle((forged, grafted, bytes))
    forger._take = any_of_them
    job.find_collector_at(f"{forger.address}\n{collector.address}")
    job.run(LOG, LAST="100", REST="6")
    forger.close()
    assert sorted(collector.steps()) == list(range(100))
