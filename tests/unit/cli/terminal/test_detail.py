"""``hpctrack show``, where a terminal is narrow."""

from datetime import timedelta
from types import SimpleNamespace

import pytest

from hpctrack.cli.terminal import detail
from hpctrack.run.states import RunStatus
from hpctrack.store.metrics.curves import Bucket, Curve
from hpctrack.view import story


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("RUNNING", "not yet, running for 50"),
        ("SUSPENDED", "not yet, suspended after 50"),
        ("PENDING", "not yet, ran for 50"),
        ("REQUEUE_HOLD", "not yet, ran for 50"),
        ("PREEMPTED", "not yet, ran for 50"),
        ("COMPLETING", "not yet, ending after 50"),
    ],
)
def test_what_has_not_ended_runs_only_if_it_does(status, told):
    run = SimpleNamespace(
        status=RunStatus[status], time_ended=None, time_limit=None, elapsed=lambda now: timedelta(seconds=50)
    )
    said = story._ended(story.Subject(run, None))
    assert said.replace("0:", "").replace("00", "").startswith(told)
    assert ("again" in said) == (status in ("PENDING", "REQUEUE_HOLD", "PREEMPTED"))


def drawn(width):
    buckets = tuple(Bucket(step, 1, value, value) for step, value in enumerate((0.128, 0.9034, 0.25)))
    curve = Curve("a/rather/long/name/of/a/metric", "step", 3, 0, 0.128, 0.25, 0.128, 0.9034, buckets)
    measured = SimpleNamespace(run=SimpleNamespace(last={}), curves=[curve], losses=(0, 0, 0, 0))
    text = detail._metrics(measured, SimpleNamespace(width=width, unicode=True), width)
    return [line.rstrip() for line in text.plain.split("\n")]


@pytest.mark.parametrize("width", range(24, 100))
def test_a_number_is_shown_whole_or_not_at_all(width):
    header, line = drawn(width)
    shown = line.split()
    assert max(len(header), len(line)) <= width
    assert "0.25" in shown and set(shown[1:]) <= {"▁█▂", "▁█▁", "0.128", "0.25", "0.9034"}
