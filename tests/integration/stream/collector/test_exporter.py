"""The collector's figures for Prometheus: each moves when what it counts happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid

import pytest

from hpctrack.stream.wire import datagrams
from tests.support.collectors import Collector
from tests.support.commands import PROGRAM, environment
from tests.support.ports import free_port
from tests.support.prometheus import scrape
from tests.support.sender import Sender, message, rows
from tests.support.waiting import eventually

NAME = b"journal1"


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def settings(settings):
    return settings._replace(metrics_port=free_port())


@pytest.fixture
def collector(settings):
    started = Collector(settings)
    eventually(lambda: is_open(settings.metrics_port))
    yield started
    started.end(signal.SIGKILL)


def test_what_happens_is_counted(connection, settings, collector, submit):
    _, name, secret = submit()
    sender = Sender(collector.address(), name, secret)
    sender.ship(NAME, [rows(0), rows(3), message("args", lr=1)])
    header = sender.header(NAME, 0, 100)
    good = datagrams.seal(sender.key, header, rows(0))
    sender.send(good)  # again
    sender.send(good[:-1] + bytes([good[-1] ^ 1]), b"x" * 100)
    sender.send(datagrams.seal(sender.key, sender.header(NAME, 500, 600), rows(9)))  # beyond a gap
    connection.execute("ALTER TABLE metrics ADD CONSTRAINT small CHECK (x < 1000)")
    sender.ship(NAME, [rows(0), rows(3), message("args", lr=1), rows(2000)])

    def counted():
        scraped = scrape(settings)
        arrived = scraped["refused_datagrams_total wrong magic"] and not scraped["queued_datagrams"]
        return scraped if arrived else None

    scraped = eventually(counted)
    assert scraped["stored_rows_total"] == 6
    assert scraped["stored_messages_total"] == 1
    assert scraped["stored_rejected_total"] == scraped["rejected_rows_total 23514"] == 3
    assert scraped["refused_datagrams_total wrong MAC"] == 1
    assert scraped["refused_datagrams_total wrong magic"] == 1
    assert scraped["arrived_datagrams_total committed"] >= 1
    assert scraped["arrived_datagrams_total held"] == 1
    assert scraped["held_bytes"] > 0
    assert scraped["open_streams"] == 1
    assert scraped["commit_seconds_count"] == scraped["stored_batches_total"] >= 1
    assert scraped["commit_seconds_sum"] > 0
    assert scraped["received_datagrams_total"] >= 7
    assert scraped["received_bytes_total"] > 700
    assert (scraped["postgresql_up"], scraped["reconciling"]) == (1, 0)
    assert "slurm_up" not in scraped, "who does not ask Slurm says nothing of it"
    assert collector.end() == 0


def test_an_unknown_run_is_counted(settings, collector):
    sender = Sender(collector.address(), uuid.uuid4(), os.urandom(32))
    sender.send(datagrams.seal(sender.key, sender.header(NAME, 0, 100), rows(0)))
    eventually(lambda: scrape(settings)["refused_datagrams_total unknown run"])


def failing(settings, **environ) -> str:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, "collector", "--no-reconcile"],
        env={**environment(settings), **environ}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert run.returncode == 69
    assert "Traceback" not in run.stderr
    return run.stderr.splitlines()[-1]


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_a_port_that_is_taken_is_one_clear_line(settings):
    with socket.create_server(("127.0.0.1", settings.metrics_port)):
        assert f"metrics can't be served on 127.0.0.1 port {settings.metrics_port}" in failing(settings)


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
def test_without_the_package_one_line_says_what_to_install(settings, tmp_path):
    (tmp_path / "prometheus_client.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    assert "pip install 'hpctrack[prometheus]'" in failing(settings, PYTHONPATH=path)
