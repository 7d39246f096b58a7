"""``hpctrack show``, where a terminal is narrow."""

from types import SimpleNamespace

import pytest

from hpctrack.cli import detail
from hpctrack.store.series import Bucket, Series


def drawn(width):
    buckets = tuple(Bucket(step, 1, value, value) for step, value in enumerate((0.128, 0.9034, 0.25)))
    series = Series("a/rather/long/name/of/a/metric", "step", 3, 0, 0.128, 0.25, 0.128, 0.9034, buckets)
    story = SimpleNamespace(run=SimpleNamespace(last={}), series=[series], losses=(0, 0, 0, 0))
    text = detail._metrics(story, SimpleNamespace(width=width, unicode=True), width)
    return [line.rstrip() for line in text.plain.split("\n")]


@pytest.mark.parametrize("width", range(24, 100))
def test_a_number_is_shown_whole_or_not_at_all(width):
    header, line = drawn(width)
    shown = line.split()
    assert max(len(header), len(line)) <= width
    assert "0.25" in shown and set(shown[1:]) <= {"▁█▂", "▁█▁", "0.128", "0.25", "0.9034"}
