"""Benchmarks are found by what their results are called."""

import pytest

import benchmarks.__main__ as program

MODULES = list(program.modules())
PACKAGES = {path.parent.name for path in (program.FOLDER.parent / "hpctrack").glob("*/__init__.py")}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_benchmark_says_what_its_results_are_called(module):
    assert callable(module.measure)
    assert module.RESULTS and all("." in begin for begin in module.RESULTS)
    assert module.__name__.split(".")[1] in PACKAGES


def test_no_two_benchmarks_share_a_name():
    begins = [begin for module in MODULES for begin in module.RESULTS]
    assert [(a, b) for a in begins for b in begins if a is not b and a.startswith(b)] == []


def test_only_what_is_asked_for_is_measured():
    assert [result.name for result in program.discover(["stream.import"])] == ["stream.import"]
    assert list(program.discover(["stream.no-such"])) == []
