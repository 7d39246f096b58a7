"""What log() writes, and when it writes nothing."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import json
import math
import pathlib
import struct

import numpy as np
import pytest

from hpctrack.script import calls, journal_lines, trouble
from hpctrack.stream.wire import journal
from tests.support.run_folders import lines, logged


def test_one_line_a_call(run_folder):
    for step in range(3):
        calls.log(step=step, loss=step / 4, epoch=step, ok=step > 1)
    calls.log({"train/loss": 0.5}, step=3)
    calls.log({"a": 1.0}, b=2.0)
    rows = lines(run_folder)
    assert [row.step for row in rows] == [0, 1, 2, 3, None]
    assert rows[2].values == {"loss": 0.5, "epoch": 2, "ok": True} and rows[4].values == {"a": 1.0, "b": 2.0}
    assert all(abs(row.time - datetime.datetime.now().timestamp()) < 60 for row in rows)
    (path,) = run_folder.glob("*")
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
def test_values(run_folder, value, expected, capfd):
    calls.log(step=1, x=value)
    calls.log(step=1, x=value)  # by what was learnt the first time
    first, second = (row.values["x"] for row in lines(run_folder))
    assert type(first) is type(second) is type(expected)
    if isinstance(expected, float):
        assert struct.pack("<d", first) == struct.pack("<d", second) == struct.pack("<d", expected)
    assert first == second == expected
    assert capfd.readouterr().err == ""


def test_nan(run_folder):
    calls.log(x=math.nan, y=np.float32("nan"))
    assert all(math.isnan(value) for value in logged(run_folder).values())


def test_a_type_may_change_from_call_to_call(run_folder):
    for value in (1.0, 1, True, "1", None, 2**70, 1.0, np.float32(1)):
        calls.log(step=0, x=value, y=1.0)
    assert [row.values.get("x") for row in lines(run_folder)] == [1.0, 1, True, "1", None, 2**70, 1.0, 1.0]


def test_nested_dictionaries_and_none(run_folder):
    calls.log({"train": {"loss": 1.0, "top": {"k": 5}}, "none": None, 3: 4.0})
    assert logged(run_folder) == {"train/loss": 1.0, "train/top/k": 5, "3": 4.0}


def test_other_things_become_text_with_one_warning(run_folder, capfd):
    for _ in range(2):
        calls.log(step=1, c=Colour.RED, d=1 + 2j)
    assert [row.values for row in lines(run_folder)] == [{"c": "Colour.RED", "d": "(1+2j)"}] * 2
    assert capfd.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, 2.5, "a", None, True], [1, 2.5, "a", None, True]),
        ((1, (2, [])), [1, [2, []]]),
        ({3, 1, 2}, [1, 2, 3]),
        (np.arange(6.0).reshape(2, 3), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]),
        (np.arange(8192), list(range(8192))),
        ([math.nan, math.inf, {"a": [1]}], ["nan", "inf", {"a": [1]}]),
        (["\n", "é", "\0"], ["\n", "é", "\ufffd"]),
        (list(range(10_000)), list(range(10_000))),
        ([], []),
    ],
)
def test_lists_and_arrays_are_json(run_folder, capfd, given, expected):
    calls.log(step=1, boxes=given, loss=0.5)
    values = lines(run_folder)[0].values
    assert type(values["boxes"]) is journal_lines.Json
    assert (json.loads(values["boxes"]), values["loss"]) == (expected, 0.5)
    assert capfd.readouterr().err == ""


def test_a_list_that_is_too_long_is_cut_and_told(run_folder, capfd):
    for _ in range(2):
        calls.log(step=1, boxes=["a" * 1000] * 70)
    row = lines(run_folder)[0].values
    assert type(row["boxes"]) is str and len(row["boxes"]) == 1000
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "boxes" in told and "64 kB" in told


def test_rows_of_a_series(run_folder, capfd):
    calls.log(series="eval", acc=0.5)
    calls.log({"acc": 0.6, "series": "eval", "step": 7})
    calls.log(series="a b", step=3, progress=0.5, acc=0.7)
    calls.log(acc=0.8)
    found = [(row.series, row.step, row.progress, row.values["acc"]) for row in lines(run_folder)]
    assert found == [
        ("eval", None, None, 0.5), ("eval", 7, None, 0.6), ("a b", 3, 0.5, 0.7), (None, None, None, 0.8),
    ]  # fmt: skip
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("series", ["", "x" * 256, [1]], ids=str)
def test_what_can_be_no_name_of_a_series_is_told(run_folder, capfd, series):
    for _ in range(2):
        calls.log(series=series, acc=0.5)
    assert [row.values for row in lines(run_folder)] == [{"acc": 0.5}] * 2
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "series must be a name" in told


def test_a_value_that_fails_does_not_take_the_others_along(run_folder, capfd):
    class Bad:
        def __str__(self):
            raise RuntimeError("no")

    calls.log(step=1, bad=Bad(), good=1.0)
    assert logged(run_folder) == {"good": 1.0}
    assert "bad is left out" in capfd.readouterr().err


@pytest.mark.parametrize(
    "name", ["a b", "a=b", "a,b", '"', "é/ü", "名前", "time", "n" * 200, "\n", "a\ud800", "#x", "!x"]
)
def test_names(run_folder, name):
    calls.log({name: 1.0}, step=2)
    calls.log({name: 2.0, "b": 3.0}, step=2)
    first, second = lines(run_folder)
    expected = name.replace("\ud800", "?")
    assert (first.step, first.values) == (2, {expected: 1.0}) and second.values == {expected: 2.0, "b": 3.0}


def test_long_names_are_cut(run_folder, capfd):
    calls.log({"é" * 2000: 1.0})
    ((name, value),) = logged(run_folder).items()
    assert value == 1.0 and name == "é" * 504
    assert capfd.readouterr().err.count("\n") == 1


def test_step_and_progress_in_the_dictionary(run_folder):
    calls.log({"step": 3, "progress": 0.5, "loss": 1.0})
    calls.log({"step": 3, "loss": 1.0}, step=4)
    first, second = lines(run_folder)
    assert (first.step, first.progress, first.values) == (3, 0.5, {"loss": 1.0})
    assert second.step == 4


@pytest.mark.parametrize(
    ("step", "expected"),
    [(3, 3), (3.0, 3), (np.int64(3), 3), (True, 1), (Tensor(3), 3), (-5, -5), (2**63 - 1, 2**63 - 1)],
    ids=repr,
)
def test_steps(run_folder, step, expected):
    calls.log(step=step, loss=1.0)
    assert [line.step for line in lines(run_folder)] == [expected]


@pytest.mark.parametrize("step", ["x", 1.5, math.nan, math.inf, 2**63, Tensor(None)], ids=repr)
def test_a_step_that_is_none_is_told_and_the_values_are_kept(run_folder, step, capfd):
    calls.log(step=step, loss=1.0)
    (row,) = lines(run_folder)
    assert row.step is None and row.values == {"loss": 1.0}
    assert "step must be" in capfd.readouterr().err


@pytest.mark.parametrize("progress", ["x", math.nan], ids=repr)
def test_a_progress_that_is_none(run_folder, progress, capfd):
    calls.log(step=1, progress=progress, loss=1.0)
    (row,) = lines(run_folder)
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
def test_what_fails_when_it_is_asked_takes_nothing_along_and_is_counted(run_folder, values, more, expected):
    """Each row is there, with what could be had of it, or counted; nothing is raised into the script."""
    calls.log(first=1.0)
    calls.log(values, **more)
    (path,) = run_folder.glob("*.log.journal")
    rows = [line.values for line in lines(run_folder)][1:]
    assert rows == ([] if expected is None else [expected])
    assert journal.parse_header(path.read_bytes()).lost == (expected is None)


def test_values_of_one_name_are_told(run_folder, capfd):
    calls.log({"a": {"b": 1.0}, "a/b": 2.0})
    assert logged(run_folder) == {"a/b": 2.0} and "a/b stands twice" in capfd.readouterr().err


def test_a_bounded_number_of_troubles_is_told(run_folder, capfd):
    for number in range(300):
        calls.log({f"bad{number}": broken(__str__=_fail), "loss": 1.0})
    said = capfd.readouterr().err.splitlines()
    assert len(said) == trouble.MOST + 1 and "not told any more" in said[-1] and len(lines(run_folder)) == 300


def test_nothing_to_log(run_folder):
    calls.log()
    calls.log({})
    calls.log(loss=None)
    assert lines(run_folder) == []
    calls.log(step=3)
    assert [line.step for line in lines(run_folder)] == [3]


def test_nonsense_is_told_not_raised(run_folder, capfd):
    calls.log(3)
    calls.log([("a", 1.0)])
    calls.set_args(3)
    calls.set_tags(*"ab", **{"c": float("nan")})
    assert capfd.readouterr().err.count("\n") == 2


def test_only_exceptions_are_caught(run_folder):
    class Interrupted:
        def item(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calls.log(x=Interrupted())


def test_what_is_no_arguments_and_no_metrics_is_told_clearly(run_folder, capfd):
    calls.set_args("text", lr=0.1)
    calls.log(5)
    (args,) = lines(run_folder)
    assert json.loads(args.text) == {"lr": 0.1}
    assert capfd.readouterr().err.splitlines() == [
        "hpctrack: set_args() takes a dictionary, an object with fields, or keyword arguments, not str",
        "hpctrack: log() takes a dictionary or keyword arguments, not int: a row is lost",
    ]


@pytest.mark.parametrize("digits", [300, 1000, 4301, 100_000])
def test_integers_of_any_length_take_nothing_along(run_folder, digits):
    calls.log({"n": -(10**digits), "x": 1.0}, step=1)
    (row,) = lines(run_folder)
    assert row.values == {"n": -(10**digits) if digits == 300 else float("-inf"), "x": 1.0}
    calls.set_args(n=10**digits)
    assert len(lines(run_folder)) == 2


def test_many_shapes_do_not_grow_without_bound(run_folder):
    for number in range(3000):
        calls.log({f"m{number}": 1.0}, step=number)
    assert len(calls._packers) <= calls._MAX_SHAPES and len(lines(run_folder)) == 3000
