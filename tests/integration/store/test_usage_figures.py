"""A figure of usage: a row of `messages.FIGURES`, and every place that asks it."""

from __future__ import annotations

import re

import pytest

from hpctrack.api.client import Client
from hpctrack.store.ingest import messages as ingested
from hpctrack.store.metrics import metric_tables
from hpctrack.store.read import queries
from hpctrack.stream.node import usage
from hpctrack.stream.wire import messages
from hpctrack.view import used
from tests.support.paths import ROOT

MADE_UP = messages.Figure("gpu_s", "float8", "Seconds that GPUs worked", "gpu time", "s")


@pytest.fixture
def made_up(monkeypatch):
    """A figure more, in the one place where figures stand, and something that measures it."""
    figures = (*messages.FIGURES, MADE_UP)
    for module in (messages, ingested, usage, metric_tables):
        monkeypatch.setattr(module, "FIGURES", figures)
    monkeypatch.setattr(messages, "TOTALS", (*messages.TOTALS, MADE_UP))
    monkeypatch.setitem(metric_tables.USAGE, MADE_UP.name, MADE_UP.type)
    monkeypatch.setitem(usage._CGROUP_FIGURES, MADE_UP.name, lambda _cgroups: 7.5)


def test_a_figure_comes_from_the_sampler_to_show(made_up, connection, run, database):
    connection.execute("ALTER TABLE usage ADD COLUMN gpu_s double precision")
    run_id = run()
    line = messages.line(usage.Sampler("n1", None, ("HPCTRACK_TEST_MARK", "none")).sample())
    kind, _, text = line.decode().removeprefix("!").partition(" ")
    sample = messages.read(kind, text)
    assert sample is not None
    ingested.store(connection, [messages.RunMessage(run_id, 0, sample)])
    [total] = queries.usage(connection, run_id)
    assert total.totals["gpu_s"] == 7.5
    assert used.sampled(total)["gpu time"] == "7.5 s"
    with Client(settings=database) as client:
        assert client.run(run_id).usage()["gpu_s"].tolist() == [7.5]


def test_the_table_has_a_column_for_each_figure(connection):
    query = """
        SELECT attname::text, typname::text, col_description(attrelid, attnum)
        FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
        WHERE attrelid = 'usage'::regclass AND attnum > 0 ORDER BY attnum
    """
    _, _, _, _, *columns = connection.execute(query).fetchall()
    assert columns == [(figure.name, figure.type, figure.meaning) for figure in messages.FIGURES]


def test_the_page_on_json_lists_each_total():
    page = (ROOT / "docs/json.md").read_text("utf-8")
    [row] = re.findall(r"^\| `usage` \|.*$", page, re.MULTILINE)
    assert {figure.name for figure in messages.TOTALS} <= set(re.findall(r"`(\w+)`", row))
