"""Journals and their folders are deleted in one place, which asks for proof: `stream.disk.removal`."""

from __future__ import annotations

import ast

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "hpctrack"
#: What makes a file, its name or its bytes go.
REMOVERS = frozenset(
    "unlink remove rmdir removedirs rename renames replace truncate ftruncate rmtree move fallocate".split()
)
#: Who else may, and why that is no journal with anything in it.
ALLOWED = {
    ("folders", "write_identity"): "puts a draft in its place",
    ("folders", "Lock.take"): "the lock",
    ("folders", "Lock.release"): "the lock",
    ("late", "_tell"): "what it noted of a file that is gone",
    ("late", "_forget_old"): "the same",
    ("records", "write"): "a submission record, and its draft",
    ("records", "note_place"): "names of databases",
    ("records", "remove"): "a submission record",
    ("records", "try_refused_again"): "the mark of one",
    ("records", "set_registered"): "the mark of one",
    ("holes", "punch"): "gives back what is acknowledged, and keeps the file: Tail.give_back",
    ("mirror", "_Part._cut"): "the end of a copy, which its disk may not have: the journal is copied again",
    ("runfolder", "discard"): "a run folder whose script has never been started",
    ("__main__", "go_without"): "the submission record of a command that runs untracked",
    ("supervisor", "_forget_record"): "the submission record of a command that runs untracked",
    ("untracked", "_in_place"): "slurmd's copy of the batch script",
    ("writer", "Writer._create_in"): "its own new journal, whose header found no space",
    ("writer", "Writer.discard"): "its own new journal, while another thread's is used",
    ("wire", "*"): "text",
}


def removals(source: str) -> set[tuple[str, str]]:
    """Return which functions of a module call something that removes, and what."""
    calls = set()

    def visit(node: ast.AST, path: tuple[str, ...]) -> None:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            path = (*path, node.name)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = ast.unparse(node.func.value)
            name = node.func.attr
            if (name in REMOVERS and of in ("os", "shutil", "libc")) or name in ("unlink", "rmtree", "rmdir"):
                calls.add((".".join(path), f"{of}.{name}"))
        for child in ast.iter_child_nodes(node):
            visit(child, path)

    visit(ast.parse(source), ())
    return calls


COLLECTOR = sorted((PACKAGE / "stream" / "collector").glob("*.py"))
FILES = [
    path
    for folder in ("stream", "script")
    for path in sorted((PACKAGE / folder).rglob("*.py"))
    if path not in COLLECTOR
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nobody_else_removes_journals(path):
    if path.stem == "removal":
        return
    found = removals(path.read_text(encoding="utf-8"))
    assert {where for where, _ in found if (path.stem, where) not in ALLOWED} == set()


def test_the_collector_removes_no_journal():
    for path in COLLECTOR:
        source = path.read_text(encoding="utf-8")
        assert not removals(source) or ("journals" not in source and path.stem == "launch"), path


def test_a_removal_is_found():
    assert removals("def f():\n    os.unlink(x)\nclass C:\n    def g(self): shutil.rmtree(x)") == {
        ("f", "os.unlink"),
        ("C.g", "shutil.rmtree"),
    }
