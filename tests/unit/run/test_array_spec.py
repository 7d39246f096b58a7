"""Array specifications become the tasks that Slurm makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.run import array_spec


@pytest.mark.parametrize(
    ("spec", "tasks"),
    [
        ("0", [0]),
        ("0-3", [0, 1, 2, 3]),
        ("0-15:4%2", [0, 4, 8, 12]),
        ("1,3,5-7", [1, 3, 5, 6, 7]),
        ("1,3%2", [1, 3]),
        ("5-7,1,6", [1, 5, 6, 7]),
        ("[1-5]%3", [1, 2, 3, 4, 5]),
        ("0-10:3", [0, 3, 6, 9]),
        ("7-7", [7]),
        ("1,,2", [1, 2]),
        ("4000000", [4000000]),
    ],
)
def test_specifications(spec, tasks):
    assert array_spec.expand(spec) == tasks


@pytest.mark.parametrize(
    "spec", ["", ",", "a", "1-", "-1", "3-1", "1-5:0", "1:2", "1-2-3", "4000001", "1 2", "٣"]
)
def test_what_slurm_refuses(spec):
    with pytest.raises(ValueError, match="array specification"):
        array_spec.expand(spec)


@given(st.sets(st.integers(0, 5000), min_size=1, max_size=300))
def test_any_set_of_tasks_comes_back(tasks):
    assert array_spec.expand(",".join(map(str, tasks)) + "%7") == sorted(tasks)
