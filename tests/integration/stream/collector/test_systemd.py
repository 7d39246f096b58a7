"""The systemd unit of a site's collector."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

UNIT = ROOT / "systemd" / "hpctrack-collector.service"


@pytest.fixture
def unit(tmp_path):
    """The unit, with a program that exists here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    copy = tmp_path / UNIT.name
    program = Path(sys.executable).with_name("hpctrack")
    copy.write_text(UNIT.read_text().replace("/opt/hpctrack/bin/hpctrack", str(program)))
    return copy


def analyze(*arguments: str | Path) -> str:
    run = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_systemd_has_nothing_to_complain_about(unit):
    assert analyze("verify", "--man=no", unit) == ""


def test_a_unit_that_is_wrong_would_be_noticed(unit):
    unit.write_text(unit.read_text().replace("Restart=always", "Restart=perhaps"))
    assert "perhaps" in analyze("verify", "--man=no", unit)


def test_it_may_do_little(unit):
    """systemd's own measure: 0 is safest, above 5 is called exposed."""
    told = analyze("security", "--offline=yes", unit)
    match = re.search(r"exposure level for .*: ([0-9.]+)", told)
    assert match
    assert float(match[1]) < 3
