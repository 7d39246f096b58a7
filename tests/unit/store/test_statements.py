"""Named statements: every one is used, every one that is used is there."""

import ast
import re
from pathlib import Path

import pytest

from hpctrack import errors, resources
from hpctrack.store import statements

PACKAGE = Path(statements.__file__).parents[1]
_USE = re.compile(r"""\b(?:statement|composable)\(\s*"(\w+)"\s*\)""")
SOURCES = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]


def test_every_statement_is_used():
    words = {
        node.value
        for source in SOURCES
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(statements.load_all()) - words == set()


def test_every_statement_that_is_used_is_there():
    assert {name for source in SOURCES for name in _USE.findall(source)} - set(statements.load_all()) == set()


@pytest.mark.parametrize("name", sorted(statements.load_all()))
def test_a_statement_says_what_it_is_for(name):
    assert statements.statement(name).startswith(b"-- ")


def test_a_name_that_stands_twice_is_refused(tmp_path, monkeypatch):
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "a.sql").write_text("-- name: one\n-- First.\nSELECT 1;\n")
    (tmp_path / "queries" / "b.sql").write_text("-- name: one\n-- Second.\nSELECT 2;\n")
    monkeypatch.setattr(resources, "folder", lambda name: tmp_path)
    with pytest.raises(errors.HpctrackError, match=r"b\.sql: statement one stands twice"):
        statements.load_all.__wrapped__()
