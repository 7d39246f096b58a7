"""What differs between runs."""

from __future__ import annotations

from hpctrack.run import comparison
from hpctrack.run.comparison import Difference, Section, Side


def side(label, script=None, **facts):
    return Side(label, facts, script)


def test_only_what_differs_is_told_and_the_rest_counted():
    sections = comparison.compare(
        [
            side("r1", args={"lr": 0.1, "seed": 3, "model": "a", "none": None}, tags={}),
            side("r2", args={"lr": 0.2, "seed": 3, "amp": True}, tags={}),
            side("r3", args={"lr": 0.1, "seed": 3, "model": "a"}, tags={}),
        ]
    )
    assert sections == [
        Section(
            "args",
            (
                Difference("lr", (0.1, 0.2, 0.1)),
                Difference("model", ("a", None, "a")),
                Difference("amp", (None, True, None)),
            ),
            1,
        ),
        Section("tags", (), 0),
    ]


def test_true_is_not_one_and_a_missing_section_has_no_values():
    sections = comparison.compare(
        [side("r1", args={"a": True, "b": 1}), side("r2", args={"a": 1, "b": 1.0}), side("r3")]
    )
    assert sections[0].differences == (Difference("a", (True, 1, None)), Difference("b", (1, 1.0, None)))
    (section,) = comparison.compare(
        [side("r1", args={"a": True, "b": 1}), side("r2", args={"a": 1, "b": 1.0})]
    )
    assert [row.name for row in section.differences] == ["a"]


def test_nested_objects_have_paths():
    assert comparison.flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}
    assert comparison.flat(None) == {}


def test_scripts_are_compared_with_the_first():
    one, same, other = side("r1", "a\nb\n"), side("r2", "a\nb\n"), side("r3", "a\nc\n")
    (lines,) = comparison.script_changes([one, same, side("r4", None), other])
    assert lines[:2] == ["--- r1", "+++ r3"]
    assert lines[-2:] == ["-b", "+c"]
    assert list(comparison.script_changes([side("r1", None), other])) == []


def test_variables_of_the_job():
    assert comparison.is_of_the_job("SLURM_JOB_ID")
    assert comparison.is_of_the_job("_")
    assert not comparison.is_of_the_job("PATH")
