"""A tracked run, as the script finds it."""

from __future__ import annotations

import pytest

from hpctrack.script import calls, ranks

VARIABLES = (
    "SLURM_JOB_ID",
    "HPCTRACK_JOB_ID",
    "HPCTRACK_RUN_DIR",
    "HPCTRACK_SPOOL_DIR",
    "HPCTRACK_ATTEMPT",
    "HPCTRACK_RANKS",
    "HPCTRACK_JOURNAL_CAP",
    ranks.OUTSIDE,
    *ranks.VARIABLES,
)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A tracked run, as its supervisor makes it; the module as it is in a fresh process."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(calls, "_state", {})
    monkeypatch.setattr(calls, "_packers", {})
    monkeypatch.setattr(calls, "_warned", set())
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("HPCTRACK_JOB_ID", "14")
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setenv("HPCTRACK_RUN_DIR", str(folder))
    monkeypatch.setenv("HPCTRACK_SPOOL_DIR", str(tmp_path / "spool" / "journals" / "c.14.0"))
    monkeypatch.setenv("HPCTRACK_ATTEMPT", "2")
    yield folder
    opened = calls._state.get("writer")
    if opened is not None:
        opened.close()
