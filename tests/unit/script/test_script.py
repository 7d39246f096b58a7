"""What the script's calls write, and when they write nothing."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import errno
import fractions
import itertools
import json
import math
import os
import pathlib
import struct
import types
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from hpctrack import script
from hpctrack.script import journal_lines, ranks, trouble, writer
from hpctrack.stream.wire import journal

VARIABLES = (
    "SLURM_JOB_ID",
    "HPCTRACK_JOB_ID",
    "HPCTRACK_RUN_DIR",
    "HPCTRACK_SPOOL_DIR",
    "HPCTRACK_ATTEMPT",
    "HPCTRACK_RANKS",
    "HPCTRACK_JOURNAL_CAP",
    ranks.OUTSIDE,
    *ranks.VARIABLES,
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A tracked run, as its supervisor makes it; the module as it is in a fresh process."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(script, "_state", {})
    monkeypatch.setattr(script, "_packers", {})
    monkeypatch.setattr(script, "_warned", set())
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("HPCTRACK_JOB_ID", "14")
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setenv("HPCTRACK_RUN_DIR", str(folder))
    monkeypatch.setenv("HPCTRACK_SPOOL_DIR", str(tmp_path / "spool" / "journals" / "c.14.0"))
    monkeypatch.setenv("HPCTRACK_ATTEMPT", "2")
    yield folder
    opened = script._state.get("writer")
    if opened is not None:
        opened.close()


def lines(folder: pathlib.Path) -> list[journal.Line]:
    return [
        line for path in sorted(folder.glob("*.log.journal")) for line in journal.parse(path.read_bytes())
    ]


def logged(folder: pathlib.Path) -> dict[str, journal_lines.Value]:
    """Return the values of the one row that was logged."""
    (row,) = lines(folder)
    assert isinstance(row, journal.Row)
    return row.values


def test_one_line_a_call(run):
    for step in range(3):
        script.log(step=step, loss=step / 4, epoch=step, ok=step > 1)
    script.log({"train/loss": 0.5}, step=3)
    script.log({"a": 1.0}, b=2.0)
    rows = lines(run)
    assert [row.step for row in rows] == [0, 1, 2, 3, None]
    assert rows[2].values == {"loss": 0.5, "epoch": 2, "ok": True} and rows[4].values == {"a": 1.0, "b": 2.0}
    assert all(abs(row.time - datetime.datetime.now().timestamp()) < 60 for row in rows)
    (path,) = run.glob("*")
    assert journal.parse_header(path.read_bytes()) == journal.Header(2, 0, 0)
    assert path.stat().st_mode & 0o777 == 0o600


class Tensor:
    """Stands in for a tensor of one element."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f"Tensor({self.value!r})"

    def item(self):
        return self.value


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, 0.1),
        (-0.0, -0.0),
        (5e-324, 5e-324),
        (math.inf, math.inf),
        (3, 3),
        (2**63 - 1, 2**63 - 1),
        (2**63, 2**63),
        (-(10**300), -(10**300)),
        (True, True),
        ("a b", "a b"),
        ("nan", "nan"),
        ("", ""),
        ("a\0b", "a\ufffdb"),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float16(0.1), float(np.float16(0.1))),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.longdouble(1.5), 1.5),
        (np.array(2.5), 2.5),
        (np.array([7]), 7),
        (np.str_("x"), "x"),
        (np.datetime64("2026-01-02T03:04:05"), "2026-01-02T03:04:05"),
        (np.timedelta64(1500, "ms"), 1.5),
        (Tensor(0.25), 0.25),
        (Tensor(4), 4),
        (Tensor(np.float32(0.5)), 0.5),
        (decimal.Decimal("1.5"), 1.5),
        (fractions.Fraction(1, 4), 0.25),
        (Level.HIGH, 3),
        (datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(minutes=1), 60.0),
        (pathlib.Path("/a/b"), "/a/b"),
    ],
    ids=repr,
)
def test_values(run, value, expected, capfd):
    script.log(step=1, x=value)
    script.log(step=1, x=value)  # by what was learnt the first time
    first, second = (row.values["x"] for row in lines(run))
    assert type(first) is type(second) is type(expected)
    if isinstance(expected, float):
        assert struct.pack("<d", first) == struct.pack("<d", second) == struct.pack("<d", expected)
    assert first == second == expected
    assert capfd.readouterr().err == ""


