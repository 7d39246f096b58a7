"""Documents that name tests and files name ones that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_of_faults_exist():
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)(?:::(test_\w+))?`", text)
    assert len(named) > 40
    for module, function in named:
        source = (ROOT / "tests" / "integration" / f"{module}.py").read_text(encoding="utf-8")
        assert not function or f"def {function}(" in source, f"{module}::{function}"
    for path in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / path).exists(), path
