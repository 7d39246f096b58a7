"""Named statements: every one is used, every one that is used is there."""

import ast
import re
from pathlib import Path

import pytest

from hpctrack import errors, resources
from hpctrack.store import statements

PACKAGE = Path(statements.__file__).parents[1]
QUERIES = resources.folder("sql") / "queries"
_USE = re.compile(r"""\b(?:statement|composable)\(\s*"(\w+)"\s*\)""")
SOURCES = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]


def words(source: str) -> set[str]:
    constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


@pytest.mark.parametrize("path", statements.files(), ids=lambda path: str(path.relative_to(QUERIES)))
def test_every_statement_is_used_by_the_module_that_its_file_is_named_for(path):
    module = PACKAGE / "store" / path.relative_to(QUERIES).with_suffix(".py")
    names = {name for name, _ in statements.split(path)}
    assert names - words(module.read_text(encoding="utf-8")) == set()


def test_every_statement_that_is_used_is_there():
    assert {name for source in SOURCES for name in _USE.findall(source)} - set(statements.load_all()) == set()


@pytest.mark.parametrize("name", sorted(statements.load_all()))
def test_a_statement_says_what_it_is_for(name):
    assert statements.statement(name).startswith(b"-- ")


def test_a_name_that_stands_twice_is_refused(tmp_path, monkeypatch):
    (tmp_path / "queries" / "read").mkdir(parents=True)
    (tmp_path / "queries" / "a.sql").write_text("-- name: one\n-- First.\nSELECT 1;\n")
    (tmp_path / "queries" / "read" / "b.sql").write_text("-- name: one\n-- Second.\nSELECT 2;\n")
    monkeypatch.setattr(resources, "folder", lambda name: tmp_path)
    with pytest.raises(errors.HpctrackError, match=r"b\.sql: statement one stands twice"):
        statements.load_all.__wrapped__()