def test_nan(run):
    script.log(x=math.nan, y=np.float32("nan"))
    assert all(math.isnan(value) for value in logged(run).values())


def test_a_type_may_change_from_call_to_call(run):
    for value in (1.0, 1, True, "1", None, 2**70, 1.0, np.float32(1)):
        script.log(step=0, x=value, y=1.0)
    assert [row.values.get("x") for row in lines(run)] == [1.0, 1, True, "1", None, 2**70, 1.0, 1.0]


def test_nested_dictionaries_and_none(run):
    script.log({"train": {"loss": 1.0, "top": {"k": 5}}, "none": None, 3: 4.0})
    assert logged(run) == {"train/loss": 1.0, "train/top/k": 5, "3": 4.0}


def test_other_things_become_text_with_one_warning(run, capfd):
    for _ in range(2):
        script.log(step=1, a=np.arange(3), b=[1, 2], c=Colour.RED, d=1 + 2j)
    assert [row.values for row in lines(run)] == [
        {"a": "[0 1 2]", "b": "[1, 2]", "c": "Colour.RED", "d": "(1+2j)"}
    ] * 2
    assert capfd.readouterr().err.count("\n") == 4
    script.log(long=list(range(10_000)))
    assert len(lines(run)[-1].values["long"]) == 1000


def test_a_value_that_fails_does_not_take_the_others_along(run, capfd):
    class Bad:
        def __str__(self):
            raise RuntimeError("no")

    script.log(step=1, bad=Bad(), good=1.0)
    assert logged(run) == {"good": 1.0}
    assert "bad is left out" in capfd.readouterr().err


@pytest.mark.parametrize(
    "name", ["a b", "a=b", "a,b", '"', "é/ü", "名前", "time", "n" * 200, "\n", "a\ud800", "#x", "!x"]
)
def test_names(run, name):
    script.log({name: 1.0}, step=2)
    script.log({name: 2.0, "b": 3.0}, step=2)
    first, second = lines(run)
    expected = name.replace("\ud800", "?")
    assert (first.step, first.values) == (2, {expected: 1.0}) and second.values == {expected: 2.0, "b": 3.0}


def test_long_names_are_cut(run, capfd):
    script.log({"é" * 2000: 1.0})
    ((name, value),) = logged(run).items()
    assert value == 1.0 and name == "é" * 504
    assert capfd.readouterr().err.count("\n") == 1


def test_step_and_progress_in_the_dictionary(run):
    script.log({"step": 3, "progress": 0.5, "loss": 1.0})
    script.log({"step": 3, "loss": 1.0}, step=4)
    first, second = lines(run)
    assert (first.step, first.progress, first.values) == (3, 0.5, {"loss": 1.0})
    assert second.step == 4


@pytest.mark.parametrize(
    ("step", "expected"),
    [(3, 3), (3.0, 3), (np.int64(3), 3), (True, 1), (Tensor(3), 3), (-5, -5), (2**63 - 1, 2**63 - 1)],
    ids=repr,
)
def test_steps(run, step, expected):
    script.log(step=step, loss=1.0)
    assert [line.step for line in lines(run)] == [expected]


@pytest.mark.parametrize("step", ["x", 1.5, math.nan, math.inf, 2**63, Tensor(None)], ids=repr)
def test_a_step_that_is_none_is_told_and_the_values_are_kept(run, step, capfd):
    script.log(step=step, loss=1.0)
    (row,) = lines(run)
    assert row.step is None and row.values == {"loss": 1.0}
    assert "step must be" in capfd.readouterr().err


@pytest.mark.parametrize("progress", ["x", math.nan], ids=repr)
def test_a_progress_that_is_none(run, progress, capfd):
    script.log(step=1, progress=progress, loss=1.0)
    (row,) = lines(run)
    assert row.progress is None and "progress must be" in capfd.readouterr().err


def _fail(*_):
    raise ValueError("no")


def broken(**members):
    """Return something some of whose special methods fail."""
    return type("Broken", (), members)()


class Unshowable(Exception):
    __str__ = __repr__ = _fail


def _fail_unshowably(*_):
    raise Unshowable


class NoKeys(dict):
    keys = items = __iter__ = _fail


