"""What several tests of ingestion need."""

from __future__ import annotations

import pytest

from hpctrack.store import ingestion


@pytest.fixture
def run(insert):
    """Insert a run; returns its id."""
    experiment = insert("experiments", name="e")
    return lambda: insert("runs", experiment_id=experiment, status="RUNNING")


@pytest.fixture
def observed():
    return []


@pytest.fixture
def ingest(connection, observed):
    def observe(_connection, messages):
        observed.extend(messages)
        return frozenset(message.run_id for message in messages if message.kind == "fin")

    return ingestion.Ingestion(connection, observe, auto_columns=True)


@pytest.fixture
def plain(connection):
    """Ingestion that adds no columns."""
    return ingestion.Ingestion(connection, lambda _connection, _messages: frozenset())
