"""A job under a real supervisor and relay, and a collector of its datagrams; both end with their test."""

from __future__ import annotations

import pytest

from tests.support.relayed_job import Job, MemoryCollector


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    yield job
    for process in job.started:
        if process.poll() is None:
            job.kill(process)


@pytest.fixture
def collector(job):
    collector = MemoryCollector(job.key)
    yield collector
    collector.close()