@pytest.mark.parametrize(
    ("values", "more", "expected"),
    [
        (broken(__getattr__=_fail), {}, None),
        ([1, 2], {}, None),
        (5, {"loss": 1.0}, None),
        (NoKeys(a=1), {}, None),
        (NoKeys(a=1), {"loss": 1.0}, {"loss": 1.0}),
        ({"a": NoKeys(a=1)}, {"loss": 1.0}, {"loss": 1.0}),
        ({"a": broken(__str__=_fail)}, {}, None),
        ({"a": {"b": broken(__str__=_fail)}}, {}, None),
        ({"a": broken(__getattr__=_fail)}, {"loss": 1.0}, {"loss": 1.0}),
        ({"a": broken(__str__=_fail_unshowably)}, {"loss": 1.0}, {"loss": 1.0}),
        ({broken(__str__=_fail, __repr__=_fail): 2.0}, {"loss": 1.0}, {"loss": 1.0}),
        ({"loss": 1.0}, {"step": broken(__str__=_fail_unshowably)}, {"loss": 1.0}),
        ({"loss": 1.0}, {"progress": broken(__str__=_fail, __repr__=_fail)}, {"loss": 1.0}),
    ],
    ids=range(13),
)
def test_what_fails_when_it_is_asked_takes_nothing_along_and_is_counted(run, values, more, expected):
    """Each row is there, with what could be had of it, or counted; nothing is raised into the script."""
    script.log(first=1.0)
    script.log(values, **more)
    (path,) = run.glob("*.log.journal")
    rows = [line.values for line in lines(run)][1:]
    assert rows == ([] if expected is None else [expected])
    assert journal.parse_header(path.read_bytes()).lost == (expected is None)


def test_values_of_one_name_are_told(run, capfd):
    script.log({"a": {"b": 1.0}, "a/b": 2.0})
    assert logged(run) == {"a/b": 2.0} and "a/b stands twice" in capfd.readouterr().err


def test_a_bounded_number_of_troubles_is_told(run, capfd):
    for number in range(300):
        script.log({f"bad{number}": broken(__str__=_fail), "loss": 1.0})
    said = capfd.readouterr().err.splitlines()
    assert len(said) == trouble.MOST + 1 and "not told any more" in said[-1] and len(lines(run)) == 300


def test_nothing_to_log(run):
    script.log()
    script.log({})
    script.log(loss=None)
    assert lines(run) == []
    script.log(step=3)
    assert [line.step for line in lines(run)] == [3]


def test_nonsense_is_told_not_raised(run, capfd):
    script.log(3)
    script.log([("a", 1.0)])
    script.set_args(3)
    script.set_tags(*"ab", **{"c": float("nan")})
    assert capfd.readouterr().err.count("\n") == 2


