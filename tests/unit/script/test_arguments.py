"""What becomes of arguments and tags: of all kinds of objects, whatever of them can't be had."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import pathlib
import types
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from hpctrack.script import calls
from tests.support.run_folders import lines


def test_arguments_and_tags(run_folder):
    calls.set_args(
        {"lr": 0.1, "nested": {"a": [1, (2, {3})]}, "path": pathlib.Path("/a")}, batch=np.int64(8), none=None
    )
    calls.set_args(types.SimpleNamespace(nan=math.nan, inf=-math.inf, d=datetime.date(2026, 1, 2), nul="a\0"))
    calls.set_tags("baseline", "debug", dataset="cifar")
    calls.set_tags()
    calls.goal("val/\0acc", "max")
    told = [(line.kind, json.loads(line.text)) for line in lines(run_folder)]
    assert told == [
        ("args", {"lr": 0.1, "nested": {"a": [1, [2, [3]]]}, "path": "/a", "batch": 8, "none": None}),
        ("args", {"nan": "nan", "inf": "-inf", "d": "2026-01-02", "nul": "a\ufffd"}),
        ("tags", {"baseline": True, "debug": True, "dataset": "cifar"}),
        ("goal", {"val/\ufffdacc": "max"}),
    ]


class Liar:
    __hash__ = None

    def __eq__(self, other):
        raise ValueError("no")

    def __str__(self):
        raise ValueError("no")


@pytest.mark.parametrize("given", [("loss", "most"), ("loss", None), ("loss", Liar()), (Liar(), "max")])
def test_a_goal_that_is_none_is_told_and_raises_nothing(run_folder, capfd, given):
    calls.goal(*given)
    assert list(lines(run_folder)) == []
    assert capfd.readouterr().err.count("\n") == 1


class Optimizer(enum.Enum):
    ADAM = 1


class Point(NamedTuple):
    x: int = 1
    y: int = 2


@dataclasses.dataclass
class Configuration:
    optimizer: Optimizer = Optimizer.ADAM
    activation: object = math.tanh
    betas: object = dataclasses.field(default_factory=lambda: np.array([0.9, 0.99]))
    start: Point = dataclasses.field(default_factory=Point)
    kind: object = Optimizer


class Attributes:
    lr = 0.1
    _hidden = 1

    def method(self):
        pass


def test_arguments_of_all_kinds_of_objects_are_told_by_their_fields(run_folder, capfd):
    for args in (Configuration(), Point(), Attributes, types.SimpleNamespace(inner=Configuration)):
        calls.set_args(args)
    assert [json.loads(line.text) for line in lines(run_folder)] == [
        {
            "optimizer": "ADAM", "activation": "math.tanh", "betas": [0.9, 0.99], "start": {"x": 1, "y": 2},
            "kind": f"{__name__}.Optimizer",
        },
        {"x": 1, "y": 2},
        {"lr": 0.1},
        {"inner": f"{__name__}.Configuration"},
    ]  # fmt: skip
    assert capfd.readouterr().err == ""


class Moment(datetime.datetime):
    """Like those of pandas and pendulum."""


class Price(decimal.Decimal):
    """A subclass has a __dict__."""


class Missing(dict):
    """Like OmegaConf's, where ??? stands for what is missing."""

    def __getitem__(self, key):
        if super().__getitem__(key) == "???":
            raise KeyError(f"Missing mandatory value: {key}")
        return super().__getitem__(key)

    def items(self):
        return [(key, self[key]) for key in self]


class Named:
    """One value with a text of its own, and no fields."""

    def __str__(self):
        return "one value"


MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000)
LENGTHS = [
    datetime.timedelta(milliseconds=1500), np.timedelta64(1500, "ms"), np.timedelta64(1500000000, "ns"),
    pd.Timedelta(1500, "ms"), np.array([np.timedelta64(1500, "us") * 1000])[0],
]  # fmt: skip
VALUES = {
    "Moment": (Moment(2026, 1, 2, 3, 4, 5, 678000), MOMENT.isoformat()),
    "Timestamp": (pd.Timestamp(MOMENT), MOMENT.isoformat()),
    "datetime64": (np.datetime64(MOMENT, "ns"), "2026-01-02T03:04:05.678000000"),
    "Timedelta": (pd.Timedelta("1.5s"), 1.5),
    "timedelta64": (np.timedelta64(1500, "ms"), 1.5),
    "array of lengths": (np.array([1500, 2500], "timedelta64[ms]"), [1.5, 2.5]),
    "array of times": (np.array([MOMENT, MOMENT], "datetime64[s]"), ["2026-01-02T03:04:05"] * 2),
    "array of one time": (np.array([MOMENT], "datetime64[ns]"), "2026-01-02T03:04:05.678000000"),
    "array of one length": (np.array([1500], "timedelta64[ms]"), 1.5),
    "years": (np.timedelta64(3, "Y"), "3 years"),
    "attoseconds": (np.timedelta64(3, "as"), "3 attoseconds"),
    "masked": (np.ma.masked, "nan"),
    "NA": (pd.NA, "<NA>"),
    "set": ({"c", "a", "b"}, ["a", "b", "c"]),
    "set of several types": (frozenset({"b", 1}), [1, "b"]),
    "UserString": (collections.UserString("x"), "x"),
    "a decimal that no float holds": (decimal.Decimal("1e400"), "1E+400"),
    "infinite": (decimal.Decimal("-Infinity"), "-inf"),
    "a long double that no float holds": (np.longdouble("1e4000"), "1e+4000"),
    "a complex long double": (np.clongdouble(1 + 2j), "(1+2j)"),
    "Series": (pd.Series([pd.Timedelta("1s")], index=["a"]), {"a": 1.0}),
    "Price": (Price("0.25"), 0.25),
    "Decimal": (decimal.Decimal("0.25"), 0.25),
    "Fraction": (fractions.Fraction(1, 4), 0.25),
    "Path": (pathlib.Path("/a/b"), "/a/b"),
    "Windows": (pathlib.PureWindowsPath("a"), "a"),
    "generator": ((x for x in "ab"), "<genexpr>"),
    "Named": (Named(), "one value"),
    "Interval": (pd.Interval(0, 1), "(0, 1]"),
    "bytes": (b"ab", "b'ab'"),
    "complex": (1 + 2j, "(1+2j)"),
    "range": (range(3), "range(0, 3)"),
    "Missing": (Missing(a=1, b="???", c={"d": 2}), {"a": 1, "c": {"d": 2}}),
    "empty": (types.SimpleNamespace(), {}),
}


