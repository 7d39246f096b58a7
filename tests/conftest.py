"""What holds for all tests; fixtures by subject stand in tests/fixtures."""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

from hpctrack.settings import Settings

pytest_plugins = [
    f"tests.fixtures.{name}"
    for name in ("chain", "cli", "ingestion", "postgres", "roles", "runs", "slurm", "wheels")
]

# A property holds however slow the machine is that draws the examples. They are the same ones in every run,
# so that a change is judged by what it changes; `make explore` looks for new ones.
hypothesis.settings.register_profile(
    "same", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)
hypothesis.settings.register_profile(
    "new", hypothesis.settings.get_profile("same"), derandomize=False, max_examples=5_000
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# A shell that starts the tests in its background has them, and all that they start, ignore Ctrl-C; so does
# nohup with SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _nobodys_configuration(monkeypatch, tmp_path_factory) -> None:
    """Keep the developer's own configuration, and what other tests leave on this node, out of the tests."""
    for name in list(os.environ):
        setting = name.removeprefix("HPCTRACK_").lower()
        if name.startswith(("HPCTRACK_DSN_", "PG")) or (
            setting != name.lower() and setting in Settings._fields
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-configuration"))
    monkeypatch.setenv("HPCTRACK_NODE_DIR", str(tmp_path_factory.mktemp("node")))
