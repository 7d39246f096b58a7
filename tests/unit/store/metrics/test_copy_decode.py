"""COPY BINARY to arrays: fixed sizes, NULLs, texts, times, rows of all lengths."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.store.metrics import copy_decode
from hpctrack.store.metrics.column_types import TEXT

CODES = {
    "float8": ">d",
    "float4": ">f",
    "int8": ">q",
    "int4": ">i",
    "int2": ">h",
    "bool": ">?",
    "timestamptz": ">q",
}
VALUES = {
    "float8": st.floats(),
    "float4": st.floats(width=32),
    "int8": st.integers(-(1 << 63), (1 << 63) - 1),
    "int4": st.integers(-(1 << 31), (1 << 31) - 1),
    "int2": st.integers(-(1 << 15), (1 << 15) - 1),
    "bool": st.booleans(),
    TEXT: st.text("aé€😀 \n"),
}


def packed(types, row):
    """Return a row as PostgreSQL writes it, field by field."""
    parts = [struct.pack(">h", len(types))]
    for type_, value in zip(types, row, strict=True):
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
            continue
        data = value.encode() if type_ == TEXT else struct.pack(CODES[type_], value)
        parts.append(struct.pack(">i", len(data)) + data)
    return b"".join(parts)


def decode(types, rows):
    lines = [packed(types, row) for row in rows]
    return copy_decode.decode(bytearray(b"".join(lines)), [len(line) for line in lines], types)


def listed(cells):
    """Return the values of a field, None for NULL."""
    present = [True] * len(cells.values) if cells.present is None else cells.present.tolist()
    return [value if there else None for value, there in zip(cells.values.tolist(), present, strict=True)]


@given(st.data())
def test_every_value_comes_back(data):
    types = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6))
    cell = [VALUES[type_] if data.draw(st.booleans()) else st.none() | VALUES[type_] for type_ in types]
    rows = data.draw(st.lists(st.tuples(*cell), min_size=1, max_size=20))
    found = [listed(cells) for cells in decode(types, rows)]
    # As text nan equals nan, and -0.0 is not 0.0.
    assert repr(list(zip(*found, strict=True))) == repr(rows)


def test_without_null_no_mask_is_made():
    (cells,) = decode(["int8"], [(1,), (2,)])
    assert cells.present is None
    assert cells.values.dtype == np.dtype("=i8")


def test_null_is_nan_among_floats_and_0_among_integers():
    floats, integers = decode(["float8", "int8"], [(None, None), (1.0, 2)])
    assert np.isnan(floats.values[0])
    assert integers.values.tolist() == [0, 2]
    assert integers.present.tolist() == [False, True]


@pytest.mark.parametrize(
    ("micros", "expected"),
    [
        (0, "2000-01-01"),
        (-946_684_800_000_000, "1970-01-01"),
        ((1 << 63) - 1, "NaT"),  # infinity
        (-(1 << 63), "NaT"),
        (9_223_371_331_199_999_999, "NaT"),  # the last that PostgreSQL has, in the year 294276
    ],
)
def test_times_count_from_2000_and_those_that_numpy_lacks_are_unknown(micros, expected):
    (cells,) = decode(["timestamptz"], [(micros,)])
    assert str(cells.values[0].astype("datetime64[D]")) == expected
