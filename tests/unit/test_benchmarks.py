"""Benchmarks are found by what their results are called, and two revisions are held against each other."""

import subprocess

import pytest

import benchmarks.__main__ as program
from benchmarks import compare
from benchmarks.compare import Comparison, Verdict

MODULES = list(program.modules())
PACKAGES = {path.parent.name for path in (program.FOLDER.parent / "hpctrack").glob("*/__init__.py")}
#: A tree whose benchmarks take as long as a file says.
TOY = """
import json, sys
speed = json.load(open("speed.json"))
output = sys.argv[sys.argv.index("--output") + 1]
records = [{"name": name, "value": value, "unit": unit} for name, (value, unit) in speed.items()]
json.dump(records, open(output, "w"))
"""


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_benchmark_says_what_its_results_are_called(module):
    assert callable(module.measure)
    package = module.__name__.split(".")[1]
    assert package in PACKAGES
    assert module.RESULTS and all(begin.startswith(f"{package}.") for begin in module.RESULTS)


def test_no_two_benchmarks_share_a_name():
    begins = [begin for module in MODULES for begin in module.RESULTS]
    assert [(a, b) for a in begins for b in begins if a is not b and a.startswith(b)] == []


def test_only_what_is_asked_for_is_measured():
    assert [result.name for result in program.discover(["script.import"])] == ["script.import"]
    assert list(program.discover(["script.no-such"])) == []


@pytest.mark.parametrize(
    ("before", "after", "unit", "verdict"),
    [
        ((2.0, 2.2, 1.9), (1.0, 1.2, 1.1), "s", Verdict.BETTER),
        ((2.0, 2.2, 1.9), (3.0, 3.2, 3.1), "s", Verdict.WORSE),
        ((2.0, 2.2, 1.9), (3.0, 3.2, 3.1), "rows/s", Verdict.BETTER),
        ((2.0, 2.2, 1.9), (1.0, 1.2, 1.1), "MB/s", Verdict.WORSE),
        ((2.0, 2.0, 2.0), (3.0, 3.0, 1.9), "s", Verdict.NOISE),
        ((2.0, 2.0, 2.0), (2.02, 2.03, 2.04), "s", Verdict.NOISE),
        ((0.0, 0.0), (0.0, 1.0), "%", Verdict.NOISE),
        ((), (1.0,), "s", Verdict.ALONE),
    ],
)
def test_a_figure_has_changed_only_if_every_round_says_so(before, after, unit, verdict):
    comparison = Comparison("part.figure", unit, before, after)
    assert comparison.verdict is verdict
    assert comparison.line().endswith(verdict.value)


@pytest.fixture
def toy(tmp_path):
    """A repository with one revision, whose working tree has become slower."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "__main__.py").write_text(TOY)
    (tmp_path / "speed.json").write_text('{"part.time": [1.0, "s"], "part.gone": [1, "s"]}')
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "speed.json").write_text('{"part.time": [1.5, "s"]}')
    return tmp_path


def test_a_tree_is_measured_in_turn_with_another_revision(toy, capfd):
    figures = compare.compare(toy, "HEAD", ["part"], rounds=3)
    assert figures == [
        Comparison("part.time", "s", (1.0, 1.0, 1.0), (1.5, 1.5, 1.5)),
        Comparison("part.gone", "s", (1, 1, 1), ()),
    ]
    assert [figure.verdict for figure in figures] == [Verdict.WORSE, Verdict.ALONE]
    sides = [line.split()[4] for line in capfd.readouterr().err.splitlines()]
    assert sides == ["before,", "after,", "after,", "before,", "before,", "after,"]


def test_a_tree_whose_benchmarks_fail_is_told(toy):
    (toy / "speed.json").write_text("nothing")
    with pytest.raises(RuntimeError, match="JSONDecodeError"):
        compare.compare(toy, "HEAD", [], rounds=1)