def test_only_exceptions_are_caught(run):
    class Interrupted:
        def item(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        script.log(x=Interrupted())


def test_arguments_and_tags(run):
    script.set_args(
        {"lr": 0.1, "nested": {"a": [1, (2, {3})]}, "path": pathlib.Path("/a")}, batch=np.int64(8), none=None
    )
    script.set_args(
        types.SimpleNamespace(nan=math.nan, inf=-math.inf, d=datetime.date(2026, 1, 2), nul="a\0")
    )
    script.set_tags("baseline", "debug", dataset="cifar")
    script.set_tags()
    found = [(line.kind, json.loads(line.text)) for line in lines(run)]
    assert found == [
        ("args", {"lr": 0.1, "nested": {"a": [1, [2, [3]]]}, "path": "/a", "batch": 8, "none": None}),
        ("args", {"nan": "nan", "inf": "-inf", "d": "2026-01-02", "nul": "a\ufffd"}),
        ("tags", {"baseline": True, "debug": True, "dataset": "cifar"}),
    ]


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


def test_arguments_of_all_kinds_of_objects_are_told_by_their_fields(run, capfd):
    for args in (Configuration(), Point(), Attributes, types.SimpleNamespace(inner=Configuration)):
        script.set_args(args)
    assert [json.loads(line.text) for line in lines(run)] == [
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
def test_no_value_is_lost_and_none_takes_another_along(run, capfd, name):
    value, expected = VALUES[name]
    script.set_args(before=1, value=value, inside={"list": [value]}, after=2)
    (line,) = lines(run)
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


def test_what_can_not_be_had_of_a_mapping_is_lost_alone(run, capfd):
    script.log(Config(a=1, b="???", c=Config(d=2, e="???", f=3)), step=0, g=4)
    script.log({"a": Config(b="???", c=1), "d": 2}, step=1)
    script.log(Config(step=2, a=1, b="???"))
    script.log(a=(n for n in range(3)), b=1, step=3)
    rows = lines(run)
    assert [row.step for row in rows] == [0, 1, 2, 3]
    assert [row.values for row in rows[:3]] == [
        {"a": 1, "c/d": 2, "c/f": 3, "g": 4},
        {"a/c": 1, "d": 2},
        {"a": 1},
    ]
    assert rows[3].values["b"] == 1
    assert "hpctrack: b is left out: ValueError('Missing mandatory value: b')" in capfd.readouterr().err


def test_arguments_of_a_configuration_are_what_can_be_had_of_it(run):
    script.set_args(Config(a="???", b=Config(c="???", d=ListConfig(1, "???", Config(e=2)))))
    script.set_args(f=collections.deque([1, 2]), g=range(3))
    found = [json.loads(line.text) for line in lines(run)]
    assert found == [{"b": {"d": [1, None, {"e": 2}]}}, {"f": [1, 2], "g": "range(0, 3)"}]


def test_a_configuration_with_what_is_missing_keeps_the_rest(run, capfd):
    script.set_args(Missing(a=1, b="???", c=3))
    script.set_tags(Missing(a="x", b="???"))
    assert [json.loads(line.text) for line in lines(run)] == [{"a": 1, "c": 3}, {"a": "x"}]
    assert "b is left out" in capfd.readouterr().err


def test_lengths_of_time_are_seconds_whoever_made_them(run):
    for again in range(2):
        for length in LENGTHS:
            script.log(step=again, length=length)
            script.set_args(length=length)
    rows = lines(run)
    assert {row.values["length"] for row in rows if not hasattr(row, "kind")} == {1.5}
    assert {json.loads(row.text)["length"] for row in rows if hasattr(row, "kind")} == {1.5}


def test_tags_in_lists_and_dictionaries(run):
    script.set_tags(["a", "b"], {"k": 1}, "c", d="e")
    assert json.loads(lines(run)[0].text) == {"a": True, "b": True, "k": 1, "c": True, "d": "e"}


def test_what_is_no_arguments_and_no_metrics_is_told_clearly(run, capfd):
    script.set_args("text", lr=0.1)
    script.log(5)
    (args,) = lines(run)
    assert json.loads(args.text) == {"lr": 0.1}
    assert capfd.readouterr().err.splitlines() == [
        "hpctrack: set_args() takes a dictionary, an object with fields, or keyword arguments, not str",
        "hpctrack: log() takes a dictionary or keyword arguments, not int: a row is lost",
    ]


def test_arguments_that_are_too_long_are_told(run, capfd):
    script.set_args(text=["x" * 100_000] * 20)
    script.log({str(i): "x" * 100_000 for i in range(20)})
    assert lines(run) == [] and capfd.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    ("environ", "said"),
    [({"HPCTRACK_JOB_ID": None}, 0), ({"SLURM_JOB_ID": "15"}, 1), ({"HPCTRACK_JOB_ID": ""}, 1)],
    ids=str,
)
def test_outside_a_run_it_is_silent_and_in_another_job_says_one_line(run, monkeypatch, environ, said, capfd):
    for name, value in environ.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    for _ in range(3):
        script.log(loss=1.0)
        script.set_args(a=1)
    assert list(run.iterdir()) == [] and capfd.readouterr().err.count("\n") == said


@pytest.mark.parametrize("value", [None, ""])
def test_a_script_that_unsets_what_is_slurms_logs(run, monkeypatch, value):
    monkeypatch.delenv("SLURM_JOB_ID") if value is None else monkeypatch.setenv("SLURM_JOB_ID", value)
    script.log(loss=1.0)
    assert logged(run) == {"loss": 1.0}


@pytest.mark.parametrize("digits", [300, 1000, 4301, 100_000])
def test_integers_of_any_length_take_nothing_along(run, digits):
    script.log({"n": -(10**digits), "x": 1.0}, step=1)
    (row,) = lines(run)
    assert row.values == {"n": -(10**digits) if digits == 300 else float("-inf"), "x": 1.0}
    script.set_args(n=10**digits)
    assert len(lines(run)) == 2


def test_a_row_that_is_too_long_is_counted(run):
    script.log(step=1, a=1.0)
    script.log({str(i): "x" * 100_000 for i in range(20)}, step=2)
    script.set_args(text=["x" * 100_000] * 20)
    (path,) = run.glob("*.log.journal")
    assert journal.parse_header(path.read_bytes()).lost == 2 and len(lines(run)) == 1


@pytest.mark.parametrize("count", [45_000, 100_000])
def test_a_row_of_very_many_metrics_is_as_long_as_may_be_read(run, count):
    """Digits take less than the packed form."""
    script.log({f"m{i}": 1.0 for i in range(count)}, step=1)
    (path,) = run.glob("*.log.journal")
    rows, lost = lines(run), journal.parse_header(path.read_bytes()).lost
    assert (len(rows), lost) == ((1, 0) if count == 45_000 else (0, 1))
    assert all(len(line) <= journal_lines.MAX_LINE for line in path.read_bytes().splitlines())


def test_threads_that_lose_lines_at_once_count_them_all(run, monkeypatch):
    """The count of the one that was slower is written last."""
    script.log(step=0, loss=1.0)
    lost, write_count = script._state["writer"], writer._write_count

    def overtaken(path, count):
        if count == 1:
            lost.lose()
        write_count(path, count)

    monkeypatch.setattr(writer, "_write_count", overtaken)
    lost.lose()
    (path,) = run.glob("*.log.journal")
    assert journal.parse_header(path.read_bytes()).lost == 2


def test_what_can_not_be_counted_now_is_counted_later(run, monkeypatch):
    """In the same journal, or in the one that comes in its place."""
    script.log(step=0, loss=1.0)
    opened, real = script._state["writer"], writer._write_count

    def failing(*_):
        raise OSError(errno.EIO, "no")

    def counted() -> int:
        opened._looked -= 2_000_000_000  # the next look
        script.log(step=1, loss=1.0)
        (path,) = run.glob("*.log.journal")
        return journal.parse_header(path.read_bytes()).lost

    monkeypatch.setattr(writer, "_write_count", failing)
    opened.lose()
    monkeypatch.setattr(writer, "_write_count", real)
    assert counted() == 1
    for path in run.glob("*.log.journal"):
        path.unlink()
    opened.lose()
    opened.lose()
    assert counted() == 2


FAULTS = [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, 0, -1, -9]
"""What a write(2) ends with: an error, or nothing written, or so many bytes of the line."""
_FEW = [errno.EIO, errno.ENOSPC, 0, -1, -9]


@pytest.mark.parametrize("first", FAULTS, ids=lambda fault: errno.errorcode.get(fault, f"{-fault} bytes"))
def test_what_a_failing_disk_does_not_take_is_counted(run, monkeypatch, first):
    """Each row is there, or counted: as lost by its writer, or as torn by who reads it. In any order."""
    faults: list[int | None] = []

    def failing(descriptor, data):
        fault = faults.pop(0) if faults else None
        if fault is None:
            return os.write(descriptor, data)
        if fault > 0:
            raise OSError(fault, os.strerror(fault))
        return os.write(descriptor, data[:-fault]) if fault else 0

    monkeypatch.setattr(writer, "write", failing)
    orders = [[first, *more] for size in range(4) for more in itertools.product([*_FEW, None], repeat=size)]
    for number, order in enumerate(orders):
        script.log(step=10 * number, loss=1.0)
        faults[:] = order
        for step in range(1, 10):
            script.log(step=10 * number + step, loss=1.0)
        assert not faults
    (path,) = run.glob("*.log.journal")
    rows = [line for line in lines(run) if isinstance(line, journal.Row)]
    torn = len(lines(run)) - len(rows)
    assert len(rows) + torn + journal.parse_header(path.read_bytes()).lost == 10 * len(orders)
    assert all(row.values == {"loss": 1.0} for row in rows)
    assert len({row.step for row in rows}) == len(rows) > 6 * len(orders)


def test_outside_slurm_both_ids_are_empty(run, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("HPCTRACK_JOB_ID", "")
    script.log(loss=1.0)
    assert logged(run) == {"loss": 1.0}


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, 0),
        ({"SLURM_PROCID": "0"}, 0),
        ({"SLURM_PROCID": "3"}, 3),
        ({"PMI_RANK": "2", "SLURM_PROCID": "0"}, 2),
        ({"PMIX_RANK": "1", "PMI_RANK": "2"}, 1),
        ({"OMPI_COMM_WORLD_RANK": "4", "PMIX_RANK": "0"}, 4),
        ({"RANK": "", "SLURM_PROCID": "5"}, 5),
    ],
    ids=str,
)
def test_ranks(run, monkeypatch, environ, rank, capfd):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    script.log(loss=1.0)
    assert [type(line) for line in lines(run)] == [journal.Row if rank == 0 else journal.Message]
    assert capfd.readouterr().err == ""
    script._state.clear()
    script._packers.clear()
    monkeypatch.setenv("HPCTRACK_RANKS", "all")
    script.log(step=1, loss=2.0)
    found = {name for line in lines(run) if isinstance(line, journal.Row) for name in line.values}
    assert f"loss@{rank}" in found
    assert any(journal.parse_header(path.read_bytes()).rank == rank for path in run.glob("*.journal"))


