"""How long a file may be, and how many ways there may be through a function.

Counted by radon, which also counts boolean operators and comprehensions; ruff's C901 does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from radon.visitors import Class, ComplexityVisitor

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINES = 500
MAX_COMPLEXITY = 12
#: What nine in ten functions of a folder do not exceed.
USUAL = {"hpctrack": 6, "tests": 4}

FILES = {folder: sorted((ROOT / folder).rglob("*.py")) for folder in USUAL}


class Function(NamedTuple):
    complexity: int
    name: str


def functions(source: str, path: str = "") -> list[Function]:
    """Return all functions and methods, each without those inside it; an assert counts as nothing."""
    blocks = ComplexityVisitor.from_code(source, no_assert=True).blocks
    return [
        function
        for block in blocks
        if not isinstance(block, Class)
        for function in _with_inner(block, f"{path}:{block.fullname}")
    ]


def _with_inner(block, name: str) -> Iterator[Function]:
    yield Function(block.complexity, name)
    for inner in block.closures:
        yield from _with_inner(inner, f"{name}.{inner.name}")


@pytest.fixture(scope="module", params=USUAL)
def folder(request):
    return request.param


@pytest.fixture(scope="module")
def counted(folder):
    """All functions of a folder."""
    return [
        function
        for path in FILES[folder]
        for function in functions(path.read_text("utf-8"), str(path.relative_to(ROOT)))
    ]


def test_no_function_is_too_complex(counted):
    complex_ones = {function.name for function in counted if function.complexity > MAX_COMPLEXITY}
    assert complex_ones == set(), "take it apart"


def test_nine_in_ten_functions_are_plain(folder, counted):
    ordered = sorted(function.complexity for function in counted)
    assert ordered[len(ordered) * 9 // 10] <= USUAL[folder]


def test_no_file_is_too_long(folder):
    lines = {str(path.relative_to(ROOT)): path.read_text("utf-8").count("\n") for path in FILES[folder]}
    assert {path for path, count in lines.items() if count > MAX_LINES} == set(), "divide it"


@pytest.mark.parametrize(
    ("source", "complexities"),
    [
        ("def f(): pass", [1]),
        ("def f(a, b):\n    return a and b or 1", [3]),
        ("def f(a):\n    return [b for b in a if b]", [3]),
        ("def f(a):\n    def g():\n        if a: pass\n    return g", [1, 2]),
        ("def f(a):\n    assert a", [1]),
        ("class A:\n    def f(self, a):\n        if a: pass", [2]),
    ],
)
def test_what_is_counted(source, complexities):
    assert [function.complexity for function in functions(source)] == complexities
