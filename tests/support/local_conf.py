"""Slurm configured otherwise for a while."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def configured(cluster: Any, *lines: str) -> Iterator[None]:
    """Add these lines to the cluster's configuration, and take them back."""
    local = cluster.directory / "etc" / "local.conf"
    before = local.read_text()
    local.write_text(before + "".join(f"{line}\n" for line in lines))
    reconfigure(cluster)
    try:
        yield
    finally:
        local.write_text(before)
        reconfigure(cluster)


def reconfigure(cluster: Any) -> None:
    """Have Slurm's daemons read their configuration."""
    subprocess.run(["scontrol", "reconfigure"], check=True, env=cluster.env(), timeout=60)
