from __future__ import annotations

import json
import math
import struct
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrack.store import values

EDGES = [
    0.0, -0.0, 1.0, 1e22, 1e16, 1e15, 123456789012345.6, 0.1, 1e-5, 1e-20, 1e-21, 5e-324, 3.0, 2.0**53,
    1.7976931348623157e308, float("inf"), float("-inf"),
    0, 1, -1, 1 << 53, (1 << 53) + 1, -(1 << 53) - 1, (1 << 63) - 1, -(1 << 63), 1 << 64, 10**5000,
    True, False,
    "", "abc", "1", "nan", 'quote " and \\', "a\0b", "\ud800", "é\n\t", "{}", '{"float": "1"}',
]  # fmt: skip


def through_jsonb(text: str):
    """Read JSON as it comes out of JSONB: numbers are decimals, without sign of zero, exponent or type."""

    def number(digits: str):
        value = Decimal(digits)
        plain = f"{value:f}"
        if value == 0:
            plain = plain.lstrip("-")
        return float(plain) if "." in plain else int(plain)

    assert "\\u0000" not in text.replace("\\\\", "")
    text.encode()
    return json.loads(text, parse_float=number, parse_int=number)


def bits(value):
    return (type(value), struct.pack("<d", value) if isinstance(value, float) else value)


@pytest.mark.parametrize("value", EDGES, ids=lambda value: f"{type(value).__name__}")
def test_edges_come_back(value):
    assert bits(values.decode(through_jsonb(values.encode(value)))) == bits(value)


def test_nan_comes_back():
    assert math.isnan(values.decode(through_jsonb(values.encode(float("nan")))))


@given(st.floats(allow_nan=False) | st.integers() | st.booleans() | st.text(st.characters()))
@settings(max_examples=300, deadline=None)
def test_any_value_comes_back(value):
    assert bits(values.decode(through_jsonb(values.encode(value)))) == bits(value)


@given(st.lists(st.floats(), max_size=20))
@settings(deadline=None)
def test_arrays_are_encoded_like_their_elements(floats):
    assert values.encode_array(np.array(floats, dtype=float)) == [values.encode(value) for value in floats]


def test_arrays_of_integers_and_booleans_keep_their_type():
    assert values.encode_array(np.array([1, -(1 << 62)])) == ["1", '{"int": "-4611686018427387904"}']
    assert values.encode_array(np.array([True, False])) == ["true", "false"]


@pytest.mark.parametrize("value", [{}, {"float": 1}, {"float": "x"}, {"a": "b"}, [1], None, {"int": "x"}])
def test_what_encode_did_not_write_comes_back_as_it_is(value):
    assert values.decode(value) == value


def test_small_learning_rates_are_plain_numbers_for_sql():
    assert values.encode(1e-5) == "1e-05"
    assert values.encode(3e-4) == "0.0003"


def test_objects_of_metrics_have_quoted_names():
    assert json.loads(values.to_object({'a"b': "1", "é": "true"})) == {'a"b': 1, "é": True}


def test_arguments_are_made_storable():
    given_ = {"a\0": [float("nan"), float("inf"), -float("inf"), "\ud800", 1e22, None, True], "n": {"x": 1}}
    told = json.loads(values.to_json(given_))
    assert told == {"a\ufffd": ["NaN", "Infinity", "-Infinity", "\ufffd", 1e22, None, True], "n": {"x": 1}}


def test_deep_nesting_ends_somewhere():
    deep: list = []
    for _ in range(900):
        deep = [deep]
    assert '"..."' in values.to_json(deep)
