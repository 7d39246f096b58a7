"""Columns put together from parts: which kind they are of, and what is missing."""

import math

import numpy as np
import pytest

from hpctrack.store.metrics import columnar
from hpctrack.store.metrics.columnar import Cells


def cells(values, present=None):
    return Cells(np.array(values), None if present is None else np.array(present))


def listed(found):
    return [
        value if there else None
        for value, there in zip(found.values.tolist(), columnar.mask(found).tolist(), strict=True)
    ]


def test_parts_of_a_column_stand_one_behind_the_other():
    column = columnar.joined([(2, cells([1.5, 2.5]), {}), (1, cells([3.5]), {})])
    assert (listed(column), column.present, column.values.dtype) == ([1.5, 2.5, 3.5], None, np.float64)


def test_values_beside_the_column_fill_its_gaps():
    column = columnar.joined([(3, cells([1.5, math.nan, math.nan], [True, False, False]), {2: 7})])
    assert (listed(column), column.values.dtype) == ([1.5, None, 7.0], np.float64)


def test_a_metric_without_a_column():
    column = columnar.joined([(3, None, {1: 4}), (2, None, {})])
    assert (listed(column), column.values.dtype) == ([None, 4, None, None, None], np.int64)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([True, False], np.bool_),
        ([1, 2], np.int64),
        ([True, 2], np.float64),
        ([1, 0.5], np.float64),
        (["a", "b"], object),
        (["a", 1], object),
        ([1 << 53, 0.5], np.float64),
        ([1 << 70, 0.5], object),
        ([1, [2, 3]], object),
    ],
)
def test_kinds_of_values(values, dtype):
    column = columnar.joined([(len(values), None, dict(enumerate(values)))])
    assert column.values.dtype == dtype
    assert column.values.tolist() == values


def test_a_column_of_integers_with_a_text_beside_keeps_both():
    column = columnar.joined([(2, cells([5, 0], [True, False]), {1: "none"})])
    assert column.values.tolist() == [5, "none"]


def test_a_column_without_any_value_keeps_its_type():
    column = columnar.joined([(2, cells([0, 0], [False, False]), {})])
    assert (listed(column), column.values.dtype) == ([None, None], np.int64)


def test_a_part_without_a_value_does_not_change_the_kind():
    parts = [(1, cells([0], [False]), {}), (1, None, {0: "word"})]
    assert columnar.joined(parts).values.tolist() == [None, "word"]


def test_nothing_at_all():
    assert len(columnar.joined([]).values) == 0
