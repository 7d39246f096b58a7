"""Benchmarks are found by what their results are called."""

import importlib
from pathlib import Path

import pytest

import benchmarks.__main__ as program

MODULES = [path.stem for path in Path(program.__file__).parent.glob("bench_*.py")]


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_says_what_its_results_are_called(name):
    module = importlib.import_module(f"benchmarks.{name}")
    part = name.split("_")[1]
    assert callable(module.measure)
    assert module.RESULTS and all(begin.startswith(f"{part}.") for begin in module.RESULTS)


def test_only_what_is_asked_for_is_measured():
    assert [result.name for result in program.discover(["stream.import"])] == ["stream.import"]
    assert list(program.discover(["stream.no-such"])) == []