@pytest.mark.parametrize("name", VALUES)
def test_no_value_is_lost_and_none_takes_another_along(run_folder, capfd, name):
    value, expected = VALUES[name]
    calls.set_args(before=1, value=value, inside={"list": [value]}, after=2)
    (line,) = lines(run_folder)
    told = json.loads(line.text)
    assert (told["before"], told["after"]) == (1, 2)
    if name != "generator":
        assert (told["value"], told["inside"]) == (expected, {"list": [expected]})
    assert expected != "<genexpr>" or told["value"].endswith("<genexpr>")


class Config(collections.abc.MutableMapping):
    """A mapping that is no dict, like OmegaConf's: whoever goes through all of it meets what is missing."""

    def __init__(self, **values):
        self.values_ = values

    def __getitem__(self, key):
        if self.values_[key] == "???":
            raise ValueError(f"Missing mandatory value: {key}")
        return self.values_[key]

    def __setitem__(self, key, value):
        self.values_[key] = value

    def __delitem__(self, key):
        del self.values_[key]

    def __iter__(self):
        return iter(self.values_)

    def __len__(self):
        return len(self.values_)


class ListConfig(collections.abc.Sequence):
    """Its list."""

    def __init__(self, *items):
        self.items_ = items

    def __getitem__(self, place):
        if self.items_[place] == "???":
            raise ValueError("Missing mandatory value")
        return self.items_[place]

    def __len__(self):
        return len(self.items_)


def test_what_can_not_be_had_of_a_mapping_is_lost_alone(run_folder, capfd):
    calls.log(Config(a=1, b="???", c=Config(d=2, e="???", f=3)), step=0, g=4)
    calls.log({"a": Config(b="???", c=1), "d": 2}, step=1)
    calls.log(Config(step=2, a=1, b="???"))
    calls.log(a=(n for n in range(3)), b=1, step=3)
    rows = lines(run_folder)
    assert [row.step for row in rows] == [0, 1, 2, 3]
    assert [row.values for row in rows[:3]] == [
        {"a": 1, "c/d": 2, "c/f": 3, "g": 4},
        {"a/c": 1, "d": 2},
        {"a": 1},
    ]
    assert rows[3].values["b"] == 1
    assert "hpctrack: b is left out: ValueError('Missing mandatory value: b')" in capfd.readouterr().err


def test_arguments_of_a_configuration_are_what_can_be_had_of_it(run_folder):
    calls.set_args(Config(a="???", b=Config(c="???", d=ListConfig(1, "???", Config(e=2)))))
    calls.set_args(f=collections.deque([1, 2]), g=range(3))
    told = [json.loads(line.text) for line in lines(run_folder)]
    assert told == [{"b": {"d": [1, None, {"e": 2}]}}, {"f": [1, 2], "g": "range(0, 3)"}]


def test_a_configuration_with_what_is_missing_keeps_the_rest(run_folder, capfd):
    calls.set_args(Missing(a=1, b="???", c=3))
    calls.set_tags(Missing(a="x", b="???"))
    assert [json.loads(line.text) for line in lines(run_folder)] == [{"a": 1, "c": 3}, {"a": "x"}]
    assert "b is left out" in capfd.readouterr().err


def test_lengths_of_time_are_seconds_whoever_made_them(run_folder):
    for again in range(2):
        for length in LENGTHS:
            calls.log(step=again, length=length)
            calls.set_args(length=length)
    rows = lines(run_folder)
    assert {row.values["length"] for row in rows if not hasattr(row, "kind")} == {1.5}
    assert {json.loads(row.text)["length"] for row in rows if hasattr(row, "kind")} == {1.5}


def test_tags_in_lists_and_dictionaries(run_folder):
    calls.set_tags(["a", "b"], {"k": 1}, "c", d="e")
    assert json.loads(lines(run_folder)[0].text) == {"a": True, "b": True, "k": 1, "c": True, "d": "e"}


def test_arguments_that_are_too_long_are_told(run_folder, capfd):
    calls.set_args(text=["x" * 100_000] * 20)
    calls.log({str(i): "x" * 100_000 for i in range(20)})
    assert lines(run_folder) == [] and capfd.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("call", [calls.set_args, calls.set_tags])
def test_arguments_that_are_too_long_take_no_others_along(run_folder, capfd, call):
    long = ["x" * 90_000] * 20
    call({"before": 1, "long": long, "many": {f"k{i}": "y" * 1000 for i in range(300)}, "after": 2})
    args = {}
    for line in lines(run_folder):
        args |= json.loads(line.text)
    assert (args["before"], args["after"], len(args["many"]), "long" in args) == (1, 2, 300, False)
    assert "long: 1" in capfd.readouterr().err
