"""Runs to read, and verbs that read them."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from tests.support.terminals import Terminal

NOW = datetime.now(timezone.utc)


@pytest.fixture
def run(insert):
    """Insert a run; what is not said is as usual."""
    experiments = {}

    def make(status="RUNNING", experiment="digits", latest=None, **values):
        if experiment not in experiments:
            experiments[experiment] = insert("experiments", name=experiment)
        defaults = {"user_name": "alice", "cluster": "demo", "job_name": "train.sh", "time_created": NOW}
        run_id = insert(
            "runs", experiment_id=experiments[experiment], status=status, **{**defaults, **values}
        )
        if latest is not None:
            insert("run_latest", run_id=run_id, **latest)
        return run_id

    return make


@pytest.fixture
def terminal(database):
    """Start verbs in terminals of their own."""
    opened = []

    def start(*arguments, columns=100, **environ):
        opened.append(Terminal(database, arguments, columns, **environ))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