def test_that_ranks_are_silent_is_told_once_for_other_nodes(run, monkeypatch, tmp_path):
    """They don't see the run folder."""
    (tmp_path / "spool").mkdir(mode=0o700)
    run.rmdir()
    for rank in ("3", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        script._state.clear()
        script.log(loss=1.0)
    (told,) = lines(tmp_path / "spool" / "journals" / "c.14.0")
    assert told.kind == "event" and "rank 3 (SLURM_PROCID) logs nothing" in told.text


def test_that_ranks_are_silent_is_told_once(run, monkeypatch):
    for rank in ("3", "1", "2"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        script._state.clear()
        script.log(loss=1.0)
    (told,) = lines(run)
    assert told.kind == "event" and "rank 3 (SLURM_PROCID) logs nothing" in told.text


def test_without_a_run_folder_it_writes_to_the_spool(run, monkeypatch, tmp_path):
    (tmp_path / "spool").mkdir(mode=0o700)
    run.rmdir()
    script.log(loss=1.0)
    spool = tmp_path / "spool" / "journals" / "c.14.0"
    assert logged(spool) == {"loss": 1.0}
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (spool, spool.parent, spool.parent.parent))


def test_in_a_container_that_sees_neither_it_makes_nothing_and_says_one_line(run, tmp_path, capfd):
    run.rmdir()
    for _ in range(3):
        script.log(loss=1.0)
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err.count("\n") == 1


def test_a_run_folder_that_others_can_enter_is_not_used(run, tmp_path):
    (tmp_path / "spool").mkdir(mode=0o700)
    run.chmod(0o755)
    script.log(loss=1.0)
    assert lines(run) == [] and logged(tmp_path / "spool" / "journals" / "c.14.0") == {"loss": 1.0}


def test_nowhere_to_write_is_told_once(run, monkeypatch, capfd):
    monkeypatch.setenv("HPCTRACK_RUN_DIR", "/nowhere")
    monkeypatch.setenv("HPCTRACK_SPOOL_DIR", "/proc/nowhere")
    for _ in range(3):
        script.log(loss=1.0)
    assert capfd.readouterr().err.count("\n") == 1


def test_many_shapes_do_not_grow_without_bound(run):
    for number in range(3000):
        script.log({f"m{number}": 1.0}, step=number)
    assert len(script._packers) <= script._MAX_SHAPES and len(lines(run)) == 3000


@pytest.mark.parametrize("call", [script.set_args, script.set_tags])
def test_arguments_that_are_too_long_take_no_others_along(run, capfd, call):
    long = ["x" * 90_000] * 20
    call({"before": 1, "long": long, "many": {f"k{i}": "y" * 1000 for i in range(300)}, "after": 2})
    found = {}
    for line in lines(run):
        found |= json.loads(line.text)
    assert (found["before"], found["after"], len(found["many"]), "long" in found) == (1, 2, 300, False)
    assert "long: 1" in capfd.readouterr().err
