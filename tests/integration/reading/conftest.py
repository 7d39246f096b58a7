"""Runs to read, and verbs that read them."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from hpctrack.cli import main

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
def cli(database, monkeypatch, capsys):
    """Run a verb in this process; returns exit code, stdout, stderr."""
    for name, value in database.dsn.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name.upper()}", value)

    def call(*arguments):
        code = main.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call
