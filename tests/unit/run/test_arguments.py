"""What a script's arguments become in ``runs.args``."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.run.arguments import parse_arguments


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("--lr 0.1", {"lr": 0.1}),
        ("--lr=0.1", {"lr": 0.1}),
        ("--lr=1e-3 --epochs 30", {"lr": 0.001, "epochs": 30}),
        ("-v", {"v": True}),
        ("--flag --other", {"flag": True, "other": True}),
        ("--flag", {"flag": True}),
        ("-n 5 -v data.csv", {"n": 5, "v": True, "_": ["data.csv"]}),
        ("-lr 0.1 -name big", {"lr": 0.1, "name": "big"}),
        ("--shift -0.5 --low -3", {"shift": -0.5, "low": -3}),
        ("model.lr=0.1 +seed=3 ++trainer.name=x", {"model.lr": 0.1, "seed": 3, "trainer.name": "x"}),
        ("--config-name big model.lr=0.1", {"config-name": "big", "model.lr": 0.1}),
        ("--multirun model.lr=0.1", {"multirun": True, "model.lr": 0.1}),
        ("data.csv 3 out", {"_": ["data.csv", 3, "out"]}),
        ("--a 1 -- --b 2", {"a": 1, "_": ["--b", 2]}),
        ("--x 1 --x 2 --x 3", {"x": [1, 2, 3]}),
        ("--empty= --text ''", {"empty": "", "text": ""}),
        ("--on true --off False", {"on": True, "off": False}),
        ("--url=http://host/?a=1", {"url": "http://host/?a=1"}),
        ("http://host/?a=1 ./a=b", {"_": ["http://host/?a=1", "./a=b"]}),
        ("- -5 -.5", {"_": ["-", -5, -0.5]}),
        ("--id 007 --zip=01234 --half .5 --one 1.", {"id": "007", "zip": "01234", "half": 0.5, "one": 1.0}),
        ("--big 12345678901234567890", {"big": 1.2345678901234567e19}),
        ("--inf inf --nan nan --huge 1e999", {"inf": "inf", "nan": "nan", "huge": "1e999"}),
        ("--under 1_000 --hex 0x10", {"under": "1_000", "hex": "0x10"}),
    ],
)
def test_common_forms(line, expected):
    arguments = parse_arguments(shlex.split(line))
    assert arguments == expected
    assert [type(value) for value in arguments.values()] == [type(value) for value in expected.values()]


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=12), max_size=8))
def test_anything_becomes_plain_json(argv):
    arguments = parse_arguments(argv)
    assert json.loads(json.dumps(arguments, allow_nan=False)) == arguments


@given(
    st.dictionaries(
        st.from_regex(r"\A[a-z][a-z0-9-]{0,8}\Z"),
        st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6)),
    )
)
def test_numbers_come_back_with_their_type_in_both_spellings(values):
    separate = [token for name, value in values.items() for token in ("--" + name, repr(value))]
    joined = [f"--{name}={value!r}" for name, value in values.items()]
    for argv in (separate, joined):
        arguments = parse_arguments(argv)
        assert arguments == values
        assert {name: type(value) for name, value in arguments.items()} == {
            name: type(value) for name, value in values.items()
        }
